"""Step 2b: layers whose heads are told what their queries and keys hold begin with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.nano.next import befores, gathers, links
from recipes.nano.next.batch import ENDED, Held, Lesson
from recipes.nano.next.decoder import is_about_things, wanted
from recipes.nano.next.shape import HEAD_DIM, HEADS, LAYERS

GAINS = {own.LAYER: own.GAIN for own in (gathers, befores, links)}
_TOLD_HEADS = {gathers.LAYER: range(HEADS), befores.LAYER: befores.HEADS}
"""Of layers whose heads have other tasks in other tokens."""
_RIDGE = 1e-4
_OTHER = 2
"""Kind of a token that is told nothing, beside those told of none (0) and of a thing (1)."""
_LESS = 10
"""Times that others count less."""
_Rows = tuple[Tensor, Tensor, Tensor]
"""What is projected, what it should be, and the kind of each row."""


def hold_gains(layers: nn.ModuleList) -> None:
    """Keep the gains of queries and keys of these layers alike in all numbers, and their
    projections as what they project to points now."""
    if len(layers) == LAYERS:
        return
    for number, held in GAINS.items():
        for part in "qk":
            gain = layers[number].get_parameter(f"self_attn.{part}_norm.weight")
            projection = layers[number].get_parameter(f"self_attn.{part}_proj.weight")
            with torch.no_grad():
                projection.view(-1, HEAD_DIM, projection.shape[1]).mul_(gain[:, None] / gain.mean())
            nn.init.constant_(gain, held)
            gain.requires_grad_(False)


def open_layer(layers: nn.ModuleList, number: int, lessons: list[tuple[Tensor, Lesson]]) -> None:
    """Begin with what projections of a layer can tell already of what they project, (B, N, hidden)
    of each lesson, by least squares: tokens that are told of a thing and those that are told of
    none count alike.

    In the first two, whose heads have other tasks in other tokens, these go on to hold what they
    do, and count a little.
    """
    for is_key, name in ((False, "q_proj"), (True, "k_proj")):
        projection = layers[number].get_parameter(f"self_attn.{name}.weight")
        parts: dict[int, list[_Rows]] = {}
        for known, lesson in lessons:
            told = [one for one in lesson.held if (one.layer, one.is_key) == (number, is_key)]
            for one in told:
                own = known[one.of, one.at]
                parts.setdefault(one.head, []).append(
                    (own, wanted(one), is_about_things(one).long())
                )
            if number in _TOLD_HEADS:
                own = known[_others(lesson, told, but_pictures=is_key and number == gathers.LAYER)]
                now = F.normalize((own @ projection.T).view(len(own), -1, HEAD_DIM), dim=-1)
                if is_key and number == befores.LAYER:
                    now = befores.turned_away(now)
                ones = torch.full((len(own),), _OTHER, device=own.device)
                for head in _TOLD_HEADS[number]:
                    parts.setdefault(head, []).append((own, now[:, head], ones))
        for head, rows in parts.items():
            inputs, wishes, kinds = (torch.cat(part) for part in zip(*rows, strict=True))
            own_rows = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
            projection[own_rows] = _fitted(inputs, wishes * HEAD_DIM**0.5, kinds)


def _others(lesson: Lesson, told: list[Held], *, but_pictures: bool) -> Tensor:
    """(B, N) bool: tokens that are told nothing. In the first layer pictures' keys are told, but
    for those that show a thing in part."""
    others = lesson.bias.owner > ENDED
    for one in told:
        others[one.of, one.at] = False
    return others & ~lesson.visual if but_pictures else others


def _fitted(inputs: Tensor, wishes: Tensor, kinds: Tensor) -> Tensor:
    """(outputs, inputs) of a projection; rows of each kind count as much as all of another."""
    counts = kinds.bincount(minlength=_OTHER + 1).clamp_min(1)
    counts[_OTHER] *= _LESS
    weights = (1 / counts)[kinds][:, None]
    both = inputs.T @ (weights * inputs)
    both += _RIDGE * torch.eye(len(both), device=both.device)
    found: Tensor = torch.linalg.solve(both, inputs.T @ (weights * wishes)).T
    return found
