"""The KV cache: preallocated, never copied, forkable.

A session owns one `KvCache`. A question forks it: it reads the session's keys and values as a
shared prefix and owns only its suffix, so that no answer disturbs another or the video.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from model.spec import TextSpec
from schemas.errors import InvariantError


@dataclass(frozen=True, slots=True)
class Segment:
    """Keys and values of consecutive tokens in one layer, each (kv heads, tokens, head_dim)."""

    keys: Tensor
    values: Tensor


class KvCache:
    """K and V of up to `capacity` tokens in every layer, behind an optional shared prefix."""

    def __init__(
        self,
        spec: TextSpec,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        prefix: KvCache | None = None,
    ) -> None:
        self._spec = spec
        self._dtype, self._device = dtype, device
        shape = (spec.layers, 2, spec.kv_heads, capacity, spec.head_dim)
        self._store = torch.empty(shape, dtype=dtype, device=device)
        self._prefix = prefix
        self._used = 0
        self._pending = 0

    @property
    def num_tokens(self) -> int:
        """Tokens in the cache, the prefix included."""
        return self._used + (self._prefix.num_tokens if self._prefix else 0)

    @property
    def num_bytes(self) -> int:
        """Bytes reserved here, the prefix not included."""
        return self._store.numel() * self._store.element_size()

    def fork(self, capacity: int) -> KvCache:
        """A cache of its own behind this one; this one must not grow while forks are in use."""
        return KvCache(self._spec, capacity, self._dtype, self._device, prefix=self)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Write the next tokens of one layer; `advance` makes them count once all layers have."""
        count = keys.shape[1]
        if self._used + count > self._store.shape[3]:
            raise InvariantError(
                f"{count} tokens do not fit a cache of {self._store.shape[3]} that holds "
                f"{self._used}."
            )
        self._pending = count
        here = slice(self._used, self._used + count)
        self._store[layer, 0, :, here] = keys
        self._store[layer, 1, :, here] = values

    def advance(self) -> None:
        """The tokens that every layer has appended are part of the cache now."""
        self._used += self._pending
        self._pending = 0

    def segments(self, layer: int) -> list[Segment]:
        """What one layer may look back on: prefix, own tokens; then the pending ones, last."""
        before = self._prefix.segments(layer) if self._prefix else []
        stops = [0, self._used, self._used + self._pending]
        own = [
            Segment(self._store[layer, 0, :, a:b], self._store[layer, 1, :, a:b])
            for a, b in pairwise(stops)
            if b > a
        ]
        return [*before, *own]
