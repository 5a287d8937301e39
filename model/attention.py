"""Attention of a chunk's queries over a long cache, block by block, exact.

Scores exist for one block of keys and one tile of queries at a time; blocks are merged by their
log-sum-exp, so there is no mask tensor, no repeated key and no score matrix. Query heads that share
a key head are folded into rows of one product. Softmax and sums are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.kv_cache import Segment
from model.memory import ATTENTION_KEYS, ATTENTION_ROWS


@dataclass(slots=True)
class _Running:
    """Softmax so far: largest score, sum of exponentials, weighted values; float32."""

    peak: Tensor
    total: Tensor
    mixed: Tensor

    @staticmethod
    def start(rows: Tensor) -> _Running:
        mixed = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
        total = mixed[..., :1].clone()
        return _Running(torch.full_like(total, -torch.inf), total, mixed)

    def add(self, scores: Tensor, values: Tensor) -> None:
        """Merge one block: scores (kv heads, rows, keys) float32, values (kv heads, keys, dim)."""
        peak = torch.maximum(self.peak, scores.amax(-1, keepdim=True))
        weights = scores.sub_(peak).exp_()
        keep = torch.exp(self.peak - peak)
        self.total = self.total * keep + weights.sum(-1, keepdim=True)
        self.mixed = self.mixed * keep + (weights.to(values.dtype) @ values).float()
        self.peak = peak


def attend(queries: Tensor, segments: Sequence[Segment], scale: float) -> Tensor:
    """(heads, n, dim) queries of the n newest tokens over `segments`, the last of which holds
    exactly those tokens' own keys and is seen causally. Returns (heads, n, dim)."""
    heads, count, dim = queries.shape
    kv_heads = segments[-1].keys.shape[0]
    group = heads // kv_heads
    folded = (queries * scale).view(kv_heads, group, count, dim)
    parts = []
    for start in range(0, count, ATTENTION_ROWS):
        stop = min(count, start + ATTENTION_ROWS)
        rows = folded[:, :, start:stop].reshape(kv_heads, group * (stop - start), dim)
        running = _Running.start(rows)
        for segment in segments[:-1]:
            for block in _blocks(segment, segment.keys.shape[1], rows.dtype):
                running.add((rows @ block.keys.transpose(1, 2)).float(), block.values)
        _add_own(running, rows, segments[-1], start, stop)
        tile = (running.mixed / running.total).to(queries.dtype)
        parts.append(tile.view(kv_heads, group, stop - start, dim))
    return torch.cat(parts, dim=2).reshape(heads, count, dim)


def _add_own(running: _Running, rows: Tensor, own: Segment, start: int, stop: int) -> None:
    """Query tokens start..stop of the chunk over the chunk itself, up to their own place."""
    at = 0
    for block in _blocks(own, stop, rows.dtype):
        keys = block.keys.shape[1]
        scores = (rows @ block.keys.transpose(1, 2)).float()
        if at + keys > start + 1:
            query_at = torch.arange(start, stop, device=rows.device)[:, None]
            hidden = torch.arange(at, at + keys, device=rows.device)[None] > query_at
            by_token = scores.view(scores.shape[0], -1, stop - start, keys)
            by_token.masked_fill_(hidden, -torch.inf)
        running.add(scores, block.values)
        at += keys


def _blocks(segment: Segment, stop: int, dtype: torch.dtype) -> Iterator[Segment]:
    for start in range(0, stop, ATTENTION_KEYS):
        end = min(stop, start + ATTENTION_KEYS)
        keys, values = segment.keys[:, start:end], segment.values[:, start:end]
        # A cache may be narrower than the arithmetic: one block at a time is widened.
        yield Segment(keys.to(dtype), values.to(dtype))
