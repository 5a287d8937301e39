"""Step 2e: a decoder of four layers is given a way to name events by times, and to see evenly.

What a head passes on of what it looks at is learnt late or never: a probe that learns and a head
that passes nothing on wait for each other, and 1,200 steps changed nothing. So both ways begin
open. The added layer's heads that look at earlier goings pass on their times, in numbers that
nothing else uses; an answer's head that looks at the end it has said passes on its time in the same
numbers; and the last layer's heads that match comings and goings begin to compare these. Only the
beginning is set, and learnt on, but for how a head prefers what is near.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recipes.nano.next.shape import HEAD_DIM, HIDDEN, ROPE_THETA

CLOCK_HEADS = {"units": 1, "hundreds": 2, "tenths": 3}
"""The first layer's heads that bring the pieces of a pair's time to its pictures, and of a said end
to the token behind it."""
READS, SAID, MATCHES = 1, 3, (2, 3)
"""The second layer's heads that take a pair's time from its pictures, and that of what was said
last; the last layer's heads that match a coming and a going."""
_FASTEST = 3
"""Numbers of a head that turn by a radian or more over a frame of 12 × 12 tokens."""
_NUMBERS = {"units": 24, "hundreds": 14, "tenths": 6}
"""Directions kept of each piece."""
_WRITTEN, _OF_WATCHERS, _OF_SAID, _COMPARED = 20.0, 8.75, 0.25, 7.0
"""Measured in the decoder that this follows: so large that the time of one event is a third of the
size of all that a token knows, and weighs in a match as much as the thing."""
_COSINES = {6: (0.19, 0.34), 7: (0.26, 0.63), 8: (0.34, 0.73), 9: (0.54, 0.44), 10: (0.36, 0.96)}
"""Numbers of a head, and of each its size beside that of all else, and its phase. Fitted to five
earlier events at random places of 400 to 24,000 positions: with scores that are 0.8 off, the last
one's is 4.5 higher than any other's in half of the cases, and 1.1 in nine of ten."""
_LOUD = 3.0
"""Gains of queries and keys, with which these cosines are 28 of a head's scores and all else 44."""
_HELD = ("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")
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
    for head in (0, 1):
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


def with_recency(text: dict[str, Tensor], watchers: Tensor) -> dict[str, Tensor]:
    """The same decoder whose heads that look at earlier events prefer the last of them: a sum of
    cosines of the distance, in numbers that they use little. `watchers`: (tokens, hidden), what
    tokens that watch pairs know behind the second layer; all of them have in common what the
    cosines are written in.
    """
    out = {name: part.clone() for name, part in text.items()}
    before = _gain(text, 2) * torch.nn.functional.rms_norm(watchers, (HIDDEN,))
    one = torch.linalg.lstsq(before, torch.ones(len(before), 1)).solution[:, 0]
    numbers = _recent_numbers()
    sizes, phases = torch.tensor(list(_COSINES.values())).T
    turned = torch.cat([sizes * phases.cos(), sizes * phases.sin()])
    still = torch.cat([sizes, torch.zeros_like(sizes)])
    for part, written in (("q", turned), ("k", still)):
        gains = out[f"layers.2.self_attn.{part}_norm.weight"]
        weight = out[f"layers.2.self_attn.{part}_proj.weight"].view(-1, HEAD_DIM, HIDDEN)
        gains *= _LOUD / gains[_slow_numbers()].mean()
        weight[:, numbers] *= (gains[numbers] / _LOUD)[:, None]
        weight[:2, numbers] = 0
        all_else = (weight[:2] @ before.T).norm(dim=1).mean()
        weight[:2, numbers] = all_else * written[:, None] * one
        gains[numbers] = _LOUD
    return out


def with_even_gather(
    text: dict[str, Tensor], watchers: list[int], shown: Tensor
) -> dict[str, Tensor]:
    """The same decoder whose watching tokens see a thing alike wherever in the frame it is: their
    queries of the first layer's first head lose the numbers that turn over a frame. `watchers`:
    their ids; `shown`: (n, hidden) what pictures' tokens may hold, whose queries stay.
    """
    out = {name: part.clone() for name, part in text.items()}
    everything = torch.cat([text["embed_tokens.weight"], shown])
    inputs = torch.nn.functional.rms_norm(everything, (HIDDEN,)) * _gain(text, 0)
    weight = out["layers.0.self_attn.q_proj.weight"][:HEAD_DIM]
    fast = [*range(_FASTEST), *range(HEAD_DIM // 2, HEAD_DIM // 2 + _FASTEST)]
    for token in watchers:
        query = weight @ inputs[token]
        slower = query.clone()
        slower[fast] = 0
        slower *= query.norm() / slower.norm()
        weight += torch.outer(slower - query, _only(inputs, token))
    return out


def _only(inputs: Tensor, row: int) -> Tensor:
    """(hidden,) nearly 1 along one of `inputs` and as near to 0 as may be along the others."""
    counts = torch.ones(len(inputs))
    counts[row] = 200
    both = (inputs * counts[:, None]).T @ inputs + 0.01 * torch.eye(HIDDEN)
    only: Tensor = torch.linalg.solve(both, counts[row] * inputs[row])
    return only


def hold_recency(text: nn.Module) -> None:
    """Keep what `with_recency` writes as it is: pulled at by all else, 28 of the scores became 5 in
    3,000 steps."""
    numbers = _recent_numbers()
    rows = [head * HEAD_DIM + number for head in (0, 1) for number in numbers]
    for name, weight in text.named_parameters():
        if name.startswith("layers.2.self_attn.") and name.endswith(_HELD):
            mask = torch.ones(len(weight), *[1] * (weight.ndim - 1), device=weight.device)
            mask[numbers if weight.ndim == 1 else rows] = 0
            weight.register_hook(lambda gradient, mask=mask: gradient * mask)


def _recent_numbers() -> list[int]:
    return [*_COSINES, *(i + HEAD_DIM // 2 for i in _COSINES)]


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
