"""Step 4d: keep what the trained tower gives for all pictures and clips, and draw lessons from it.

Casts give any course of events; clips give pairs as alike, and faults as lasting, as in files.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from pipeline.scenes import Scene
from recipes.nano.clips import Clip
from recipes.nano.codes import ground_code
from recipes.nano.courses import Course, draw_course
from recipes.nano.network import encode_pairs, new_model, patchify
from recipes.nano.pictures import CAST_SIZE, CLASSES, Cast
from recipes.nano.see import load_casts
from recipes.nano.shape import RUNS

Grid = tuple[int, int]
Spans = tuple[tuple[tuple[int, int], ...], ...]


@dataclass(frozen=True, slots=True)
class KeptCast:
    """Four classes and features (subset, variant, tokens, hidden) of their subsets, per level."""

    classes: tuple[int, ...]
    grid: Grid
    levels: list[Tensor]


@dataclass(frozen=True, slots=True)
class KeptClip:
    """Four classes, when they are visible in pairs, and features (pairs, tokens, hidden)."""

    classes: tuple[int, ...]
    grid: Grid
    levels: list[Tensor]
    spans: Spans


@torch.no_grad()
def _encode(
    model: Qwen3VLForConditionalGeneration,
    pairs: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    grid: Grid,
) -> list[Tensor]:
    parts = [
        encode_pairs(model, patchify(pairs[i : i + 64]), grid) for i in range(0, len(pairs), 64)
    ]
    return [torch.cat(level).half() for level in zip(*parts, strict=True)]


def keep_cast(model: Qwen3VLForConditionalGeneration, cast: Cast) -> KeptCast:
    """Features of all pictures of a cast."""
    shape = cast.pairs.shape
    levels = _encode(model, cast.pairs.reshape(-1, *shape[2:]), cast.grid)
    return KeptCast(cast.classes, cast.grid, [x.reshape(*shape[:2], *x.shape[1:]) for x in levels])


def keep_clip(model: Qwen3VLForConditionalGeneration, clip: Clip) -> KeptClip:
    """Features of all pairs of a clip."""
    classes = tuple(CLASSES.index(track.name) for track in clip.scene.tracks)
    spans = spans_in_pairs(clip.scene, len(clip.pairs), clip.step_s)
    return KeptClip(classes, clip.grid, _encode(model, clip.pairs, clip.grid), spans)


def spans_in_pairs(scene: Scene, pairs: int, step_s: float) -> Spans:
    """For each track, half-open spans of the pairs that show it in at least one of two frames."""
    out = []
    for track in scene.tracks:
        shown = [
            any(track.is_visible((2 * p + frame) * step_s) for frame in (0, 1))
            for p in range(pairs)
        ]
        edges = np.flatnonzero(np.diff(np.asarray([False, *shown, False]).astype(int)))
        out.append(tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)))
    return tuple(out)


def _cut(spans: Spans, first: int, pairs: int, is_reversed: bool) -> Spans:
    """Spans seen in [first, first + pairs), counted from its start, or from its end backwards."""
    out = []
    for own in spans:
        kept = [(max(a - first, 0), min(b - first, pairs)) for a, b in own]
        kept = [(a, b) for a, b in kept if a < b]
        if is_reversed:
            kept = [(pairs - b, pairs - a) for a, b in reversed(kept)]
        out.append(tuple(kept))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class _Cutting(Course):
    """A course whose features are rows of a kept cast or clip."""

    levels: tuple[Tensor, ...] = ()


class KeptLessons:
    """Draws courses over kept features, and the features of a course."""

    def __init__(self, casts: list[KeptCast], clips: list[KeptClip], clip_share: float) -> None:
        self._casts, self._clips, self._share = casts, clips, clip_share

    def courses(
        self, rng: np.random.Generator, pairs: int, budget: int
    ) -> tuple[list[Course], Grid]:
        """As many courses as fit `budget` tokens, on one grid."""
        fits = [c for c in self._casts if pairs * (c.grid[0] * c.grid[1] + 8) < 7500]
        grid = fits[int(rng.integers(len(fits)))].grid
        casts = [c for c in self._casts if c.grid == grid]
        clips = [c for c in self._clips if c.grid == grid and len(c.levels[0]) >= pairs]
        count = max(1, min(40, budget // (pairs * (grid[0] * grid[1] + 8) + 6 * 32)))
        out: list[Course] = []
        for _ in range(count):
            if clips and rng.uniform() < self._share:
                out.append(self._from_clip(rng, clips[int(rng.integers(len(clips)))], pairs))
            else:
                out.append(self._from_cast(rng, casts[int(rng.integers(len(casts)))], pairs))
        return out, grid

    def _from_cast(self, rng: np.random.Generator, cast: KeptCast, pairs: int) -> Course:
        course = replace(draw_course(rng, pairs), classes=cast.classes)
        variants = rng.integers(0, cast.levels[0].shape[1], pairs)
        if rng.uniform() < 0.5:  # Neighbours are alike.
            variants = variants[np.maximum.accumulate(np.arange(pairs) * (rng.random(pairs) < 0.2))]
        subsets = torch.from_numpy(course.subsets())
        picked = tuple(x[subsets, torch.from_numpy(variants)] for x in cast.levels)
        return _Cutting(
            course.classes, course.spans, course.seconds, course.start_s, course.end_s, picked
        )

    def _from_clip(self, rng: np.random.Generator, clip: KeptClip, pairs: int) -> Course:
        times = draw_course(rng, pairs)
        first = int(rng.integers(len(clip.levels[0]) - pairs + 1))
        is_reversed = rng.uniform() < 0.5
        rows = torch.arange(first, first + pairs)
        rows = rows.flip(0) if is_reversed else rows
        order = [int(i) for i in rng.permutation(CAST_SIZE)]
        spans = _cut(clip.spans, first, pairs, is_reversed)
        return _Cutting(
            tuple(clip.classes[i] for i in order),
            tuple(spans[i] for i in order),
            times.seconds,
            times.start_s,
            times.end_s,
            tuple(x[rows] for x in clip.levels),
        )


def kept_features(rng: np.random.Generator, courses: list[Course], _grid: Grid) -> list[Tensor]:
    """Features of courses that `KeptLessons` drew, a little shaken."""
    out = []
    for level in range(len(_rows(courses[0]))):
        rows = torch.cat([_rows(course)[level].flatten(0, 1) for course in courses]).float()
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        out.append(rows + 0.03 * torch.randn(rows.shape, generator=generator))
    return out


def _rows(course: Course) -> tuple[Tensor, ...]:
    if not isinstance(course, _Cutting):
        raise TypeError("the course was not drawn from kept features")
    return course.levels


def load_kept(path: Path) -> tuple[list[KeptCast], list[KeptClip]]:
    """What `main` kept."""
    casts, clips = torch.load(path, weights_only=True)
    return [KeptCast(*row) for row in casts], [KeptClip(*row) for row in clips]


def load_tower(path: Path) -> Qwen3VLForConditionalGeneration:
    """A model with a trained tower, which from here on adds the ground to every token."""
    model = new_model(0)
    model.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        model.model.visual.merger.linear_fc2.bias += ground_code()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vision", default="vision.pt")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="kept.pt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_tower(RUNS / options.vision)
    torch.save(model.state_dict(), RUNS / "tower.pt")
    drawn = load_casts(sorted(RUNS.glob("casts*.pkl")))
    casts = [keep_cast(model, cast) for cast in drawn]
    clips = []
    for path in sorted(RUNS.glob("clips*.pkl")):
        with path.open("rb") as file:
            clips += [keep_clip(model, clip) for clip in pickle.load(file)]
        print(f"{len(casts)} casts, {len(clips)} clips", flush=True)
    plain_casts = [(c.classes, c.grid, c.levels) for c in casts]
    plain_clips = [(c.classes, c.grid, c.levels, c.spans) for c in clips]
    torch.save((plain_casts, plain_clips), RUNS / options.name)


if __name__ == "__main__":
    main()
