"""Step 2e: a decoder of four layers is given a way to name events by times.

What a head passes on of what it looks at is learnt late or never: a probe that learns and a head
that passes nothing on wait for each other, and 1,200 steps changed nothing. So both ways begin
open. The added layer's heads that look at earlier events pass on their times, in numbers that
nothing else uses; an answer's head that looks at the end it has said passes on its time in the same
numbers; and the last layer's heads that match comings and goings begin to compare these. Only the
beginning is set, and learnt on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.nano.next.shape import HEAD_DIM, HEADS, HIDDEN, ROPE_THETA

CLOCK_HEADS = {"units": 1, "hundreds": 2, "tenths": 3}
"""The first layer's heads that bring the pieces of a pair's time to its pictures, and of a said end
to the token behind it."""
READS, SAID, MATCHES = 1, 3, (2, 3)
"""The second layer's heads that take a pair's time from its pictures, and that of what was said
last; the last layer's heads that match a coming and a going."""
_NUMBERS = {"units": 24, "hundreds": 14, "tenths": 6}
"""Directions kept of each piece."""
_WRITTEN, _OF_WATCHERS, _OF_SAID, _COMPARED = 20.0, 8.75, 0.25, 7.0
"""Measured in the decoder that this follows: so large that the time of one event is a third of the
size of all that a token knows, and weighs in a match as much as the thing."""
_SLOW_RAD = 1.0
"""Over `_FAR` positions a number that turns less may be compared."""
_FAR = 40_000


def with_recall(text: dict[str, Tensor], pieces: Tensor) -> dict[str, Tensor]:
    """The same decoder with both ways open; `pieces` are the ids of the numbers below 100."""
    out = {name: part.clone() for name, part in text.items()}
    read = passed_on(text, 1, READS)
    times = _times(text, pieces)
    seen = read @ times
    basis = torch.linalg.svd(seen, full_matrices=True).U
    count = sum(_NUMBERS.values())
    kept, free = basis[:, :count], basis[:, -count:]
    value = _OF_WATCHERS * kept.T / _gain(text, 2)
    for head in range(HEADS):
        _set_values(out, 2, head, value, _WRITTEN * free)
    _set_values(out, 1, SAID, _OF_SAID * kept.T @ (read / _gain(text, 1)), _WRITTEN * free)
    slow = _slow_numbers()
    generator = torch.Generator().manual_seed(5)
    spread = torch.linalg.qr(torch.randn(count, len(slow), generator=generator)).Q.T
    for head in MATCHES:
        for part in ("q_proj", "k_proj"):
            weight = out[f"layers.3.self_attn.{part}.weight"]
            own = weight[head * HEAD_DIM : (head + 1) * HEAD_DIM]
            own[slow] += _COMPARED * spread @ free.T / _gain(text, 3)
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


def _times(text: dict[str, Tensor], pieces: Tensor) -> Tensor:
    """(hidden, directions): how the first layer writes pieces of times; the strongest ones."""
    embedded = torch.nn.functional.rms_norm(text["embed_tokens.weight"][pieces], (HIDDEN,))
    parts = []
    for name, head in CLOCK_HEADS.items():
        written = passed_on(text, 0, head) @ embedded.T
        written = written - written.mean(1, keepdim=True)
        left, sizes, _ = torch.linalg.svd(written)
        number = _NUMBERS[name]
        parts.append(left[:, :number] * sizes[:number])
    return torch.cat(parts, 1)


def _set_values(
    out: dict[str, Tensor], layer: int, head: int, value: Tensor, written: Tensor
) -> None:
    at = slice(head * HEAD_DIM, head * HEAD_DIM + len(value))
    rest = slice(head * HEAD_DIM + len(value), (head + 1) * HEAD_DIM)
    name = f"layers.{layer}.self_attn."
    out[name + "v_proj.weight"][at], out[name + "v_proj.weight"][rest] = value, 0
    out[name + "o_proj.weight"][:, at], out[name + "o_proj.weight"][:, rest] = written, 0


def _slow_numbers() -> list[int]:
    half = HEAD_DIM // 2
    turns = [ROPE_THETA ** -(i / half) * _FAR for i in range(half)]
    slow = [i for i in range(half) if turns[i] < _SLOW_RAD]
    return [*slow, *(i + half for i in slow)]
