"""Step 2: how far tokens are from knowing what they are told."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.lettering import ALPHABET, CODE_LENGTH
from recipes.nano.codes import CLASSES, CODE_NORM, class_codes
from recipes.nano.retrieving.asked import CLOCK_SIZES
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.decoder import Watched
from recipes.nano.retrieving.sheet import (
    CHANGED,
    CLOCK,
    COMING,
    EARLIER,
    GOING,
    LETTERS,
    NAMED,
    NEXT_COMING,
    NEXT_GOING,
    SEEN,
    THING,
)
from recipes.nano.shape import HEADS, HIDDEN

STATE_OF = {NAMED: 0, SEEN: 0, LETTERS: 1, CLOCK: 1, THING: 1, CHANGED: 1}
STATE_OF |= dict.fromkeys((COMING, GOING, NEXT_COMING, NEXT_GOING), 2)
"""The layer behind which a token should know it; EARLIER once it has looked in the second."""
EVEN = (SEEN, EARLIER)
"""Known as strongly whatever else is: what changes is the difference of the two."""
SAME = {NEXT_COMING: COMING, NEXT_GOING: GOING}
"""Known in the same form, so that one can be matched with the other."""


class Probes(nn.Module):
    """What tokens should know before the last layer; pictures and questions are asked alike, so
    that what they know can be matched.

    A thing is asked for in the direction of the vector that the tower writes for it. A probe that
    learns is content with things that lie close together, and matching them stays at a saddle: ten
    of 36 were one for 12,000 steps.
    """

    def __init__(self, *, with_spans: bool = False) -> None:
        super().__init__()
        sizes = {LETTERS: [len(ALPHABET)] * CODE_LENGTH, CLOCK: list(CLOCK_SIZES)}
        if with_spans:
            sizes |= {COMING: [sum(CLOCK_SIZES)], GOING: [sum(CLOCK_SIZES)]}
            seen = [len(CLASSES) + HEADS]
            sizes |= {SEEN: seen, EARLIER: seen, CHANGED: [2 * len(CLASSES)]}
        self.heads = nn.ModuleDict(
            {
                str(what): nn.ModuleList(
                    _probe(n, is_set=len(own) == 1 and what not in EVEN) for n in own
                )
                for what, own in sizes.items()
            }
        )
        self.register_buffer("names", class_codes() / CODE_NORM, persistent=False)

    def losses(
        self, states: list[Tensor], watched: list[Watched], lesson: Lesson
    ) -> dict[str, Tensor]:
        """From the hidden states (B, N, hidden) after each layer."""
        out = {}
        for what, knows in lesson.knows.items():
            state = watched[1].mixed if what == EARLIER else states[STATE_OF[what]]
            own = state[knows.of, knows.at].float()
            out[f"know{what}"] = self._loss(what, own, knows.classes)
        return out

    def _loss(self, what: int, own: Tensor, classes: Tensor) -> Tensor:
        if what in (THING, NAMED):
            scores = F.rms_norm(own, (HIDDEN,)) @ self.names.T  # type: ignore[operator]
            return F.cross_entropy(scores, classes[:, 0])
        heads = list(self.heads[str(SAME.get(what, what))].children())
        if what not in (LETTERS, CLOCK):
            own = F.rms_norm(own, (HIDDEN,))
        if what in EVEN:
            apart: Tensor = (heads[0](own) - classes).square().sum(-1).mean()
            return apart
        if len(heads) == 1:
            return _set_loss(heads[0](own), classes.float())
        parts = [F.cross_entropy(head(own), classes[:, k]) for k, head in enumerate(heads)]
        return torch.stack(parts).sum()


def _probe(classes: int, *, is_set: bool) -> nn.Linear:
    """Of a set hardly any class is a member, and it begins by saying so."""
    probe = nn.Linear(HIDDEN, classes)
    if is_set:
        nn.init.constant_(probe.bias, -4.0)
    return probe


def _set_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()
