"""Keys and values as they lie in memory: two layouts, three dtypes.

`rows`: (kv heads, tokens, dim), what libraries read. `pairs`: what the fused kernel reads; the two
numbers that one of its instructions multiplies lie together, and blocks of 64 tokens are whole:

    keys (kv heads, blocks, dim/2, 64, 2)        values (kv heads, tokens/2, dim, 2)

Either holds numbers, or int8 codes with a scale per (block of 64 tokens, dimension) for keys and
per token for values: keys have channels that are large in every token, values have not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from schemas.ports import KV_BLOCK_TOKENS

Layout = Literal["rows", "pairs"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens of one layer."""

    layout: Layout
    keys: Tensor
    values: Tensor
    count: int
    """Tokens; the memory behind them may be longer."""
    key_scales: Tensor | None = None
    """(kv heads, blocks, dim) bfloat16."""
    value_scales: Tensor | None = None
    """(kv heads, tokens) bfloat16."""

    @property
    def kv_heads(self) -> int:
        return self.keys.shape[0]

    def plain(self, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens [start, stop), each (kv heads, tokens, dim), in `dtype`."""
        keys = take(key_blocks(self.layout, self.keys), start, stop)
        values = take(value_blocks(self.layout, self.values), start, stop)
        if self.key_scales is None or self.value_scales is None:
            return keys.to(dtype), values.to(dtype)
        at = torch.arange(start, stop, device=keys.device) // KV_BLOCK_TOKENS
        keys = keys.float() * self.key_scales[:, at].float()
        values = values.float() * self.value_scales[:, start:stop, None].float()
        return keys.to(dtype), values.to(dtype)


@dataclass(frozen=True, slots=True)
class View:
    """Query tokens [start, stop) look at one segment."""

    start: int
    stop: int
    segment: Segment
    limit: int | None = None
    """Keys that the first of them sees, each later one a key more; None: all of them."""

    def rows(self, group: int) -> slice:
        """The same in query rows, of which a token has `group`, side by side."""
        return slice(self.start * group, self.stop * group)


def reserve(
    layout: Layout,
    heads: int,
    capacity: int,
    dim: int,
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Memory for the keys and values of `capacity` tokens, whole blocks; nothing is written."""
    blocks = -(-capacity // KV_BLOCK_TOKENS)
    tokens = blocks * KV_BLOCK_TOKENS
    if layout == "rows":
        shapes = [(heads, tokens, dim)] * 2
    else:
        shapes = [(heads, blocks, dim // 2, KV_BLOCK_TOKENS, 2), (heads, tokens // 2, dim, 2)]  # type: ignore[list-item]
    keys, values = (torch.empty(shape, dtype=dtype, device=device) for shape in shapes)
    return keys, values


def lay_out(layout: Layout, keys: Tensor, values: Tensor) -> Segment:
    """Keys and values (kv heads, n, dim) as a segment of their own."""
    heads, count, dim = keys.shape
    kind = {"dtype": keys.dtype, "device": keys.device}
    own_keys, own_values = reserve(layout, heads, count, dim, **kind)  # type: ignore[arg-type]
    clear_behind(layout, own_values, count)
    put(key_blocks(layout, own_keys), 0, keys)
    put(value_blocks(layout, own_values), 0, values)
    return Segment(layout, own_keys, own_values, count)


def clear_behind(layout: Layout, values: Tensor, stop: int) -> None:
    """Make numbers of what lies behind `stop` in its block, before token `stop` - 1 is written.

    The kernel multiplies whole blocks of values by weights that are zero behind the last token.
    """
    if layout == "pairs":
        end = -(-stop // KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS
        values[:, stop // 2 : end // 2] = 0


def key_blocks(layout: Layout, keys: Tensor) -> Tensor:
    """The memory of keys as (kv heads, blocks, tokens of a block, …)."""
    return _by_block(keys) if layout == "rows" else keys.transpose(2, 3)


def value_blocks(layout: Layout, values: Tensor) -> Tensor:
    """The memory of values as (kv heads, blocks, tokens of a block, …)."""
    # In pairs a block of its own is two tokens.
    return _by_block(values) if layout == "rows" else values.transpose(2, 3)


def _by_block(tokens: Tensor) -> Tensor:
    heads, count, dim = tokens.shape
    return tokens.view(heads, count // KV_BLOCK_TOKENS, KV_BLOCK_TOKENS, dim)


def put(blocks: Tensor, start: int, tokens: Tensor) -> None:
    """Write tokens (kv heads, n, dim) from token `start` on."""
    size, inner = blocks.shape[2], blocks.shape[3:]
    for first, stop in _cuts(start, start + tokens.shape[1], size):
        block, slot = divmod(first, size)
        new = tokens[:, first - start : stop - start]
        if stop - first < size:
            target = blocks[:, block, slot : slot + stop - first]
        else:
            target = blocks[:, block : stop // size]
        target.copy_(new.reshape(*target.shape[: target.ndim - len(inner)], *inner))


def take(blocks: Tensor, start: int, stop: int) -> Tensor:
    """Tokens [start, stop) as (kv heads, n, dim); a copy but where they lie in rows."""
    size = blocks.shape[2]
    first, last = start // size, -(-stop // size)
    tokens = blocks[:, first:last].flatten(1, 2).flatten(2)
    return tokens[:, start - first * size : stop - first * size]


def _cuts(start: int, stop: int, size: int) -> Iterator[tuple[int, int]]:
    """[start, stop) as what lies in one block, whole blocks, and the rest."""
    inner, outer = -(-start // size) * size, stop // size * size
    if inner >= outer:
        yield from (
            pair for pair in ((start, min(inner, stop)), (max(start, inner), stop)) if _full(pair)
        )
        return
    yield from (pair for pair in ((start, inner), (inner, outer), (outer, stop)) if _full(pair))


def _full(pair: tuple[int, int]) -> bool:
    return pair[0] < pair[1]
