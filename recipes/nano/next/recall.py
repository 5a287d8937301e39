"""Step 2c: a decoder of four layers is given a way to name events by times.

What a head passes on of what it looks at is learnt late, half or never: a probe that learns and a
head that passes nothing on wait for each other, and 1,200 steps changed nothing. So all ways of a
time begin open. Watchers take their pair's from its pictures, in the directions that pictures hold
it in, by which the last layer reads it already. The added layer's heads that look at earlier events
pass on their times, in directions that nothing else uses; an answer's head that looks at the end it
has said passes on its time in the same; and the last layer's heads that match comings and goings
begin to compare these. Only the beginning is set, and learnt on.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.codes import ground_code
from recipes.nano.next.batch import Lesson
from recipes.nano.next.decoder import Watched, run
from recipes.nano.next.shape import HEAD_DIM, HEADS, HIDDEN, ROPE_THETA
from recipes.nano.next.sheet import NOTHING

READS, SAID, MATCHES = 1, 3, (2, 3)
"""The second layer's heads that take a pair's time from its pictures, and that of what was said
last; the last layer's heads that match a coming and a going."""
_NUMBERS = 44
"""Directions in which the time of an event is passed on: 0.94 of what pictures hold of it, and of
what a head of 64 takes, 0.98."""
_SHARE = 1 / 3
"""Of the size of all that a token knows: the time of one event."""
_COMPARED = 7.0
"""So the times of two events weigh in a match as much as the thing."""
_SLOW_RAD = 1.0
"""Over `_FAR` positions a number that turns less may be compared."""
_FAR = 40_000
_GROUND = 0.5
"""A picture's token that is so near to ground shows nothing."""


class Known(NamedTuple):
    """What tokens know behind the first layer, and how large that is, on average."""

    times: Tensor
    """(hidden, hidden) orthonormal columns: those along which tokens that show nothing differ most,
    so by their time, come first."""
    shown: float
    """Size of the first `_NUMBERS` of such a token, of √hidden in all."""
    said: float
    """The same of a token that has said a time."""
    watching: float
    """Size of a token that watches."""
    answering: float
    """Size of one that answers."""


@torch.no_grad()
def known_of(model: Qwen3VLForConditionalGeneration, lessons: list[Lesson]) -> Known:
    """Measured in lessons about spans."""
    shown, said, watching, answering = [], [], [], []
    for lesson in lessons:
        watched: list[Watched] = []
        state = run(model, lesson, watched)[0]
        gap = lesson.features - ground_code().to(lesson.features.device)
        shown.append(state[lesson.visual][gap.norm(dim=1) < _GROUND])
        for look in lesson.looks:
            row, column = look.wanted
            if (look.layer, look.head) == (1, READS):
                reads = torch.unique(row[lesson.visual[look.of[row], column]])
                watching.append(state[look.of[reads], look.at[reads]])
            if (look.layer, look.head) == (1, SAID):
                is_said = (column != NOTHING) & ~lesson.visual[look.of[row], look.at[row]]
                own = row[is_said]
                said.append(state[look.of[own], column[is_said]])
                answering.append(state[look.of[own], look.at[own]])
    seen = F.rms_norm(torch.cat(shown), (HIDDEN,))
    times = torch.linalg.svd((seen - seen.mean(0)).T @ (seen - seen.mean(0))).U
    kept = times[:, :_NUMBERS]
    spoken = F.rms_norm(torch.cat(said), (HIDDEN,))
    return Known(
        times,
        *[
            _size(own)
            for own in (seen @ kept, spoken @ kept, *map(torch.cat, (watching, answering)))
        ],
    )


def _size(rows: Tensor) -> float:
    return float(rows.norm(dim=1).mean())


def with_recall(text: dict[str, Tensor], known: Known) -> dict[str, Tensor]:
    """The same decoder with all ways open."""
    out = {name: part.clone() for name, part in text.items()}
    kept, free = known.times[:, :_NUMBERS], known.times[:, -_NUMBERS:]
    read = known.times[:, :HEAD_DIM]
    root = HIDDEN**0.5
    # As large beside a watcher's own as it is in a picture.
    copied = known.watching / root
    _set_values(out, 1, READS, read.T, copied * read)
    whole = known.watching * (1 + (known.shown / root) ** 2) ** 0.5
    share = copied * known.shown / whole * root
    for head in range(HEADS):
        _set_values(out, 2, head, kept.T, _SHARE * whole / share * free)
    _set_values(out, 1, SAID, kept.T, _SHARE * known.answering / known.said * free)
    slow = _slow_numbers()
    generator = torch.Generator().manual_seed(5)
    spread = torch.linalg.qr(torch.randn(_NUMBERS, len(slow), generator=generator)).Q.T
    for head in MATCHES:
        for part in ("q_proj", "k_proj"):
            weight = out[f"layers.3.self_attn.{part}.weight"]
            own = weight[head * HEAD_DIM : (head + 1) * HEAD_DIM]
            own[slow] += _COMPARED * spread.to(free.device) @ free.T / _gain(text, 3)
    return out


def _gain(text: dict[str, Tensor], layer: int) -> Tensor:
    """Of the norm before a layer's attention; divided by, so never next to nothing."""
    return text[f"layers.{layer}.input_layernorm.weight"].clamp_min(0.05)


def passed_on(text: dict[str, Tensor], layer: int, head: int) -> Tensor:
    """(hidden, hidden): what a head adds to what looks, of what is looked at; the norm's gain
    included."""
    at = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
    value = text[f"layers.{layer}.self_attn.v_proj.weight"][at]
    return text[f"layers.{layer}.self_attn.o_proj.weight"][:, at] @ value * _gain(text, layer)


def _set_values(
    out: dict[str, Tensor], layer: int, head: int, value: Tensor, written: Tensor
) -> None:
    """`value` of what is looked at, before the norm's gain. Both projections come to one size: a
    step moves all of them by as much, and the smaller one was scrambled in 1,500."""
    at = slice(head * HEAD_DIM, head * HEAD_DIM + len(value))
    rest = slice(head * HEAD_DIM + len(value), (head + 1) * HEAD_DIM)
    name = f"layers.{layer}.self_attn."
    value = value / _gain(out, layer)
    even = (written.norm() / value.norm()) ** 0.5
    out[name + "v_proj.weight"][at] = value * even
    out[name + "v_proj.weight"][rest] = 0
    out[name + "o_proj.weight"][:, at] = written / even
    out[name + "o_proj.weight"][:, rest] = 0


def _slow_numbers() -> list[int]:
    half = HEAD_DIM // 2
    turns = [ROPE_THETA ** -(i / half) * _FAR for i in range(half)]
    slow = [i for i in range(half) if turns[i] < _SLOW_RAD]
    return [*slow, *(i + half for i in slow)]
