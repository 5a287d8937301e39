"""What a job will take, learnt from videos that were read here: finished ones or short clips.

seconds of a video = a fixed part + per token + per pair of tokens. The last is measured apart, from
the attention itself, because short clips do not show what a long context costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.commit_log import LogState

_FEW_POINTS_BAND = (0.75, 1.35)
"""Where so few were read that their own spread says nothing."""
_NARROWEST_BAND = (0.9, 1.1)


@dataclass(frozen=True, slots=True)
class Point:
    """One video that was read."""

    tokens: tuple[int, ...]
    """Tokens of each window."""
    seconds: float
    """What it took on its model worker, decoding it meanwhile included."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What short clips told of this machine, this model and this job."""

    model_digest: str
    points: tuple[Point, ...]
    pair_s: float
    """Seconds per token and token before it."""
    start_s: float
    """What comes once: workers, libraries, weights, and the workers' end."""

    def facts(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)

    @staticmethod
    def read(facts: dict[str, object]) -> Calibration:
        """From `facts`. Raises ValueError, KeyError or TypeError where they are something else."""
        points = facts["points"]
        if not isinstance(points, list):
            raise TypeError("points are a list")
        return Calibration(
            str(facts["model_digest"]),
            tuple(Point(tuple(map(int, p["tokens"])), float(p["seconds"])) for p in points),
            float(str(facts["pair_s"])),
            float(str(facts["start_s"])),
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """The fitted model of one video's seconds."""

    video_s: float
    token_s: float
    pair_s: float

    def seconds(self, tokens: Iterable[int]) -> float:
        """What a video with windows of these tokens takes on one model worker."""
        return self.video_s + sum(self.token_s * n + self.pair_s * n * n / 2 for n in tokens)


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a whole job, and where most jobs like it end."""

    seconds: float
    low_s: float
    high_s: float
    learnt_from: str
    each_s: tuple[float, ...]
    """Each video alone, on one model worker, in the order given."""


def fit_rates(points: Sequence[Point], pair_s: float) -> Rates:
    """Least squares of the relative error; nothing below zero."""
    totals = np.array([sum(point.tokens) for point in points], dtype=float)
    taken = np.array([point.seconds for point in points])
    pairs = np.array([pair_s * sum(n * n for n in point.tokens) / 2 for point in points])
    # A machine that was quicker than its own attention has a pair_s from a slower moment.
    scale = min(1.0, float((taken / np.maximum(pairs, 1e-12)).min()))
    rest = taken - scale * pairs
    columns = np.stack([np.ones_like(totals), totals], axis=1) / taken[:, None]
    wanted = rest / taken
    best = np.zeros(2)
    if len(set(totals)) > 1:
        best = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    if len(set(totals)) == 1 or (best < 0).any():
        # One of the two explains it all; the other has no share that these videos show.
        alone = [float(c @ wanted / (c @ c)) for c in columns.T]
        errors = [
            float(((c * a - wanted) ** 2).sum()) for c, a in zip(columns.T, alone, strict=True)
        ]
        only = 1 if len(set(totals)) == 1 else int(np.argmin(errors))
        best = np.zeros(2)
        best[only] = max(0.0, alone[only])
    return Rates(float(best[0]), float(best[1]), scale * pair_s)


def finished_points(state: LogState) -> list[Point]:
    """What the commit log remembers of videos that were read for this output."""
    return [
        Point(tuple(entry.window_tokens), entry.work_s)
        for entry in state.entries
        if entry.work_s > 0 and entry.window_tokens
    ]


def estimate_job(
    videos: Sequence[Sequence[int]],
    calibration: Calibration | None,
    finished: Sequence[Point],
    model_workers: int,
) -> Estimate | None:
    """What all videos take, each given as the tokens of its windows; None where nothing is known.

    Finished videos count where there are three or more; they are of the job itself.
    """
    is_learnt = len(finished) >= 3
    points = list(finished) if is_learnt else [*(calibration.points if calibration else ())]
    if not points or not videos:
        return None
    rates = fit_rates(points, calibration.pair_s if calibration else 0.0)
    each = [rates.seconds(tokens) for tokens in videos]
    low, high = _band(points, rates)
    start_s = calibration.start_s if calibration else 0.0
    # The longest video may come last.
    total = start_s + max(sum(each) / model_workers, max(each))
    source = f"{len(points)} finished videos" if is_learnt else f"{len(points)} short clips"
    return Estimate(total, total * low, total * high, source, tuple(each))


def _band(points: Sequence[Point], rates: Rates) -> tuple[float, float]:
    """Actual against fitted, between the 10th and the 90th of a hundred videos."""
    if len(points) < 5:
        return _FEW_POINTS_BAND
    ratios = [point.seconds / rates.seconds(point.tokens) for point in points]
    low, high = np.quantile(ratios, [0.1, 0.9])
    return min(float(low), _NARROWEST_BAND[0]), max(float(high), _NARROWEST_BAND[1])
