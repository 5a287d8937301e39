"""A real cluster to kill: a scheduler, two workers with their nannies and decoders, and a client,
each a process of its own, on small videos that are really decoded.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from jobs.show import open_output, read_frame
from pipeline.scenes import Scene, Track
from sample_media.encode import Encoding, encode_scene

ROOT = Path(__file__).parent.parent.parent
TABLES = ("events", "requests", "videos")
NUM_VIDEOS = 6
NUM_WORKERS = 2
FOUND = 'say {"events": [{"start": 2.0, "end": 5.0}]}'
PATIENCE_S = 120.0
"""How long a process may take before the stage gives it up."""


def draw_videos(folder: Path) -> list[str]:
    """Small files, each of a length of its own."""
    paths = []
    for number in range(NUM_VIDEOS):
        track = Track("red", "circle", ((2.0, 5.0),), 0.5, 0.5, 0.05, 9.0, 0.4)
        scene = Scene(number, 96, 64, 7.0 + number / 2, "gradient", (track,))
        path = folder / f"video_{number}.mp4"
        options = {"vcodec": "libx264", "crf": 33, "preset": "ultrafast"}
        encode_scene(scene, path, Encoding(fps=4, options=options))
        paths.append(str(path))
    return paths


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


def until(what: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """Wait for something to be true. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not (found := what()):
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not happen")
        time.sleep(0.01)
    return found


def python(*arguments: str, cwd: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )


@dataclass
class Stage:
    """One cluster and what is played on it; every part may be killed, and is put back by hand, as
    an operator does."""

    folder: Path
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.videos = draw_videos(self.folder)
        self._scheduler = self._start_scheduler()
        self._nannies = [self._start_worker(number) for number in range(NUM_WORKERS)]
        until(lambda: all(len(self.worker_processes(n)) == 1 for n in range(NUM_WORKERS)))

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def close(self) -> None:
        for process in (*self._nannies, self._scheduler):
            process.kill()
            process.wait()

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        command = ("-m", "distributed.cli.dask_scheduler", "--no-dashboard", "--host", "127.0.0.1")
        log = self.folder / "scheduler.log"
        return python(*command, "--port", str(self.port), cwd=self.folder, log=log)

    def _start_worker(self, number: int) -> subprocess.Popen[bytes]:
        command = ("-m", "jobs.cli", "worker", self.address, "--threads", "1")
        return python(*command, cwd=self.folder, log=self.folder / f"worker_{number}.log")

    def worker_processes(self, number: int) -> list[psutil.Process]:
        """The worker under a nanny; its decoder is a child of that."""
        return _children(self._nannies[number].pid, "spawn_main")

    def decoders(self) -> list[psutil.Process]:
        workers = [p for n in range(NUM_WORKERS) for p in self.worker_processes(n)]
        return [child for worker in workers for child in _children(worker.pid, "jobs.child")]

    def kill_scheduler(self, _rng: random.Random) -> None:
        self.end_scheduler()
        self.bring_back_scheduler()

    def end_scheduler(self) -> None:
        self._scheduler.kill()
        self._scheduler.wait()

    def bring_back_scheduler(self) -> None:
        self._scheduler = self._start_scheduler()

    def kill_nanny(self, rng: random.Random) -> None:
        number = rng.randrange(NUM_WORKERS)
        self._nannies[number].kill()
        self._nannies[number].wait()
        self._nannies[number] = self._start_worker(number)

    def kill_worker(self, rng: random.Random) -> None:
        _kill(self.worker_processes(rng.randrange(NUM_WORKERS)))

    def kill_decoder(self, rng: random.Random) -> None:
        _kill(rng.sample(found, 1) if (found := self.decoders()) else [])


def _children(pid: int, word: str) -> list[psutil.Process]:
    try:
        children = psutil.Process(pid).children()
        return [child for child in children if any(word in part for part in child.cmdline())]
    except psutil.Error:
        return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


class Play:
    """One job in a folder of its own, whose client may be started, killed and started again."""

    def __init__(
        self, stage: Stage, folder: Path, fps: float = 2.0, wait_s: float = PATIENCE_S
    ) -> None:
        self.stage, self.folder = stage, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.marks, self.log = folder / "marks", folder / "client.log"
        self.marks.touch()
        job = {
            "videos": stage.videos,
            "queries": [{"id": "found", "find": FOUND}, {"id": "none", "find": "nothing"}],
            "sampling": {"fps": fps},
            "model": {"prefill_chunk": 64},
            "cluster": {"wait_s": wait_s},
            # Relative, so that rows are the same in every folder.
            "output": "out",
        }
        (folder / "job.yaml").write_text(yaml.safe_dump(job))

    def start(self, step: str = "none", occurrence: int = 1) -> subprocess.Popen[bytes]:
        self.log.write_bytes(b"")
        command = ("-m", "tests.crash.client", str(self.marks), step, str(occurrence))
        job = ("run", "job.yaml", "--scheduler", self.stage.address)
        return python(*command, *job, cwd=self.folder, log=self.log)

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        return process.wait(timeout=PATIENCE_S)

    def is_reading(self) -> bool:
        return "Reading" in self.said()

    def said(self) -> str:
        return self.log.read_text()

    def begun(self) -> Counter[str]:
        """How often the model began each video."""
        return Counter(self.marks.read_text().split())

    def committed(self, job_id: str) -> set[str]:
        """Lengths of the videos whose rows of this job are committed, in ticks."""
        out = self.folder / "out"
        if not (out / "_log").is_dir():
            return set()
        videos = read_frame(open_output(str(out)), "videos")
        ours = videos.filter(videos["job_id"] == job_id)
        # Ticks as the marks count them: the files run at a constant 1/16384 s.
        return {str(round(end * 16384)) for end in ours["end_s"]}

    def committed_at_all(self) -> bool:
        return any((self.folder / "out" / "_log").glob("[0-9]*.json"))

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """All rows that count, without the time they were made."""
        log = open_output(str(self.folder / "out"))
        return {name: read_frame(log, name).drop("created_at").to_dicts() for name in TABLES}


def digest(rows: dict[str, list[dict[str, Any]]]) -> str:
    text = repr({name: sorted(map(repr, found)) for name, found in rows.items()})
    return hashlib.sha256(text.encode()).hexdigest()


def fresh_copy(source: Path, target: Path) -> None:
    """Begin a play where another one ended."""
    shutil.copytree(source / "out", target / "out")
