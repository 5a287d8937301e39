"""A quarter of a million and a million tokens of real decoded video through nano in one pass.

`python -m benchmarks.long_video` runs 256K tokens; `--tokens 1m` the million (an hour of video, and
up to an hour of two CPU cores); `--tokens 256k --tokens 1m` both. Each length runs in a process of
its own, so that the peak memory is that of one run.

The video is a drawn scene, encoded once and repeated to length without encoding it again. The rest
is the production path: digest, probe, plan, decode ahead, vision, prefill in chunks, two questions,
Parquet. This measures time and memory; what nano finds at a length is `benchmarks.needles`' to say.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from rich.console import Console

from benchmarks._claim import claim
from jobs.executor import Report
from jobs.session import run_job
from jobs.show import open_output, read_frame
from jobs.tools import load_facts
from pipeline.plan import LONGEST_TIME_S
from pipeline.probe import probe
from pipeline.questions import build_questions
from pipeline.scenes import Scene, Track
from sample_media.encode import Encoding, encode_scene
from schemas.job import JobSpec, ModelSpec, QuerySpec, read_job
from schemas.media import VideoSource
from schemas.ports import PromptCounter
from schemas.time import TimeSpan, timestamp_text

FPS = 4
SIDE_PX = 384
"""12 x 12 merged tokens of 32 pixels."""
PAIR_TOKENS = 144
PREFILL_CHUNK = 8192
ANSWER_TOKENS = 128
"""Longest answer: each of its tokens reads the whole cache."""
SCENE_S = 150
"""Drawn and encoded once, then repeated."""
ASKED = ("red circle", "blue square")
GOAL_MINUTES = {"256k": 20.0, "1m": 60.0}
GOAL_GIB = {"1m": 8.0}
SLACK = 0.10
"""How far the planned bytes may be from the measured ones, as a share of these."""
GIB = 1024**3


def draw_scene() -> Scene:
    """Two things that come and go on clutter that moves."""
    tracks = (
        Track("red", "circle", ((20, 45), (100, 110)), 0.27, 0.3, 0.05, 9.0, 0.2),
        Track("yellow", "star", ((60, 90),), 0.7, 0.7, 0.05, 7.0, 0.2),
    )
    return Scene(31, SIDE_PX, SIDE_PX, SCENE_S, "clutter", tracks)


def repeat_video(source: Path, target: Path, frames: int) -> None:
    """Copy the packets of `source` behind each other until there are at least `frames`."""
    with av.open(str(source)) as first, av.open(str(target), "w") as out:
        stream = first.streams.video[0]
        packets = [packet for packet in first.demux(stream) if packet.size]
        copy = out.add_stream_from_template(stream)
        times = [(int(packet.pts or 0), int(packet.dts or 0)) for packet in packets]
        period = int(Fraction(len(packets), FPS) / Fraction(stream.time_base or 1))
        for turn in range(-(-frames // len(packets))):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.pts, packet.dts = pts + turn * period, dts + turn * period
                # Muxing may rescale a packet's times to those of the file that is written.
                packet.time_base, packet.stream = Fraction(stream.time_base or 1), copy
                out.mux_one(packet)


def make_video(folder: Path, frames: int) -> Path:
    """A file of at least `frames` frames in `folder`; checked, and used again where it is there."""
    once, path = folder / "scene.mp4", folder / f"repeated_{frames}.mp4"
    if not once.exists():
        options = {"vcodec": "libx264", "crf": 28, "preset": "veryfast", "g": 48}
        encode_scene(draw_scene(), once, Encoding(fps=FPS, options=options))
    if not path.exists():
        repeat_video(once, path, frames)
    index = probe(VideoSource(path.name, str(path)), "not read")
    whole = -(-frames // (SCENE_S * FPS)) * SCENE_S * FPS
    steps = np.unique(np.diff(index.frame_pts) * index.time_base)
    if index.num_frames != whole or list(steps) != [Fraction(1, FPS)] or index.notes:
        raise RuntimeError(f"{path} has {index.num_frames} frames of {whole}: {index.notes}.")
    if index.span.duration_s != Fraction(whole, FPS):
        raise RuntimeError(f"{path} lasts {float(index.span.duration_s)} s.")
    return path


def count_pairs(counter: PromptCounter, tokens: int) -> int:
    """Patch pairs at `FPS` that fit `tokens`."""
    pairs = filled = 0
    while True:
        middle = Fraction(4 * pairs + 1, 2 * FPS)
        filled += counter.pair_tokens(timestamp_text(middle), PAIR_TOKENS)
        if filled > tokens:
            return pairs
        pairs += 1


def make_job(folder: Path, tokens: int) -> JobSpec:
    """A job that takes just under `tokens`, questions and answers included."""
    _, counter = load_facts(ModelSpec(name="nano", dtype="bfloat16"))
    queries = [
        QuerySpec(id=thing.replace(" ", "_"), find=f"a {thing}", max_answer_tokens=ANSWER_TOKENS)
        for thing in ASKED
    ]
    asked = build_questions(queries, TimeSpan(0, 9999, Fraction(1)))
    text = counter.prefix_tokens() + sum(counter.question_tokens(question) for question in asked)
    pairs = count_pairs(counter, tokens - text)
    longest = counter.pair_tokens(timestamp_text(LONGEST_TIME_S), PAIR_TOKENS)
    video = make_video(folder, 2 * pairs)
    data: dict[str, Any] = {
        "videos": [{"uri": str(video), "clip": ["0", str(2 * pairs / FPS)]}],
        "queries": [query.model_dump(exclude_defaults=True) for query in queries],
        "model": {"name": "nano", "dtype": "bfloat16", "prefill_chunk": PREFILL_CHUNK},
        "sampling": {
            "fps": FPS,
            "max_frames": 2 * pairs,
            "pair_tokens": PAIR_TOKENS,
            # Every timestamp at its longest, which most are not: the plan counts the true ones.
            "video_tokens": pairs * longest,
        },
        "cluster": {"executor": "serial", "lookahead_chunks": 1},
        "output": str(folder / f"out_{tokens}_{time.time_ns()}"),
    }
    return read_job(data, where="benchmark")


@dataclass(slots=True)
class Watch:
    """What the run tells while it goes on, as lines on stderr."""

    tokens: int
    seconds: float
    started: float
    every_s: float = 30.0
    marks: list[tuple[float, float]] = field(default_factory=list)
    """(share of the video, wall seconds since the start), one for each chunk."""
    said: float = 0.0

    def on_report(self, report: Report) -> None:
        self.marks.append((report["seconds"] / self.seconds, time.monotonic() - self.started))
        if self.marks[-1][1] - self.said >= self.every_s:
            self.said = self.marks[-1][1]
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        share, at = self.marks[-1]
        return (
            f"{share:6.1%}  {at:6.0f} s  {self.rate(self.marks[-2:]):7.0f} tokens/s now  "
            f"about {self.left_s():.0f} s left"
        )

    def rate(self, marks: list[tuple[float, float]]) -> float:
        """Tokens per second from the first of `marks` to the last."""
        if len(marks) < 2:
            marks = [(0.0, 0.0), *marks]
        (share, at), (later_share, later) = marks[0], marks[-1]
        return (later_share - share) * self.tokens / max(later - at, 1e-9)

    def left_s(self) -> float:
        """Later tokens look at more: the time grows with the square of the share."""
        shares, times = (np.asarray(column) for column in zip((0.0, 0.0), *self.marks, strict=True))
        terms = np.stack([np.ones_like(shares), shares, shares**2], axis=1)
        if len(shares) < 4:
            terms = terms[:, :2]
        fit = np.linalg.lstsq(terms, times, rcond=None)[0]
        return max(0.0, float(fit.sum()) - self.marks[-1][1])


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024


def run_length(name: str, tokens: int, folder: Path) -> None:
    """One length in this process, with its claims."""
    job = make_job(folder, tokens)
    _, end_s = job.videos[0].clip_s or (0, 0)
    watch = Watch(tokens, float(end_s), time.monotonic())
    summary = run_job(job, Console(quiet=True), watch.on_report)
    wall_s, peak = time.monotonic() - watch.started, peak_bytes()
    if summary.failures:
        sys.exit(f"{name}: {summary.failures}")
    report(name, job, watch, wall_s, peak)


def report(name: str, job: JobSpec, watch: Watch, wall_s: float, peak: int) -> None:
    """Print what was measured beside what was planned."""
    log = open_output(job.output)
    (row,) = read_frame(log, "videos").iter_rows(named=True)
    total, share = row["total_tokens"], row["total_tokens"] / watch.tokens
    predicted, read_s = row["predicted_bytes"], watch.marks[-1][1]
    size = f"{row['frame_width']}x{row['frame_height']}"
    print(f"nano, bfloat16, {name} tokens of decoded video in one pass: time and memory only")
    print(f"tokens      {total:,}, {share:.2%} of {watch.tokens:,}, in {row['num_chunks']} chunks")
    print(f"frames      {row['sampled_frames']:,} of {size}, {row['num_corrupt']} corrupt")
    print(f"video       {row['end_s'] - row['start_s']:.0f} s of {row['size_bytes']:,} bytes")
    print(f"wall        {wall_s:.1f} s: {read_s:.1f} reading, {wall_s - read_s:.1f} answering")
    print(f"prefill     {watch.rate(watch.marks):.0f} tokens/s, decoding and vision included;")
    print(f"            {watch.rate(watch.marks[-8:]):.0f} tokens/s at its end")
    print(f"peak        {peak / GIB:.2f} GiB; planned {predicted / GIB:.2f} GiB")
    for request in read_frame(log, "requests").iter_rows(named=True):
        print(f"answer      {request['query_id']}: {request['status']}")
    claim(f"long_video_{name}_tokens_share", share, 0.99)
    claim(f"long_video_{name}_planned_off", abs(predicted / peak - 1), SLACK, at_most=True)
    if name in GOAL_MINUTES:
        claim(f"long_video_{name}_minutes", wall_s / 60, GOAL_MINUTES[name], at_most=True)
    if name in GOAL_GIB:
        claim(f"long_video_{name}_peak_gib", peak / GIB, GOAL_GIB[name], at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", action="append", help="256k (the default), 1m, or any number")
    parser.add_argument("--keep", default="", help="folder for the video and the rows")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.keep or scratch).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        for name in map(str.lower, options.tokens or ["256k"]):
            tokens = ModelSpec(context=name).context
            assert tokens is not None
            if options.child:
                run_length(name, tokens, folder)
                continue
            make_job(folder, tokens)  # Drawing is not part of the peak.
            command = [sys.executable, "-m", "benchmarks.long_video", "--child"]
            subprocess.run([*command, "--tokens", name, "--keep", str(folder)], check=True)


if __name__ == "__main__":
    main()
