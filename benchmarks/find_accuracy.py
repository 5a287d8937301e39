"""nano on clips whose seeds its training never saw, through the production path: real H.264 files,
decoded, sampled, prefilled, answered under the grammar, parsed, read back from Parquet.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from benchmarks._claim import claim
from jobs.session import run_job
from jobs.show import open_output, read_frame
from pipeline.scenes import COLOURS, SHAPES, Scene, random_scene, spans_of
from pipeline.scoring import Rate, Span, match_spans
from sample_media.encode import Encoding, encode_scene
from schemas.job import read_job

FIRST_SEED = 1_000_000
"""Training draws from generators of its own; no scene seed of this range is among them."""
SIZES = ((320, 240), (256, 192), (320, 180))
SECONDS = (20, 40, 60, 90, 120, 180, 240, 360)
"""At nano's own sampling 6 min are about 4,000 tokens."""
QUESTIONS_PER_CLIP = 4
FPS = 5


@dataclass(frozen=True, slots=True)
class Clip:
    """One drawn file and what is asked of it."""

    path: Path
    scene: Scene
    asked: tuple[str, ...]


def draw_clip(folder: Path, number: int) -> Clip:
    """A clip of 20 s to 6 min with up to four things, asked for two that it shows and two not."""
    rng = np.random.default_rng((5, number))
    width, height = SIZES[number % len(SIZES)]
    seconds = float(rng.choice(SECONDS))
    scene = random_scene(
        FIRST_SEED + number,
        width=width,
        height=height,
        duration_s=seconds,
        num_tracks=int(rng.integers(2, 5)),
    )
    path = folder / f"clip_{number:03d}.mp4"
    if not path.exists():
        options = {"vcodec": "libx264", "crf": 30, "preset": "veryfast"}
        encode_scene(scene, path, Encoding(fps=FPS, options=options))
    shown = sorted({track.name for track in scene.tracks if track.spans_s})
    asked = [str(name) for name in rng.permutation(shown)[: QUESTIONS_PER_CLIP // 2]]
    while len(asked) < QUESTIONS_PER_CLIP:
        asked.append(_absent(rng, shown, asked))
    return Clip(path, scene, tuple(asked))


def _absent(rng: np.random.Generator, shown: list[str], asked: list[str]) -> str:
    """A thing that is not there; most share colour or shape with one that is."""
    while True:
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        if shown and rng.uniform() < 0.7:
            near = str(rng.choice(shown)).split()
            colour, shape = (near[0], shape) if rng.uniform() < 0.5 else (colour, near[1])
        if (name := f"{colour} {shape}") not in [*shown, *asked]:
            return name


def find_all(clip: Clip, folder: Path) -> dict[str, list[tuple[float, float]]]:
    """What the production path finds, by thing, in seconds."""
    output = folder / f"out_{clip.path.stem}"
    queries = [{"id": name.replace(" ", "_"), "find": f"a {name}"} for name in clip.asked]
    job = {
        "videos": [str(clip.path)],
        "queries": queries,
        "output": str(output),
        "cluster": {"executor": "serial"},
    }
    run_job(read_job(job, where="benchmark"), Console(quiet=True))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in clip.asked}
    for row in read_frame(open_output(str(output)), "events").iter_rows(named=True):
        found[row["query_id"].replace("_", " ")].append((row["start_s"], row["end_s"]))
    return found


@dataclass(slots=True)
class Tally:
    """Counts over (clip, question) pairs; a hit is a temporal IoU of at least one half."""

    hits: int = 0
    num_truth: int = 0
    num_found: int = 0
    num_absent: int = 0
    num_false_on_absent: int = 0
    ious: list[float] = field(default_factory=list)

    @property
    def recall(self) -> Rate:
        return Rate(self.hits, self.num_truth)

    @property
    def precision(self) -> Rate:
        return Rate(self.hits, self.num_found)

    @property
    def false_on_absent(self) -> Rate:
        return Rate(self.num_false_on_absent, self.num_absent)

    def add(self, found: list[Span], truth: list[Span]) -> bool:
        """Count one answer; whether it was wholly right."""
        matched = match_spans(found, truth, 0.5)
        self.ious += matched
        self.hits += len(matched)
        self.num_truth += len(truth)
        self.num_found += len(found)
        self.num_absent += not truth
        self.num_false_on_absent += bool(found) and not truth
        return len(matched) == len(truth) == len(found)


def measure(clips: int, folder: Path, *, show: bool = False) -> Tally:
    """Draw clips into `folder` (those already there are used), ask, and count."""
    tally = Tally()
    for number in range(clips):
        clip = draw_clip(folder, number)
        with tempfile.TemporaryDirectory() as output:
            answers = find_all(clip, Path(output))
        for thing, found in answers.items():
            truth = spans_of(clip.scene, thing)
            if not tally.add(found, truth) and show:
                print(clip.path.name, clip.scene.background, thing, "truth", truth, "said", found)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--keep", default="", help="folder for the clips, used again next time")
    parser.add_argument("--show", action="store_true", help="print every answer that is wrong")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        tally = measure(options.clips, folder, show=options.show)
    pairs = options.clips * QUESTIONS_PER_CLIP
    print(f"{pairs} (clip, question) pairs, {time.monotonic() - started:.0f} s")
    print(f"recall at IoU 0.5     {tally.recall}")
    print(f"precision at IoU 0.5  {tally.precision}")
    print(f"false on absent       {tally.false_on_absent}")
    print(f"mean IoU of matches   {np.mean(tally.ious) if tally.ious else 0:.3f}")
    claim("find_recall", tally.recall.value, 0.90)
    claim("find_precision", tally.precision.value, 0.90)
    claim("find_false_on_absent", tally.false_on_absent.value, 0.02, at_most=True)


if __name__ == "__main__":
    main()
