"""Step 4b: targets. What a batch of lessons teaches: the tokens to say, what each pair's end token
should know, and where heads should look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recipes.nano.courses import MAX_EVENTS, Course
from recipes.nano.pictures import CAST_SIZE, CLASSES
from schemas.time import timestamp_text

NUM_STATES = 2 * (MAX_EVENTS + 1)


@dataclass(frozen=True, slots=True)
class Looks:
    """Where heads should look: row `at` on the columns [low, high)."""

    layer: int
    head: int
    at: Tensor
    low: Tensor
    high: Tensor
    """Each (B, rows); high == low where there is nothing to learn."""


@dataclass(frozen=True, slots=True)
class SetLooks:
    """Columns between which a head should share its look evenly."""

    layer: int
    head: int
    at: Tensor
    members: Tensor
    """(B, rows, most): columns, −1 where there are fewer."""


@dataclass(frozen=True, slots=True)
class Targets:
    """What is to be learned from a batch; columns count from the start of the sequence."""

    labels: Tensor
    """(B, N): the next token to say, −100 where nothing is."""
    weights: Tensor
    """(B, N) float."""
    answer_of: Tensor
    """(B, N): number of the question whose answer is said here, −1 elsewhere."""
    pair_at: Tensor
    """(B, pairs): column of each pair's end token."""
    visible: Tensor
    """(B, pairs, classes) float."""
    changes: Tensor
    """(B, pairs, classes × 2 × MAX_EVENTS) float: class × (appears, vanishes) × which time."""
    clocks: Tensor
    """(B, pairs, 3): hundreds, seconds below a hundred, tenths of each pair's time."""
    free_at: Tensor
    """(B, F): columns that choose a token, padded with repeats."""
    asked: Tensor
    """(B, F): class asked for."""
    states: Tensor
    """(B, F): events begun so far, doubled, plus one inside an event's end."""
    looks: list[Looks]
    set_looks: list[SetLooks]


def look_at_earlier(courses: list[Course], pair_at: Tensor, edge: int) -> SetLooks:
    """Where a class appears (edge 0) or vanishes (1): the first token, and all pairs before where
    it did the same. The share that the first token keeps tells the count."""
    most = 1 + CAST_SIZE * MAX_EVENTS
    members = torch.full((*pair_at.shape, most), -1)
    members[:, :, 0] = 0
    for i, course in enumerate(courses):
        used = np.ones(pair_at.shape[1], dtype=int)
        for spans in course.spans:
            pairs = [span[edge] for span in spans if span[edge] < pair_at.shape[1]]
            for which, pair in enumerate(pairs):
                for before in pairs[:which]:
                    members[i, pair, used[pair]] = pair_at[i, before]
                    used[pair] += 1
    return SetLooks(2, edge, pair_at, members)


def visible(course: Course) -> Tensor:
    """(pairs, classes): what each pair shows."""
    visible = torch.zeros(len(course.seconds), len(CLASSES))
    for number, spans in zip(course.classes, course.spans, strict=True):
        for start, end in spans:
            visible[start:end, number] = 1
    return visible


def changes(course: Course) -> Tensor:
    """(pairs, classes × 2 × MAX_EVENTS): what appears or vanishes, and which time it is."""
    changes = torch.zeros(len(course.seconds), len(CLASSES), 2, MAX_EVENTS)
    for number, spans in zip(course.classes, course.spans, strict=True):
        for which, (start, end) in enumerate(spans):
            changes[start, number, 0, which] = 1
            if end < len(changes):
                changes[end, number, 1, which] = 1
    return changes.flatten(1)


def clocks(seconds: npt.NDArray[np.float64]) -> Tensor:
    """(pairs, 3): hundreds, seconds below a hundred and tenths of each printed time."""
    tenths = [round(float(timestamp_text(s)[1:-9]) * 10) for s in seconds]
    return torch.tensor([[t // 1000 % 100, t // 10 % 100, t % 10] for t in tenths])
