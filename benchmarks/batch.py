"""A batch on the embedded cluster: poison, what a unit costs to schedule, a second decoder, and
heartbeats under a long prefill.

500 tiny videos, then the same with three poison files among them (a crash, a loop that never lets
go of the interpreter, a memory bomb; see `_poison`). What the three take alone is taken off before
the two runs are compared. The model of these runs answers at once, so that everything but the
cluster is out of the way; decoding is real.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import _bare, _poison
from benchmarks._claim import claim
from benchmarks._shapes import NANO_SHAPE, fill, plan_tokens, write_checkpoint
from jobs import run_batch, session, start
from jobs.cluster import EmbeddedCluster
from jobs.dask_executor import DaskExecutor
from jobs.executor import Executor, Outcome, Report, TaskContext
from jobs.show import open_output, read_frame
from model.engine import load_model
from pipeline.scenes import Scene, Track
from sample_media.encode import FFMPEG, Encoding, encode_scene
from schemas.job import read_job
from tests.counter import Counter as Tokens
from tests.jobs.fakes import FACTS, FakeModel

DECODE_LIMIT_S = 2.0
DECODE_MEMORY_MIB = 512
TURNS = 3
PREFILL_TOKENS = 131_072
H264 = {"vcodec": "libx264", "crf": 33, "preset": "ultrafast"}


def draw(
    path: Path, seed: int, seconds: float, size: tuple[int, int], fps: int, **options: Any
) -> None:
    track = Track("red", "circle", ((1.0, 3.0),), 0.5, 0.5, 0.05, 9.0, 0.4)
    scene = Scene(seed, *size, seconds, "gradient", (track,))
    encode_scene(scene, path, Encoding(fps=fps, options=H264 | options))


def copies(base: Path, names: list[str]) -> list[Path]:
    """The same film under other names and with other bytes: a unit each, at no encoder's cost."""
    paths = [base.with_name(f"{name}.mp4") for name in names]
    for path in paths:
        text = path.stem.encode()
        # An empty box behind the film means nothing to a reader.
        box = (8 + len(text)).to_bytes(4, "big") + b"free" + text
        path.write_bytes(base.read_bytes() + box)
    return paths


class Timed:
    """An executor that knows how long its batch took: commits included, starting workers not."""

    def __init__(self, inner: Executor, *, skips_first: bool) -> None:
        self._inner = inner
        self._skips_first = skips_first
        """The first unit only warms up: every process has its imports behind it then."""
        self.seconds = 0.0

    def run(self, *arguments: Any) -> Iterator[Outcome[Any, Any]]:
        started = time.monotonic()
        for number, outcome in enumerate(self._inner.run(*arguments)):
            if number == 0 and self._skips_first:
                started = time.monotonic()
            yield outcome
        self.seconds = time.monotonic() - started

    def describe(self) -> str:
        return self._inner.describe()

    def close(self) -> None:
        self._inner.close()


def run(
    out: Path, videos: list[Path], *, skips_first: bool = False, chunk: int = 256, **cluster: Any
) -> float:
    """Do a job into `out`; seconds of its batch."""
    limits = {"decode_limit_s": DECODE_LIMIT_S, "decode_memory_mib": DECODE_MEMORY_MIB}
    job = read_job(
        {
            "videos": [str(path) for path in videos],
            "queries": [{"id": "q", "find": 'say {"events": [{"start": 1.0, "end": 3.0}]}'}],
            "sampling": {"fps": 1},
            "model": {"prefill_chunk": chunk},
            "cluster": {**limits, **cluster},
            "output": str(out),
        },
        where="benchmark",
    )
    executors: list[Timed] = []

    def start_timed(*arguments: Any) -> Timed:
        executors.append(Timed(start.start_executor(*arguments), skips_first=skips_first))
        return executors[-1]

    session.start_executor = start_timed
    session.run_job(job, Console(quiet=True))
    return executors[0].seconds


