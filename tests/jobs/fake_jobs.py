"""Jobs over the fake model, in this process or in one of their own; what they leave, read back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from jobs import clients, session
from jobs.executor import SerialExecutor
from jobs.run_batch import BatchSummary, Choose, is_open
from jobs.show import open_output, read_frame
from pipeline.audit import rows_sha256
from pipeline.commit_log import CommitLog
from pipeline.store import FolderStore
from sample_media.generate import HERE
from schemas.job import JobSpec, read_job
from schemas.plan import VideoPlan
from schemas.ports import Question, Reply
from tests.jobs.fakes import FACTS, FakeFilled, FakeFilling, FakeModel
from tests.pipeline.test_plan import Counter

VIDEOS = ("modern.mp4", "turned.mov", "odd_frames.avi", "twice.webm")


def find(query_id: str, start: float = 3.0, end: float = 9.0) -> dict[str, str]:
    """A question that the fake model answers with one span."""
    said = f'{{"events": [{{"start": {start}, "end": {end}}}]}}'
    return {"id": query_id, "find": f"say {said}"}


def job_facts(output: Path, videos: list[Any], queries: list[Any], **more: Any) -> dict[str, Any]:
    facts = {"videos": videos, "queries": queries, "output": str(output), "sampling": {"fps": 1}}
    # No child process to read headers in: these files harm nobody.
    return {**facts, "cluster": {"executor": "serial"}, **more}


def make_job(output: Path, videos: list[Any], queries: list[Any], **more: Any) -> JobSpec:
    return read_job(job_facts(output, videos, queries, **more), where="t")


def sample(name: str) -> str:
    return str(HERE / name)


@contextmanager
def fake_model(model: Callable[[], Any] = FakeModel) -> Iterator[None]:
    """Jobs inside are run by the fake model, in this process."""
    with (
        mock.patch.object(session, "load_facts", return_value=(FACTS, Counter())),
        mock.patch.object(session, "start_executor", return_value=SerialExecutor(model)),
    ):
        yield


def run(job: JobSpec, choose: Choose = is_open) -> BatchSummary:
    with fake_model():
        return session.run_job(job, Console(quiet=True), choose=choose)


def digest(output: Path) -> str:
    return rows_sha256(open_output(str(output)))


def answers(output: Path) -> set[tuple[str, str]]:
    """(video, question) of every request row; each once."""
    rows = read_frame(open_output(str(output)), "requests").select("video_uri", "query_id").rows()
    assert len(set(rows)) == len(rows)
    return {(Path(uri).name, query) for uri, query in rows}


def commits(output: Path) -> list[str]:
    """The places of all commits, in order."""
    return [entry.place for entry in CommitLog(FolderStore(output)).state().entries if entry.place]


def stop_at(step: str, nth: int) -> Callable[[str], None]:
    """A step hook that ends this process at the `nth` time a step is reached, as SIGKILL would."""
    left = [nth]

    def hook(reached: str) -> None:
        left[0] -= reached == step
        if left[0] == 0:
            os._exit(9)

    return hook


@contextmanager
def stepping(hook: Callable[[str], None]) -> Iterator[None]:
    """Every commit of a job inside tells `hook` its steps."""

    def open_store(output: str) -> FolderStore:
        return FolderStore(Path(output), hook)

    def log(store: FolderStore) -> CommitLog:
        return CommitLog(store, hook)

    with (
        mock.patch.object(session, "open_store", open_store),
        mock.patch.object(session, "CommitLog", log),
    ):
        yield


class Meeting(FakeFilled):
    """Answers only when every client has come to the same question, so that they commit at once."""

    folder: Path
    count: int
    turn = 0

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        Meeting.turn += 1
        (self.folder / f"{Meeting.turn}-{os.getpid()}").touch()
        while len(list(self.folder.glob(f"{Meeting.turn}-*"))) < self.count:
            time.sleep(0.001)
        return super().ask(questions)


class MeetingFilling(FakeFilling):
    def finish(self) -> FakeFilled:
        super().finish()
        return Meeting()


class MeetingModel(FakeModel):
    def begin(self, plan: VideoPlan) -> FakeFilling:
        return MeetingFilling(plan)


def killed(job: JobSpec, step: str, nth: int) -> int:
    """Exit status of a client that ends at the `nth` time it reaches `step`."""

    def client() -> None:
        with stepping(stop_at(step, nth)):
            run(job)

    (status,) = in_processes([client])
    return status


def raced(jobs: Sequence[JobSpec], folder: Path) -> list[int]:
    """How many units each of the clients left to the other; -1 for one that failed.

    They ignore leases and hold every answer back until all have read the same video.
    """
    folder.mkdir()
    Meeting.folder, Meeting.count, Meeting.turn = folder, len(jobs), 0
    results = [folder / f"kept-{number}" for number in range(len(jobs))]

    def client(job: JobSpec, result: Path) -> None:
        alone = mock.patch.object(clients.Client, "elders", return_value=[])
        with fake_model(MeetingModel), alone:
            summary = session.run_job(job, Console(quiet=True))
        result.write_text(str(summary.num_kept))

    works = [partial(client, job, result) for job, result in zip(jobs, results, strict=True)]
    codes = in_processes(works)
    return [-1 if code else int(r.read_text()) for code, r in zip(codes, results, strict=True)]


def in_processes(works: Sequence[Callable[[], None]]) -> list[int]:
    """Run each in a fork of this process at the same time; their exit statuses."""
    children = []
    for work in works:
        if (child := os.fork()) == 0:
            try:
                work()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    """Trials from a JSON file, one to a line; their results on stdout. This process has imported
    everything and started no thread, so a fork of it is a client that starts in no time."""
    for line in Path(sys.argv[1]).read_text().splitlines():
        trial = json.loads(line)
        jobs = [read_job(job, where="t") for job in trial["jobs"]]
        if "step" in trial:
            print(json.dumps(killed(jobs[0], trial["step"], trial["nth"])))
        else:
            print(json.dumps(raced(jobs, Path(trial["folder"]))))


def try_all(folder: Path, trials: Sequence[dict[str, Any]]) -> list[Any]:
    """The results of `main` over these trials, from a process of its own."""
    path = folder / "trials.jsonl"
    path.write_text("\n".join(json.dumps(trial) for trial in trials))
    done = subprocess.run(
        [sys.executable, "-m", "tests.jobs.fake_jobs", str(path)],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


if __name__ == "__main__":
    main()
