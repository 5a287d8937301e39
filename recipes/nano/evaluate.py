"""Step 6: evaluate. New scenes go through H.264 files and the production path, from probe to
parsed events: recall and precision at temporal IoU of one half, and false events where nothing was.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from model.engine import load_model
from pipeline.run import chunk_work, decode_piece, run_video
from pipeline.scenes import COLOURS, SHAPES, Scene, random_scene, spans_of
from pipeline.scoring import temporal_iou
from recipes.nano.clips import encode
from recipes.nano.shape import CHECKPOINT, RUNS
from schemas.events import VideoResult
from schemas.job import JobSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan

DURATIONS_S = (20, 30, 40, 60, 90, 120, 150, 180, 240, 300, 330, 360)
SIZES = ((320, 240), (256, 144))
Span = tuple[float, float]


@dataclass(slots=True)
class Tally:
    """Counts over (clip, question) pairs."""

    questions: int = 0
    true: int = 0
    said: int = 0
    hit: int = 0
    absent: int = 0
    false_absent: int = 0
    exact: int = 0
    errors_s: list[float] = field(default_factory=list)

    def add(self, truth: list[Span], said: list[Span]) -> None:
        pairs = match(truth, said)
        self.questions += 1
        self.true += len(truth)
        self.said += len(said)
        self.hit += len(pairs)
        self.exact += len(truth) == len(said) == len(pairs)
        if not truth:
            self.absent += 1
            self.false_absent += bool(said)
        for a, b in pairs:
            self.errors_s += [abs(truth[a][0] - said[b][0]), abs(truth[a][1] - said[b][1])]

    def __str__(self) -> str:
        return (
            f"{self.questions} questions: recall {self.hit / max(1, self.true):.3f} of "
            f"{self.true}, "
            f"precision {self.hit / max(1, self.said):.3f} of {self.said}, whole answers right "
            f"{self.exact / max(1, self.questions):.3f}, absent with events {self.false_absent} of "
            f"{self.absent}, median edge error {np.median(self.errors_s or [0]):.2f} s"
        )


def match(truth: list[Span], said: list[Span]) -> list[tuple[int, int]]:
    """Pairs that overlap by half or more, best first, each used once."""
    scored = [(temporal_iou(a, b), i, j) for i, a in enumerate(truth) for j, b in enumerate(said)]
    used: list[tuple[int, int]] = []
    for score, i, j in sorted(scored, reverse=True):
        if score >= 0.5 and all(i != u and j != v for u, v in used):
            used.append((i, j))
    return used


def questions_for(scene: Scene, rng: np.random.Generator) -> list[str]:
    """The scene's four things and two that it lacks, one of them close to a thing it has."""
    names = [track.name for track in scene.tracks]
    colour = names[0].split()[0]
    near = [n for s in SHAPES if (n := f"{colour} {s}") not in names]
    far = [n for c in COLOURS for s in SHAPES if (n := f"{c} {s}") not in names]
    return [*names, str(rng.choice(near)), str(rng.choice(far))]


def make_clip(
    seed: int, duration_s: float, size: tuple[int, int], folder: Path
) -> tuple[Scene, Path]:
    """A scene nobody trained on, as a file; drawn once."""
    scene = random_scene(
        seed, width=size[0], height=size[1], duration_s=duration_s, num_tracks=4, min_span_s=5.0
    )
    path = folder / f"{seed}-{duration_s:.0f}-{size[0]}x{size[1]}.mp4"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        encode(path, scene, 4.0 if duration_s < 100 else 2.0, 26)
    return scene, path


def _frames(index: StreamIndex, plan: VideoPlan, first: int) -> list[FrameBatch]:
    return [decode_piece(piece) for piece in chunk_work(index, plan, first)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=900_000_000)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--fps", type=float, default=None)
    parser.add_argument("--pair-tokens", type=int, default=None)
    parser.add_argument("--model", default=str(CHECKPOINT))
    parser.add_argument("--draw-only", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder, whole, started = RUNS / "held_out", Tally(), time.monotonic()
    model = None if options.draw_only else load_model(options.model, threads=1)
    for number in range(options.clips):
        seed, duration_s = options.first + number, DURATIONS_S[number % len(DURATIONS_S)]
        scene, path = make_clip(seed, duration_s, SIZES[number % 2], folder)
        if model is None:
            continue
        asked = questions_for(scene, np.random.default_rng(seed))
        job = JobSpec.model_validate(
            {
                "videos": [str(path)],
                "queries": [{"id": f"q{i}", "find": f"a {name}"} for i, name in enumerate(asked)],
                "sampling": {"fps": options.fps, "pair_tokens": options.pair_tokens},
            }
        )
        result: VideoResult = run_video(
            VideoSource(str(path), str(path)), f"{seed:064d}", job, model, _frames
        )
        own = Tally()
        for i, name in enumerate(asked):
            truth = [(a, min(b, duration_s)) for a, b in spans_of(scene, name)]
            said = [
                (float(e.start_pts * e.time_base), float(e.end_pts * e.time_base))
                for e in result.events
                if e.query_id == f"q{i}"
            ]
            own.add(truth, said)
            whole.add(truth, said)
        tokens = result.video.total_tokens if result.video else 0
        print(f"{path.name} {tokens} tokens: {own}", flush=True)
    print(f"all: {whole} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
