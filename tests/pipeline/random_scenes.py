"""Scenes of any kind, as tests need them."""

from __future__ import annotations

import numpy as np

from pipeline.scenes import BACKGROUNDS, CELLS, Scene, Track, random_names


def random_scene(
    seed: int,
    *,
    width: int,
    height: int,
    duration_s: float,
    num_tracks: int,
    min_span_s: float = 4.0,
) -> Scene:
    """A scene of up to four things, one in each quarter; some come back after a while."""
    rng = np.random.default_rng(seed)
    names = random_names(rng, num_tracks)
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
    tracks = tuple(
        random_track(rng, name, _random_spans(rng, duration_s, min_span_s), cell)
        for name, cell in zip(names, cells, strict=False)
    )
    return Scene(seed, width, height, duration_s, str(rng.choice(BACKGROUNDS)), tracks)


def random_track(
    rng: np.random.Generator,
    name: tuple[str, str],
    spans_s: tuple[tuple[float, float], ...],
    cell: tuple[float, float, float, float],
) -> Track:
    """A track of a given thing and times that wanders inside `cell` (left, top, right, bottom, as
    fractions of the frame)."""
    left, top, right, bottom = cell
    size = float(rng.uniform(0.24, 0.40))
    return Track(
        colour=name[0],
        shape=name[1],
        spans_s=spans_s,
        x=float(rng.uniform(left + 0.3 * (right - left), right - 0.3 * (right - left))),
        y=float(rng.uniform(top + 0.35 * (bottom - top), bottom - 0.35 * (bottom - top))),
        sway=float(rng.uniform(0.0, 0.08)),
        period_s=float(rng.uniform(4, 20)),
        size=size,
    )


def _random_spans(
    rng: np.random.Generator, duration_s: float, min_span_s: float
) -> tuple[tuple[float, float], ...]:
    count = int(rng.choice([1, 1, 2, 3]))
    count = max(1, min(count, int(duration_s / (3 * min_span_s))))
    cuts = np.sort(rng.uniform(0, duration_s, 2 * count))
    spans: list[tuple[float, float]] = []
    for start, end in zip(cuts[::2], cuts[1::2], strict=True):
        end = max(end, start + min_span_s)
        if not spans or start >= spans[-1][1] + min_span_s:
            spans.append((round(float(start), 2), round(min(float(end), duration_s), 2)))
    return tuple(span for span in spans if span[1] - span[0] >= 0.5 * min_span_s)
