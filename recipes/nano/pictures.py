"""Step 2: pictures. Patch pairs drawn for *casts* of four things: every subset of a cast is drawn
several times, so that any course of appearing and vanishing can be put together later.

Frames go through what files do to them: scaling, JPEG, a little blur.
"""

from __future__ import annotations

import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    Frame,
    Scene,
    centre_of,
    draw_frame,
    random_names,
    random_track,
)
from recipes.nano.shape import TOKEN_PX

CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
GRIDS = ((2, 2), (2, 3), (2, 4), (2, 5), (3, 4), (3, 5), (4, 5), (4, 6))
GRID_ODDS = (0.03, 0.08, 0.19, 0.06, 0.36, 0.16, 0.09, 0.03)
CAST_SIZE = 4


@dataclass(frozen=True, slots=True)
class Cast:
    """Four things, a frame size, and pictures of each of their sixteen subsets."""

    classes: tuple[int, ...]
    grid: tuple[int, int]
    pairs: npt.NDArray[np.uint8]
    """(subset, variant, 2, height, width, 3)."""
    places: npt.NDArray[np.int64]
    """(subset, variant, member): merged token that holds the member's centre, −1 where absent."""


def draw_cast(seed: int, variants: int) -> Cast:
    """All pictures of one cast."""
    rng = np.random.default_rng((91, seed))
    names = random_names(rng, CAST_SIZE)
    grid = GRIDS[int(rng.choice(len(GRIDS), p=GRID_ODDS))]
    height, width = grid[0] * TOKEN_PX, grid[1] * TOKEN_PX
    home = _scene(rng, names, height, width)
    pairs = np.empty((1 << CAST_SIZE, variants, 2, height, width, 3), dtype=np.uint8)
    places = np.full((1 << CAST_SIZE, variants, CAST_SIZE), -1, dtype=np.int64)
    for subset in range(1 << CAST_SIZE):
        for variant in range(variants):
            scene = home if variant % 2 else _scene(rng, names, height, width)
            first, second = _members(rng, subset)
            time_s = float(rng.uniform(0, 60))
            gap_s = float(rng.choice([0.25, 0.5, 1.0, 2.0]))
            pairs[subset, variant, 0] = _shot(rng, scene, first, time_s, height, width)
            pairs[subset, variant, 1] = _shot(rng, scene, second, time_s + gap_s, height, width)
            for member in range(CAST_SIZE):
                if subset >> member & 1:
                    at = time_s if first >> member & 1 else time_s + gap_s
                    x, y = centre_of(scene, scene.tracks[member], at)
                    places[subset, variant, member] = _token_at(x, y, grid)
    classes = tuple(CLASSES.index(" ".join(name)) for name in names)
    return Cast(classes, grid, pairs, places)


def _token_at(x: float, y: float, grid: tuple[int, int]) -> int:
    row = min(grid[0] - 1, max(0, int(y * grid[0])))
    return row * grid[1] + min(grid[1] - 1, max(0, int(x * grid[1])))


def _scene(
    rng: np.random.Generator, names: list[tuple[str, str]], height: int, width: int
) -> Scene:
    # Drawn larger than it is seen, as files are.
    scale = float(rng.uniform(1.2, 2.6))
    always = ((0.0, 1e9),)
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
    tracks = tuple(
        random_track(rng, name, always, cell) for name, cell in zip(names, cells, strict=True)
    )
    return Scene(
        seed=int(rng.integers(1 << 31)),
        width=round(width * scale),
        height=round(height * scale * float(rng.uniform(0.9, 1.1))),
        duration_s=1e9,
        background=str(rng.choice(BACKGROUNDS)),
        tracks=tracks,
    )


def _members(rng: np.random.Generator, subset: int) -> tuple[int, int]:
    """Which things the pair's two frames show: now and then one of them is in one frame only."""
    if subset and rng.uniform() < 0.25:
        lone = 1 << int(rng.integers(CAST_SIZE))
        if subset & lone:
            fewer = subset & ~lone
            return (subset, fewer) if rng.uniform() < 0.5 else (fewer, subset)
    return subset, subset


def _shot(
    rng: np.random.Generator, scene: Scene, members: int, time_s: float, height: int, width: int
) -> Frame:
    shown = tuple(track for i, track in enumerate(scene.tracks) if members >> i & 1)
    image = Image.fromarray(draw_frame(replace(scene, tracks=shown), time_s))
    if rng.uniform() < 0.8:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(25, 92)))
        image = Image.open(buffer)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def draw_casts(first: int, count: int, variants: int, processes: int) -> list[Cast]:
    """Casts of consecutive seeds, drawn in parallel."""
    draw = partial(draw_cast, variants=variants)
    seeds = range(first, first + count)
    if processes == 1:
        return [draw(seed) for seed in seeds]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(draw, seeds, chunksize=4))
