"""Step 4a: courses. What appears and vanishes when, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recipes.nano.pictures import CAST_SIZE, CLASSES

MAX_EVENTS = 5
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Course:
    """What happens when, in pairs."""

    classes: tuple[int, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    """For each member of the cast: half-open spans of pairs."""
    seconds: npt.NDArray[np.float64]
    """Printed time of each pair."""
    start_s: float
    end_s: float

    def subsets(self) -> Ints:
        """(pairs,) bit set of the members that each pair shows."""
        subsets = np.zeros(len(self.seconds), dtype=np.int64)
        for member, own in enumerate(self.spans):
            for start, end in own:
                subsets[start:end] |= 1 << member
        return subsets


def draw_course(rng: np.random.Generator, pairs: int) -> Course:
    """A random course of `pairs` patch pairs with random times."""
    spans = tuple(_draw_spans(rng, pairs) for _ in range(CAST_SIZE))
    step_s = float(rng.choice([0.25, 0.5, 0.5, 1.0, 1.0, 1.0, 2.0, rng.uniform(0.25, 4)]))
    start_s = 0.0 if rng.uniform() < 0.4 else float(rng.uniform(0, rng.choice([100, 1000, 3600])))
    steps = np.full(2 * pairs, step_s)
    if rng.uniform() < 0.25:
        steps *= rng.uniform(0.5, 1.5, 2 * pairs)
    times = start_s + np.concatenate([[0.0], np.cumsum(steps)])
    middles = (times[:-1:2] + times[1::2]) / 2
    return Course(_draw_cast(rng), spans, middles, start_s, float(times[-1]))


def _draw_cast(rng: np.random.Generator) -> tuple[int, ...]:
    """Different classes, often sharing a colour or a shape."""
    if rng.uniform() < 0.5:
        return tuple(int(c) for c in rng.choice(len(CLASSES), CAST_SIZE, replace=False))
    base, others = int(rng.integers(6)), rng.choice(6, CAST_SIZE, replace=False)
    by_colour = rng.uniform() < 0.5
    return tuple(int(base * 6 + c if by_colour else c * 6 + base) for c in others)


def _draw_spans(rng: np.random.Generator, pairs: int) -> tuple[tuple[int, int], ...]:
    count = int(rng.choice(6, p=[0.15, 0.33, 0.25, 0.23, 0.03, 0.01]))
    # Where much changes in one pair, nobody could tell which of it came for the how-manieth time.
    count = min(count, max(1, pairs // 7))
    if pairs < 12 and rng.uniform() < 0.3:
        count = 0
    cuts = [int(cut) for cut in np.sort(rng.choice(pairs + 1, 2 * count, replace=False))]
    return tuple(zip(cuts[::2], cuts[1::2], strict=True))
