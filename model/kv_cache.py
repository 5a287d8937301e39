"""The KV cache: preallocated blocks, never copied, forkable, trimmable.

A session owns one `KvCache`. A question forks it: it reads the session's keys and values as a
shared prefix and owns only its suffix, so that no answer disturbs another or the video.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model import fused
from model.quantise import quantise_keys, quantise_values
from model.segments import (
    Layout,
    Segment,
    clear_behind,
    key_blocks,
    put,
    reserve,
    value_blocks,
)
from model.spec import TextSpec
from schemas.errors import InvariantError
from schemas.ports import KV_BLOCK_TOKENS


@dataclass(frozen=True, slots=True)
class CacheForm:
    """How a session's caches are kept."""

    spec: TextSpec
    dtype: torch.dtype
    """What is kept: the compute dtype, a narrower one, or int8 codes."""
    compute_dtype: torch.dtype
    devices: tuple[torch.device, ...]
    """One per layer."""

    @property
    def layout(self) -> Layout:
        """Pairs where the fused kernel reads them, rows elsewhere."""
        kept = self.dtype in (torch.bfloat16, torch.int8)
        here = self.compute_dtype is torch.bfloat16 and fused.takes(self.spec.head_dim)
        on_cpu = all(device.type == "cpu" for device in self.devices)
        return "pairs" if kept and here and on_cpu else "rows"


