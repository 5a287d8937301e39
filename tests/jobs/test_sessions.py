"""Saved sessions in a job: what a killed run had read is not read again."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from jobs import session
from jobs.show import open_output
from pipeline.audit import collect
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from tests.jobs.fake_jobs import answers, digest, fake_model, find, make_job, run, sample
from tests.jobs.fakes import FakeFilling, FakeModel

SMALL = {"prefill_chunk": 300}


class Dying(FakeModel):
    """Ends the process, so to say, when it has read some chunks."""

    fed: list[int] = []  # noqa: RUF012 - what all sessions of a test were fed

    def __init__(self, chunks: int = 10**9) -> None:
        self.left = chunks

    def begin(self, plan: VideoPlan) -> FakeFilling:
        return self._watched(FakeFilling(plan))

    def resume(self, plan: VideoPlan, path: Path, video_id: str) -> FakeFilling:
        return self._watched(FakeModel.resume(self, plan, path, video_id))

    def _watched(self, filling: FakeFilling) -> FakeFilling:
        plain = filling.feed

        def feed(frames: FrameBatch) -> None:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.fed.append(frames.chunk_index)
            plain(frames)

        filling.feed = feed  # type: ignore[method-assign]
        return filling


@pytest.fixture(autouse=True)
def nothing_fed() -> None:
    Dying.fed.clear()


def go(job: object, chunks: int = 10**9) -> None:
    with fake_model(lambda: Dying(chunks)):
        session.run_job(job, Console(quiet=True))  # type: ignore[arg-type]


def saved(output: Path) -> list[Path]:
    return sorted((output / "_sessions").glob("*"))


def test_a_killed_run_goes_on_inside_its_video(tmp_path: Path) -> None:
    def job(name: str) -> object:
        cluster = {"executor": "serial", "snapshot_minutes": 0}
        queries = [find("q")]
        return make_job(
            tmp_path / name, [sample("twice.webm")], queries, model=SMALL, cluster=cluster
        )

    go(job("whole"))
    whole = [*Dying.fed]
    Dying.fed.clear()
    with pytest.raises(KeyboardInterrupt):
        go(job("out"), 3)
    assert len(saved(tmp_path / "out")) == 1
    go(job("out"))
    assert Dying.fed == whole
    assert saved(tmp_path / "out") == []
    assert digest(tmp_path / "out") == digest(tmp_path / "whole")


def test_a_kept_session_answers_a_question_that_comes_later(tmp_path: Path) -> None:
    def job(*queries: dict[str, str]) -> object:
        cluster = {"executor": "serial", "keep_sessions": True}
        return make_job(
            tmp_path / "out", [sample("twice.webm")], list(queries), model=SMALL, cluster=cluster
        )

    go(job(find("q")))
    assert Dying.fed
    Dying.fed.clear()
    go(job(find("q"), find("r")))
    assert Dying.fed == []
    assert answers(tmp_path / "out") == {("twice.webm", "q"), ("twice.webm", "r")}
    assert len(saved(tmp_path / "out")) == 1


def test_gc_takes_half_written_sessions_and_no_others(tmp_path: Path) -> None:
    run(make_job(tmp_path / "out", [sample("twice.webm")], [find("q")]))
    folder = tmp_path / "out" / "_sessions"
    folder.mkdir()
    for name in (".a.session.17.tmp", "a.session"):
        (folder / name).touch()
    log = open_output(str(tmp_path / "out"))
    gone = collect(log, 0, 1e12, dry_run=False)
    assert [file.path for file in gone] == ["_sessions/.a.session.17.tmp"]
    assert [path.name for path in folder.iterdir()] == ["a.session"]


def test_nothing_is_saved_where_that_is_off(tmp_path: Path) -> None:
    cluster = {"executor": "serial", "snapshot_minutes": None}
    run(make_job(tmp_path / "out", [sample("twice.webm")], [find("q")], cluster=cluster))
    assert not (tmp_path / "out" / "_sessions").exists()
