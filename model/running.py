"""A softmax that is not finished: what attention keeps between two segments of a cache."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

LOG2_E = math.log2(math.e)
"""Exponentials are taken to base two: torch's to base e is eight to thirteen times slower on a CPU
where results are next to nothing, as most of a long context's are."""


@dataclass(slots=True)
class Running:
    """Largest score, sum of exponentials, weighted values: float32, per KV head and query row.

    Exponentials are of (score − peak) × scale: peaks are kept before scaling.
    """

    HIDDEN: ClassVar[float] = -1e30
    """Peak of a row that has seen nothing; finite, so that differences stay numbers."""

    peak: Tensor
    """(kv heads, rows); where parts of a cache are kept apart, (parts × kv heads, rows)."""
    total: Tensor
    mixed: Tensor
    """(kv heads, rows, dim)."""
    scale: float

    @staticmethod
    def start(queries: Tensor, scale: float, parts: int = 1) -> Running:
        """Nothing seen yet, for queries (kv heads, rows, dim)."""
        heads, rows, dim = queries.shape
        total = queries.new_zeros((parts * heads, rows), dtype=torch.float32)
        mixed = queries.new_zeros((parts * heads, rows, dim), dtype=torch.float32)
        return Running(torch.full_like(total, Running.HIDDEN), total, mixed, scale)

    def add(self, rows: slice, scores: Tensor, values: Tensor) -> None:
        """See one block: scores (kv heads, rows, keys) float32, overwritten; values (kv heads,
        keys, dim) float32. The first block of a row must show it a key at least."""
        peak = torch.maximum(self.peak[:, rows], scores.amax(-1))
        scale = self.scale * LOG2_E
        weights = scores.sub_(peak[..., None]).mul_(scale).exp2_()
        decay = (self.peak[:, rows] - peak).mul_(scale).exp2_()
        self.total[:, rows] = self.total[:, rows] * decay + weights.sum(-1)
        self.mixed[:, rows] = self.mixed[:, rows] * decay[..., None] + weights @ values
        self.peak[:, rows] = peak

    def merge(self, rows: slice, other: Running) -> None:
        """Add what `other` saw for these rows, in one part of the keys or in several."""
        heads = self.peak.shape[0]
        for part in range(0, other.peak.shape[0], heads):
            one = slice(part, part + heads)
            peak, total, mixed = other.peak[one], other.total[one], other.mixed[one]
            before = self.peak[:, rows]
            highest = torch.maximum(before, peak)
            ours = ((before - highest) * self.scale * LOG2_E).exp2_()
            theirs = ((peak - highest) * self.scale * LOG2_E).exp2_()
            self.peak[:, rows] = highest
            self.total[:, rows] = self.total[:, rows] * ours + total * theirs
            kept = self.mixed[:, rows] * ours[..., None]
            self.mixed[:, rows] = kept + mixed * theirs[..., None]

    def result(self) -> Tensor:
        """(kv heads, rows, dim) float32: the weighted mean of the values. Ends the softmax."""
        return self.mixed.div_(self.total[..., None])
