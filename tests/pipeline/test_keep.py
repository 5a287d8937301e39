"""Saved sessions: a pass that was killed goes on, with the rows it would have had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.keep import SessionKeeper, drop_sessions
from pipeline.run import chunk_work, decode_piece, run_video
from schemas.events import VideoResult
from schemas.media import FrameBatch, StreamIndex
from schemas.plan import VideoPlan
from tests.jobs.fakes import FakeFilling, FakeModel
from tests.pipeline.test_run import JOB, SOURCE


class Power:
    """Frames that stop coming after some chunks, as when a worker dies."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.read: list[int] = []

    def frames(self, index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
        for piece in chunk_work(index, plan, first):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.read.append(piece[1].index)
            yield decode_piece(piece)


def keeper(folder: Path, every_s: float = 0.0, *, keep: bool = False) -> SessionKeeper:
    return SessionKeeper(folder, "unit-", every_s, keep)


def run(power: Power, keeper: SessionKeeper) -> VideoResult:
    return run_video(SOURCE, "v", JOB, FakeModel(), power.frames, keeper=keeper)


def test_a_killed_pass_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    whole = Power(99)
    expected = run(whole, SessionKeeper(None))
    power = Power(3)
    with pytest.raises(KeyboardInterrupt):
        run(power, keeper(tmp_path))
    again = Power(99)
    assert run(again, keeper(tmp_path)) == expected
    assert again.read == whole.read[3:]
    drop_sessions(tmp_path, "unit-")
    assert not list(tmp_path.iterdir())


def test_it_is_saved_as_often_as_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    monkeypatch.setattr(FakeFilling, "save", lambda self, *_: saved.append(self.num_chunks))
    ticks = iter(range(0, 1000, 10))
    kept = SessionKeeper(tmp_path, every_s=25, clock=lambda: next(ticks))
    run(Power(99), kept)
    assert saved[:2] == [3, 6]


def test_a_kept_session_needs_no_frame(tmp_path: Path) -> None:
    expected = run(Power(99), keeper(tmp_path, 1e9, keep=True))
    later = Power(0)
    assert run(later, keeper(tmp_path, 1e9, keep=True)) == expected
    assert later.read == []


def test_a_damaged_session_is_prefilled_again_and_noted(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Power(3), keeper(tmp_path))
    (path,) = tmp_path.iterdir()
    path.write_text('{"video": "another"}')
    power = Power(99)
    result = run(power, keeper(tmp_path))
    assert power.read[0] == 0
    assert result.video is not None
    assert "saved session was not used: another video" in result.video.notes[-1]


def test_a_disk_that_refuses_costs_the_saving_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FakeFilling, "save", full)
    result = run(Power(99), keeper(tmp_path))
    assert result.video is not None
    assert result.video.notes[-1] == "the session could not be saved (No space left on device)"
    assert len(result.events) == 1


def test_other_frames_have_another_file(tmp_path: Path) -> None:
    run(Power(99), keeper(tmp_path, keep=True))
    slower = JOB.model_copy(update={"sampling": JOB.sampling.model_copy(update={"fps": 0.5})})
    power = Power(99)
    run_video(SOURCE, "v", slower, FakeModel(), power.frames, keeper=keeper(tmp_path, keep=True))
    assert power.read[0] == 0
    assert len(list(tmp_path.iterdir())) == 2
