"""Step 2b: heads that are told what their queries and keys hold: how far they are from it, and how
their layers begin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.nano.retrieving import befores, gathers, links
from recipes.nano.retrieving.batch import ENDED, Held, Lesson
from recipes.nano.retrieving.decoder import Watched
from recipes.nano.shape import HEAD_DIM, HEADS, LAYERS

GAINS = {own.LAYER: own.GAIN for own in (gathers, befores, links)}
_TOLD_HEADS = {gathers.LAYER: range(HEADS), befores.LAYER: befores.HEADS}
"""Of layers whose heads have other tasks in other tokens."""
SCORED = {links.LAYER: 6.0}
"""Times that numbers count by which a layer scores, where not all count alike: the others only make
a vector longer, and the last of a thing's events is told from another by a few hundredths."""
_RIDGE = 1e-4
_OTHER = 2
"""Kind of a token that is told nothing, beside those told of none (0) and of a thing (1)."""
_LESS = 10
"""Times that others count less."""
_Rows = tuple[Tensor, Tensor, Tensor]
"""What is projected, what it should be, and the kind of each row."""


def held_losses(watched: list[Watched], lesson: Lesson) -> dict[str, Tensor]:
    """Squared distances of queries and keys to what they are told to hold, both of length 1: the
    mean of those with a thing and that of the others, which are many, count alike."""
    losses = {}
    for one in lesson.held:
        layer = watched[one.layer]
        own = (layer.still_k if one.is_key else layer.still_q)[one.of, one.head, one.at]
        held = wanted(one)
        apart = (F.normalize(own.float(), dim=-1) - held).square()
        apart = (apart * torch.where(held == 0, 1.0, SCORED.get(one.layer, 1.0))).sum(-1)
        is_thing = is_about_things(one).float()
        parts = [(apart * w).sum() / w.sum().clamp_min(1) for w in (is_thing, 1 - is_thing)]
        losses[f"{'key' if one.is_key else 'ask'}{one.layer}{one.head}"] = parts[0] + parts[1]
    return losses


def wanted(one: Held) -> Tensor:
    """(rows, HEAD_DIM) of length 1: what these queries or keys are told to hold."""
    return _WANTED[one.layer](one.told, is_key=one.is_key)


def is_about_things(one: Held) -> Tensor:
    """(rows,) bool: about things, or about pairs that show them."""
    return one.told[:, : _NOTHING_AT[one.layer]].abs().amax(1) > 0


_WANTED = {
    gathers.LAYER: gathers.wanted,
    befores.LAYER: befores.wanted,
    links.LAYER: links.wanted,
}
_NOTHING_AT = {
    gathers.LAYER: None,
    befores.LAYER: befores.NOTHING_AT,
    links.LAYER: links.NOTHING_AT,
}


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