class _Numbers:
    """Keys and values of one layer as they are."""

    def __init__(self, form: CacheForm, layer: int, capacity: int, dtype: torch.dtype) -> None:
        spec, self.layout = form.spec, form.layout
        self._dim = spec.head_dim
        self.keys, self.values = reserve(
            self.layout,
            spec.kv_heads,
            capacity,
            spec.head_dim,
            dtype=dtype,
            device=form.devices[layer],
        )

    def write(self, start: int, keys: Tensor, values: Tensor) -> None:
        stop = start + keys.shape[1]
        if (stop - 1) // KV_BLOCK_TOKENS != (start - 1) // KV_BLOCK_TOKENS:
            clear_behind(self.layout, self.values, stop)
        put(key_blocks(self.layout, self.keys), start, keys)
        put(value_blocks(self.layout, self.values), start, values)

    def segments(self, stop: int) -> list[Segment]:
        return [Segment(self.layout, self.keys, self.values, stop)] if stop else []

    def trim(self, stop: int) -> None:
        """What lies behind is written over."""

    def tensors(self, stop: int) -> dict[str, Tensor]:
        """The used memory, whole blocks, by name: what a snapshot writes and reads back. What lies
        behind the last token is cleared."""
        blocks = -(-stop // KV_BLOCK_TOKENS)
        if behind := blocks * KV_BLOCK_TOKENS - stop:
            nothing = self.values.new_zeros((len(self.values), behind, self._dim))
            put(key_blocks(self.layout, self.keys), stop, nothing)
            put(value_blocks(self.layout, self.values), stop, nothing)
        per_block = {"rows": (KV_BLOCK_TOKENS, KV_BLOCK_TOKENS), "pairs": (1, KV_BLOCK_TOKENS // 2)}
        of_keys, of_values = per_block[self.layout]
        return {
            "keys": self.keys[:, : blocks * of_keys],
            "values": self.values[:, : blocks * of_values],
        }

    def num_bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


class _Codes:
    """Keys and values of one layer as int8; the block that is not full yet as numbers."""

    def __init__(self, form: CacheForm, layer: int, capacity: int) -> None:
        self._whole = _Numbers(form, layer, capacity, torch.int8)
        self._tail = _Numbers(form, layer, KV_BLOCK_TOKENS, form.compute_dtype)
        self._dtype = form.compute_dtype
        spec, device = form.spec, form.devices[layer]
        blocks = -(-capacity // KV_BLOCK_TOKENS)
        shapes = (spec.kv_heads, blocks, spec.head_dim), (spec.kv_heads, blocks * KV_BLOCK_TOKENS)
        self._key_scales, self._value_scales = (
            torch.empty(shape, dtype=torch.bfloat16, device=device) for shape in shapes
        )
        self._whole_tokens, self._num_tail = 0, 0

    def write(self, start: int, keys: Tensor, values: Tensor) -> None:
        if self._num_tail:
            (tail,) = self._tail.segments(self._num_tail)
            old_keys, old_values = tail.plain(0, self._num_tail, self._dtype)
            keys, values = torch.cat([old_keys, keys], 1), torch.cat([old_values, values], 1)
        first = start - self._num_tail
        whole = keys.shape[1] // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
        if whole:
            block = first // KV_BLOCK_TOKENS
            key_codes, key_scales = quantise_keys(keys[:, :whole])
            value_codes, value_scales = quantise_values(values[:, :whole])
            self._whole.write(first, key_codes, value_codes)
            self._key_scales[:, block : block + whole // KV_BLOCK_TOKENS] = key_scales
            self._value_scales[:, first : first + whole] = value_scales
        self._whole_tokens, self._num_tail = first + whole, keys.shape[1] - whole
        if self._num_tail:
            self._tail.write(0, keys[:, whole:], values[:, whole:])

    def segments(self, stop: int) -> list[Segment]:  # noqa: ARG002 - all that was written
        return self._codes(self._whole_tokens) + self._tail.segments(self._num_tail)

    def _codes(self, stop: int) -> list[Segment]:
        return [
            replace(s, key_scales=self._key_scales, value_scales=self._value_scales)
            for s in self._whole.segments(stop)
        ]

    def trim(self, stop: int) -> None:
        """Tokens of a block that is no longer whole become numbers again."""
        whole = self._whole_tokens
        self._num_tail = stop - whole if stop >= whole else stop % KV_BLOCK_TOKENS
        if stop < whole and self._num_tail:
            (codes,) = self._codes(whole)
            self._tail.write(0, *codes.plain(stop - self._num_tail, stop, self._dtype))
        self._whole_tokens = stop - self._num_tail

    def tensors(self, stop: int) -> dict[str, Tensor]:
        """The used memory by name; the tail's names begin with `tail_`."""
        self._num_tail = stop % KV_BLOCK_TOKENS
        self._whole_tokens = stop - self._num_tail
        tail = self._tail.tensors(self._num_tail)
        return {
            **self._whole.tensors(self._whole_tokens),
            "key_scales": self._key_scales[:, : self._whole_tokens // KV_BLOCK_TOKENS],
            "value_scales": self._value_scales[:, : self._whole_tokens],
            **{f"tail_{name}": tensor for name, tensor in tail.items()},
        }

    def num_bytes(self) -> int:
        scales = self._key_scales.nbytes + self._value_scales.nbytes
        return self._whole.num_bytes() + self._tail.num_bytes() + scales


class KvCache:
    """K and V of up to `capacity` tokens in every layer, behind an optional shared prefix."""

    def __init__(self, form: CacheForm, capacity: int, prefix: KvCache | None = None) -> None:
        self.form = form
        self.capacity = -(-capacity // KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS
        self.prefix = prefix
        self._layers: list[_Numbers | _Codes] = [
            _Codes(form, layer, capacity)
            if form.dtype is torch.int8
            else _Numbers(form, layer, capacity, form.dtype)
            for layer in range(form.spec.layers)
        ]
        self.own_tokens = 0
        """Tokens behind the prefix."""
        self._pending = 0

    @property
    def num_tokens(self) -> int:
        """Tokens in the cache, the prefix included."""
        return self.own_tokens + (self.prefix.num_tokens if self.prefix else 0)

    @property
    def num_bytes(self) -> int:
        """Bytes reserved here, the prefix not included."""
        return sum(layer.num_bytes() for layer in self._layers)

    @property
    def chain(self) -> tuple[KvCache, ...]:
        """This cache behind those it was forked from, the oldest first."""
        return (*(self.prefix.chain if self.prefix else ()), self)

    def fork(self, capacity: int) -> KvCache:
        """A cache of its own behind this one; this one must not grow while forks are in use.

        What is said in a fork is short: it is kept as numbers where the session is kept as codes.
        """
        form = self.form
        if form.dtype is torch.int8:
            form = replace(form, dtype=form.compute_dtype)
        return KvCache(form, capacity, prefix=self)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the next tokens of one layer, each (kv heads, n, dim); `advance` makes them count
        once all layers have."""
        count = keys.shape[1]
        if self.own_tokens + count > self.capacity:
            raise InvariantError(
                f"{count} tokens do not fit a cache of {self.capacity} that holds "
                f"{self.own_tokens}."
            )
        self._pending = count
        self._layers[layer].write(self.own_tokens, keys, values)

    def advance(self) -> None:
        """The tokens that every layer has appended are part of the cache now."""
        self.own_tokens += self._pending
        self._pending = 0

    def trim(self, own_tokens: int) -> None:
        """Forget all but the first `own_tokens` behind the prefix, and what was appended and does
        not count yet. Raises InvariantError where there are fewer."""
        if own_tokens > self.own_tokens:
            raise InvariantError(
                f"a cache of {self.own_tokens} tokens cannot be trimmed to {own_tokens}."
            )
        for layer in self._layers:
            layer.trim(own_tokens)
        self.own_tokens, self._pending = own_tokens, 0

    def segments(self, layer: int) -> list[Segment]:
        """Own tokens of one layer, those included that are not counted yet."""
        return self._layers[layer].segments(self.own_tokens + self._pending)

    def tensors(self, layer: int) -> dict[str, Tensor]:
        """Used memory of one layer by name, in place: for a snapshot."""
        return self._layers[layer].tensors(self.own_tokens)

    def restore(self, own_tokens: int) -> None:
        """Count tokens whose memory is written through `tensors` from outside."""
        if own_tokens > self.capacity:
            raise InvariantError(
                f"{own_tokens} tokens do not fit a cache of {self.capacity} tokens."
            )
        self.own_tokens = own_tokens
