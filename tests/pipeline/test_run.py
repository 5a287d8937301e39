"""The spine: frames stream through a session, and the rows tell what was seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.run import chunk_work, decode_piece, run_video
from sample_media.generate import HERE
from schemas.errors import InvariantError
from schemas.events import VideoResult
from schemas.job import read_job
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from tests.jobs.fakes import FakeFilling, FakeModel

SOURCE = VideoSource("twice.webm", str(HERE / "twice.webm"))
JOB = read_job(
    {
        "videos": ["twice.webm"],
        "queries": [{"id": "q", "find": 'say {"events": [{"start": 3.0, "end": 9.0}]}'}],
        "sampling": {"fps": 1},
        "model": {"prefill_chunk": 300},
    },
    where="t",
)


class Story:
    """Writes down what happens in which order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def frames(self, index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
        for piece in chunk_work(index, plan, first):
            self.lines.append(f"decode {piece[1].index}")
            yield decode_piece(piece)

    def run(self, monkeypatch: pytest.MonkeyPatch) -> tuple[VideoResult, list[float]]:
        feed, told = FakeFilling.feed, []

        def watched(filling: FakeFilling, frames: FrameBatch) -> None:
            self.lines.append(f"prefill {frames.chunk_index}")
            feed(filling, frames)

        monkeypatch.setattr(FakeFilling, "feed", watched)
        return run_video(SOURCE, "", JOB, FakeModel(), self.frames, told.append), told


def test_prefill_begins_before_decoding_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story()
    _, told = story.run(monkeypatch)
    assert story.lines[:4] == ["decode 0", "prefill 0", "decode 1", "prefill 1"]
    assert len(story.lines) == 2 * len(told) >= 8
    assert told == sorted(told)
    assert told[-1] == pytest.approx(59, abs=0.5)


def test_the_rows_tell_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    result, told = Story().run(monkeypatch)
    assert result.video is not None
    assert result.video.num_chunks == len(told)
    assert (result.video.codec, result.video.sampled_frames) == ("vp9", 60)
    assert len(result.prompts[0][1]) == 64
    (event,) = result.events
    assert float(event.start_pts * event.time_base) == 2.0


def test_missing_frames_are_never_answered_over() -> None:
    def short(index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
        yield decode_piece(chunk_work(index, plan)[0])

    with pytest.raises(InvariantError, match="chunks are missing"):
        run_video(SOURCE, "", JOB, FakeModel(), short)
