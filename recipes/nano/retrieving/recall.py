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

from recipes.nano.retrieving.asked import CLOCK_SIZES
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.lessons import HEADS_OF
from recipes.nano.retrieving.sheet import CLOCK, NOTHING, THING
from recipes.nano.retrieving.span_lessons import HEAD_OF
from recipes.nano.shape import HEAD_DIM, HEADS, HIDDEN, slow_numbers

READS, SAID = 1, 3
"""The second layer's heads that take a pair's time from its pictures, and that of what was said
last."""
_READ, _KEPT = (20, 36, 8), (14, 24, 6)
"""Directions in which hundreds, units and tenths of a time are read from pictures, as many as a
head has numbers, and in which those of an event are passed on. Those in which pictures of different
times differ most, beside how those of one time do: in as many of their principal ones least squares
told 0.72 of the units instead of 0.95."""
_SHARE = 1 / 3
"""Of the size of all that a token knows: the time of one event."""
_COMPARED = 7.0
"""So the times of two events weigh in a match as much as the thing."""
_SLOW_RAD = 1.0
"""Over `_FAR` positions a number that turns less may be compared."""
_FAR = 40_000
_RIDGE = 1e-4


class Known(NamedTuple):
    """What tokens know behind the first layer, and how large that is, on average. Tokens count as
    if each were of size √hidden."""

    read: Tensor
    """(head_dim, hidden): a time, of what a picture's token knows."""
    written: Tensor
    """(hidden, head_dim): how pictures hold what is read."""
    kept: Tensor
    """(directions, hidden): that of an event."""
    free: Tensor
    """(hidden, directions) orthonormal columns, along which pictures hardly differ."""
    shown: float
    """Size of what is kept of a picture's token."""
    said: float
    """The same of a token that has said a time."""
    watching: float
    """Size of a token that watches."""
    answering: float
    """Size of one that answers."""


class _States(NamedTuple):
    """What tokens of lessons know behind the first layer, (tokens, hidden) each."""

    shown: Tensor
    """Pictures whose time is told."""
    clocks: Tensor
    """(tokens, pieces) that time, as `clock_classes`."""
    said: Tensor
    """Behind a time that was said."""
    nothing: Tensor
    watching: Tensor
    answering: Tensor


def known_of(model: Qwen3VLForConditionalGeneration, lessons: list[Lesson]) -> Known:
    """Measured in lessons about spans."""
    parts = zip(*[_states_of(model, lesson) for lesson in lessons], strict=True)
    states = _States(*[torch.cat(own) for own in parts])
    seen, spoken, nothing = (
        F.rms_norm(own, (HIDDEN,)) for own in (states.shown, states.said, states.nothing)
    )
    means = torch.stack([own.mean(0) for own in (seen, spoken, nothing)])
    seen = seen - means[0]
    effects, noise = effects_of(seen, states.clocks)
    # Nothing is read of what all of them hold.
    noise += means.T @ means
    read, kept = (told_apart(effects, noise, counts) for counts in (_READ, _KEPT))
    at = seen @ read.T
    written = torch.linalg.solve(at.T @ at + _ridge(at.T @ at), at.T @ sum(effects)).T
    free = torch.linalg.svd(seen.T @ seen).U[:, -len(kept) :]
    sized = (seen @ kept.T, spoken @ kept.T, states.watching, states.answering)
    return Known(read, written, kept, free, *[float(own.norm(dim=1).mean()) for own in sized])


@torch.no_grad()
def _states_of(model: Qwen3VLForConditionalGeneration, lesson: Lesson) -> _States:
    watched: list[Watched] = []
    state = run(model, lesson, watched)[0]
    told = lesson.knows[CLOCK]
    is_shown = lesson.visual[told.of, told.at]
    shown = state[told.of, told.at][is_shown]
    watching, said, answering = (state[:0, 0] for _ in range(3))
    for look in lesson.looks:
        row, column = look.wanted
        if (look.layer, look.head) == (1, READS):
            rows = torch.unique(row[lesson.visual[look.of[row], column]])
            watching = state[look.of[rows], look.at[rows]]
        if (look.layer, look.head) == (1, SAID):
            is_said = (column != NOTHING) & ~lesson.visual[look.of[row], look.at[row]]
            rows = row[is_said]
            said = state[look.of[rows], column[is_said]]
            answering = state[look.of[rows], look.at[rows]]
    clocks = told.classes[is_shown]
    return _States(shown, clocks, said, state[:, NOTHING], watching, answering)


def effects_of(seen: Tensor, clocks: Tensor) -> tuple[list[Tensor], Tensor]:
    """What the pieces of its time do to each token, (tokens, hidden) for each kind of piece, as if
    they did it one by one; and how tokens of one time differ, (hidden, hidden)."""
    parts = [F.one_hot(clocks[:, k], size).float() for k, size in enumerate(CLOCK_SIZES)]
    parts = [part - part.mean(0) for part in parts]
    pieces = torch.cat(parts, 1)
    both = pieces.T @ pieces
    fitted = torch.linalg.solve(both + torch.eye(len(both), device=both.device), pieces.T @ seen)
    effects = [part @ own for part, own in zip(parts, fitted.split(list(CLOCK_SIZES)), strict=True)]
    rest = seen - pieces @ fitted
    return effects, rest.T @ rest / len(rest)


def told_apart(effects: list[Tensor], noise: Tensor, counts: tuple[int, ...]) -> Tensor:
    """(directions, hidden): linear discriminants of each kind of piece, the strongest ones."""
    white = torch.linalg.inv(torch.linalg.cholesky(noise + _ridge(noise)))
    found = []
    for own, count in zip(effects, counts, strict=True):
        apart = own @ white.T
        found.append(torch.linalg.svd(apart.T @ apart).U[:, :count].T @ white)
    return torch.cat(found)


def _ridge(square: Tensor) -> Tensor:
    return _RIDGE * square.diagonal().mean() * torch.eye(len(square), device=square.device)


def with_recall(text: dict[str, Tensor], known: Known) -> dict[str, Tensor]:
    """The same decoder with all ways open."""
    out = {name: part.clone() for name, part in text.items()}
    root = HIDDEN**0.5
    # As large beside a watcher's own as it is in a picture.
    copied = known.watching / root
    _set_values(out, 1, READS, known.read, copied * known.written)
    for head in range(HEADS):
        _set_values(out, 2, head, known.kept, _SHARE * known.watching / known.shown * known.free)
    said = _SHARE * known.answering / known.said * known.free
    _set_values(out, 1, SAID, known.kept, said)
    slow = slow_numbers(_FAR, _SLOW_RAD)
    generator = torch.Generator().manual_seed(5)
    spread = torch.randn(len(known.kept), len(slow), generator=generator)
    spread = torch.linalg.qr(spread).Q.T.to(known.free.device)
    (thing,) = HEADS_OF[THING]
    for part in ("q_proj", "k_proj"):
        name = f"layers.3.self_attn.{part}.weight"
        for head in HEAD_OF.values():
            own = out[name][head * HEAD_DIM : (head + 1) * HEAD_DIM]
            own += text[name][thing * HEAD_DIM : (thing + 1) * HEAD_DIM]
            own[slow] += _COMPARED * spread @ known.free.T / _gain(text, 3)
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
