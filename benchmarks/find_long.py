"""Spans in long videos, through the production path: real H.264 files, decoded, sampled, prefilled
in chunks, answered under the grammar, read back from Parquet.

`python -m benchmarks.find_long` asks at 4K, 8K, 16K and 32K tokens, on frames of 12
and of 144 merged tokens in turn. Four things come and go, each up to five times; it is asked for
each of them and for four that are never there, most of which share colour or shape with one that
is. A hit is a temporal IoU of at least one half.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks._claim import claim
from benchmarks.needles import FRAMES, Frames, count_pairs, tokens_of
from jobs.session import run_job
from jobs.show import open_output, read_frame
from jobs.tools import load_facts
from pipeline.needles import draw_coming_and_going
from pipeline.plan import LONGEST_TIME_S
from pipeline.questions import build_questions
from pipeline.scenes import COLOURS, SHAPES, Scene, spans_of
from pipeline.scoring import Rate, Span, match_spans
from sample_media.encode import Encoding, encode_scene
from schemas.events import RequestStatus
from schemas.job import JobSpec, ModelSpec, QuerySpec, read_job
from schemas.time import TimeSpan, timestamp_text

FIRST_SEED = 3_000_000
"""Training draws pictures of its own; it never draws a scene."""
FPS = 2
THINGS = 4
ANSWER_TOKENS = 160
CLIPS = {"4k": 10, "8k": 8, "16k": 6, "32k": 6}


@dataclass(frozen=True, slots=True)
class Clip:
    """One drawn file and what is asked of it."""

    path: Path
    scene: Scene
    frames: Frames
    pairs: int
    longest_pair: int
    """Tokens that the longest patch pair takes, its time included."""
    asked: tuple[str, ...]


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


def draw_clip(name: str, number: int, model: str, folder: Path) -> Clip:
    """A clip that fills `name` tokens; drawn where the folder lacks it."""
    frames = FRAMES["small" if number % 2 else "large"]
    _, counter = load_facts(ModelSpec(name=model))
    (longest,) = build_questions([_query("purple triangle")], TimeSpan(0, 9999, Fraction(1)))
    room = tokens_of(name) - counter.prefix_tokens() - counter.question_tokens(longest)
    pairs = count_pairs(counter, room, frames.pair_tokens, FPS)
    seed = FIRST_SEED + 1000 * list(CLIPS).index(name) + number
    scene = draw_coming_and_going(
        seed, frames.file_px, 2 * pairs / FPS, THINGS, frames.sizes.things
    )
    path = folder / f"find_{name}_{number}.mp4"
    if not path.exists():
        options = {"vcodec": "libx264", "crf": 26, "preset": "veryfast"}
        encode_scene(scene, path, Encoding(fps=FPS, options=options))
    shown = tuple(track.name for track in scene.tracks)
    longest_pair = counter.pair_tokens(timestamp_text(LONGEST_TIME_S), frames.pair_tokens)
    return Clip(path, scene, frames, pairs, longest_pair, (*shown, *_absent(seed, shown)))


def _query(name: str) -> QuerySpec:
    text = f"a {name}"
    return QuerySpec(id=name.replace(" ", "_"), find=text, max_answer_tokens=ANSWER_TOKENS)


def _absent(seed: int, shown: tuple[str, ...]) -> list[str]:
    """Things that are not there; three of four share colour or shape with one that is."""
    rng = np.random.default_rng((29, seed))
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    near = [n for n in names if any(set(n.split()) & set(s.split()) for s in shown)]
    picked: list[str] = []
    while len(picked) < THINGS:
        name = str(rng.choice(near if rng.uniform() < 0.75 else names))
        if name not in (*shown, *picked):
            picked.append(name)
    return picked


def job_of(model: str, clip: Clip, output: Path) -> JobSpec:
    """Asks for all of the clip's things at once, of all of its frames."""
    queries = [_query(name).model_dump(exclude_defaults=True) for name in clip.asked]
    job: dict[str, Any] = {
        "videos": [str(clip.path)],
        "queries": queries,
        "model": {"name": model},
        "sampling": {
            "fps": FPS,
            "max_frames": 2 * clip.pairs,
            "pair_tokens": clip.frames.pair_tokens,
            "video_tokens": clip.pairs * clip.longest_pair,
        },
        "cluster": {"executor": "serial", "lookahead_chunks": 1},
        "output": str(output),
    }
    return read_job(job, where="benchmark")


def find_all(model: str, clip: Clip, output: Path) -> dict[str, list[Span]]:
    """What the production path finds, by thing, in seconds."""
    summary = run_job(job_of(model, clip, output), Console(quiet=True))
    # Of an answer that is too long, what came before the cut counts.
    failed = [row for _, row in summary.failures if row.status is not RequestStatus.TRUNCATED]
    if failed:
        raise SystemExit(f"{clip.path.name}: {failed}")
    found: dict[str, list[Span]] = {name: [] for name in clip.asked}
    for row in read_frame(open_output(str(output)), "events").iter_rows(named=True):
        found[row["query_id"].replace("_", " ")].append((row["start_s"], row["end_s"]))
    return found


def measure(model: str, name: str, numbers: range, folder: Path, *, show: bool) -> Tally:
    """The clips of one length with these numbers."""
    tally, started = Tally(), time.monotonic()
    for number in numbers:
        clip = draw_clip(name, number, model, folder)
        with tempfile.TemporaryDirectory() as output:
            found = find_all(model, clip, Path(output) / "out")
        for thing, said in found.items():
            truth = spans_of(clip.scene, thing)
            if not tally.add(said, truth) and show:
                print(f"  {clip.path.name} {thing}: truth {truth}, said {said}", flush=True)
    print(f"{name}: {len(numbers)} clips, {time.monotonic() - started:.0f} s", flush=True)
    return tally


def report(name: str, tally: Tally) -> None:
    print(f"{name} recall           {tally.recall}")
    print(f"{name} precision        {tally.precision}")
    print(f"{name} false on absent  {tally.false_on_absent}")
    print(f"{name} mean IoU         {np.mean(tally.ious) if tally.ious else 0:.3f}")
    claim(f"find_{name}_recall", tally.recall.value, 0.97)
    claim(f"find_{name}_precision", tally.precision.value, 0.97)
    claim(f"find_{name}_false_on_absent", tally.false_on_absent.value, 0.01, at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano", help="checkpoint folder or name")
    parser.add_argument("--tokens", action="append", help=f"any of {', '.join(CLIPS)}")
    parser.add_argument("--clips", type=int, help="clips of each length")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    parser.add_argument("--keep", default="", help="folder for the clips, used again next time")
    parser.add_argument("--show", action="store_true", help="print every answer that is wrong")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        facts, _ = load_facts(ModelSpec(name=options.model))
        for name in map(str.lower, options.tokens or list(CLIPS)):
            if tokens_of(name) > facts.context_tokens:
                print(f"{name}: left out, {options.model} holds {facts.context_tokens:,} tokens")
                continue
            clips = options.clips or CLIPS[name]
            numbers = range(options.first, options.first + clips)
            report(name, measure(options.model, name, numbers, folder, show=options.show))


if __name__ == "__main__":
    main()
