"""Events against truth: temporal IoU, one-to-one matches, rates with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Span = tuple[float, float]
"""Half-open, in seconds."""


def temporal_iou(a: Span, b: Span) -> float:
    """Overlap of two spans over their union, 0 to 1."""
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - overlap
    return overlap / union if union > 0 else 0.0


def match_spans(found: Sequence[Span], truth: Sequence[Span], least_iou: float) -> list[float]:
    """IoU of each matched pair, best first; a span is matched once, and only at `least_iou`."""
    scores = sorted(
        ((temporal_iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(truth)),
        reverse=True,
    )
    taken_found: set[int] = set()
    taken_truth: set[int] = set()
    matched = []
    for score, i, j in scores:
        if score >= least_iou and i not in taken_found and j not in taken_truth:
            taken_found.add(i)
            taken_truth.add(j)
            matched.append(score)
    return matched


def wilson(hits: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927); (0, 1) where nothing was tried."""
    if trials == 0:
        return 0.0, 1.0
    rate, extra = hits / trials, z * z / trials
    middle = (rate + extra / 2) / (1 + extra)
    half = z * math.sqrt(rate * (1 - rate) / trials + extra / (4 * trials)) / (1 + extra)
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of trials, with its interval."""

    hits: int
    trials: int

    @property
    def value(self) -> float:
        return self.hits / self.trials if self.trials else 0.0

    def __str__(self) -> str:
        low, high = wilson(self.hits, self.trials)
        return f"{self.value:.3f} ({self.hits} of {self.trials}, 95 % {low:.3f} to {high:.3f})"