def poison(folder: Path, count: int) -> None:
    """The clean run, the three files alone, all together; and what came of the three."""
    base = folder / "base.mp4"
    draw(base, 1, 4.0, (64, 64), 4)
    videos = copies(base, [f"v_{number:03d}" for number in range(count)])
    bad = copies(base, [f"{kind}_0" for kind in _poison.REASONS])
    (folder / _poison.TRIES).mkdir()
    mixed = list(videos)
    for number, path in enumerate(bad, start=1):
        mixed.insert(number * count // (len(bad) + 1), path)
    clean, alone, together = [], [], []
    for turn in range(TURNS):
        clean.append(run(folder / f"clean_{turn}", videos))
        alone.append(run(folder / f"alone_{turn}", bad))
        for path in (folder / _poison.TRIES).iterdir():
            path.unlink()
        together.append(run(folder / f"together_{turn}", mixed))
    check_poison(folder, folder / "together_0", len(mixed))
    clean_s, alone_s, together_s = map(statistics.median, (clean, alone, together))
    print(
        f"{count} videos: clean {clean_s:.2f} s ({1e3 * clean_s / count:.1f} ms a unit), the three "
        f"poison files alone {alone_s:.2f} s, all together {together_s:.2f} s (medians of {TURNS})"
    )
    claim("poison_loss", (together_s - alone_s) / clean_s - 1, 0.05, at_most=True)


def check_poison(folder: Path, out: Path, count: int) -> None:
    rows = read_frame(open_output(str(out)), "requests").to_dicts()
    failed = {Path(row["video_uri"]).name: row for row in rows if row["status"] != "found"}
    tries = {path.name: path.stat().st_size for path in (folder / _poison.TRIES).iterdir()}
    for name, row in failed.items():
        print(f"  {name}: {row['status']}, {row['reason']}, {tries.get(name)} attempts")
    wanted = {f"{kind}_0.mp4": reason for kind, reason in _poison.REASONS.items()}
    right = {name: row["reason"] for name, row in failed.items()} == wanted
    claim("poison_only_those_fail", float(right and len(rows) == count), 1)
    claim("poison_attempts", max(tries.values()), 2, at_most=True)


def nothing(_context: TaskContext, number: int) -> int:
    return number


def overhead(count: int) -> None:
    """What a unit costs that does nothing: from the client to a worker and back."""
    executor = DaskExecutor(Tokens, EmbeddedCluster(model_workers=1, decode_workers=1))
    try:
        list(executor.run(nothing, range(20), _ignore))
        started = time.monotonic()
        done = Counter(outcome.result for outcome in executor.run(nothing, range(count), _ignore))
        seconds = time.monotonic() - started
    finally:
        executor.close()
    if done != Counter(range(count)):
        raise RuntimeError("a unit was lost or came twice")
    print(f"scheduling: {1e3 * seconds / count:.2f} ms a unit, {count} units that do nothing")
    claim("scheduling_ms_per_unit", 1e3 * seconds / count, 20, at_most=True)


def _ignore(_report: Report) -> None:
    """Reports are not looked at."""


FILM_S, FILM_LOOPS = 480.0, 24


def two_decoders(folder: Path) -> None:
    """Decode-bound work: one long film of large frames, for a model that answers at once."""
    short, film = folder / "short.mp4", folder / "film.mp4"
    # 2 ms a frame: cameras' films are heavier still. A keyframe every two seconds, as they have.
    heavy = {"crf": 25, "preset": "veryfast", "g": 48}
    draw(short, 2, FILM_S / FILM_LOOPS, (1920, 1080), 24, **heavy)
    again = ("-stream_loop", str(FILM_LOOPS - 1), "-i", str(short), "-c", "copy")
    subprocess.run([FFMPEG, *again, "-loglevel", "error", str(film)], check=True)

    def taken(count: int, turn: int) -> float:
        return run(
            folder / f"d{count}_{turn}",
            [short, film],
            skips_first=True,
            # Many chunks: of nine, two decoders do five while one does nine.
            chunk=64,
            decode_limit_s=60,
            decode_workers=count,
            lookahead_chunks=4,
        )

    # In turn: what a shared machine gives its cores changes from minute to minute.
    turns = [
        (taken(1, turn), taken(2, turn), _bare.gain_of_two(film, FILM_S)) for turn in range(TURNS)
    ]
    for one_s, two_s, bare in turns:
        print(
            f"decode-bound: 1 decoder {one_s:.2f} s, 2 decoders {two_s:.2f} s, {one_s / two_s:.2f} "
            f"times; two processes that only decode and share nothing, {bare:.2f} times"
        )
    gain = statistics.median(one_s / two_s for one_s, two_s, _ in turns)
    claim("two_decoders", gain, 1.8)
    share = statistics.median(one_s / two_s / bare for one_s, two_s, bare in turns)
    claim("two_decoders_of_what_the_machine_gives", share, 0.95)


def prefill(context: TaskContext, tokens: int) -> int:
    """One pass over a video of random pixels, on the model worker."""
    plan = plan_tokens(context.tool.facts, context.tool.counter, tokens, [])
    fill(context.tool, plan)
    return plan.video_tokens


def heartbeats(folder: Path) -> None:
    """How long the scheduler does not hear of a model worker that prefills."""
    checkpoint = write_checkpoint(NANO_SHAPE, folder / "shape")
    executor = DaskExecutor(
        partial(load_model, str(checkpoint), dtype="bfloat16"),
        EmbeddedCluster(model_workers=1, decode_workers=1),
    )
    done, silences = threading.Event(), []

    def listen() -> None:
        while not done.wait(0.1):
            workers = executor.client.scheduler_info(n_workers=-1)["workers"]
            silences.append(max(time.time() - facts["last_seen"] for facts in workers.values()))

    listener = threading.Thread(target=listen)
    try:
        listener.start()
        started = time.monotonic()
        (outcome,) = executor.run(prefill, [PREFILL_TOKENS], _ignore)
        seconds = time.monotonic() - started
    finally:
        done.set()
        listener.join()
        executor.close()
    if outcome.error is not None:
        raise outcome.error
    print(
        f"heartbeats: {outcome.result} tokens prefilled in {seconds:.0f} s, longest silence of a "
        f"worker {max(silences):.2f} s"
    )
    claim("longest_silence_s", max(silences), 10, at_most=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=500)
    parser.add_argument("--only", choices=("overhead", "poison", "two_decoders", "heartbeats"))
    asked = parser.parse_args()
    # A model that answers at once, and a decoder that poison reaches: see the module's first lines.
    session.load_facts = lambda _spec: (FACTS, Tokens())
    start.model_maker = lambda _spec, _digest: FakeModel
    run_batch.answer_unit = _poison.answer_unit
    folder = Path(tempfile.mkdtemp(prefix="longtake-batch-"))
    parts = {
        "overhead": partial(overhead, 500),
        "poison": partial(poison, folder, asked.videos),
        "two_decoders": partial(two_decoders, folder),
        "heartbeats": partial(heartbeats, folder),
    }
    try:
        for name, part in parts.items():
            if asked.only in (None, name):
                part()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
