"""A video cut into windows gives the events of the single pass: real files, bundled checkpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jobs.tools import load_facts, make_model
from pipeline.run import chunk_work, decode_piece, run_video
from sample_media.generate import HERE
from schemas.events import Event, VideoResult
from schemas.job import JobSpec, read_job
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import VideoModel

FILES = ("several_events.mp4", "twice.webm", "turned.mov")
THINGS = ("red circle", "blue square", "yellow star", "green triangle", "purple cross")


def frames(index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
    return map(decode_piece, chunk_work(index, plan, first))


def make_job(windows: int) -> JobSpec:
    queries = [{"id": thing.replace(" ", "_"), "find": f"a {thing}"} for thing in THINGS]
    sampling = {"windows": windows, "window_overlap_s": 8}
    return read_job({"videos": ["x"], "queries": queries, "sampling": sampling}, where="t")


def read(model: VideoModel, name: str, windows: int) -> VideoResult:
    return run_video(VideoSource(name, str(HERE / name)), "", make_job(windows), model, frames)


@pytest.fixture(scope="module")
def model() -> VideoModel:
    spec = make_job(1).model
    return make_model(spec, load_facts(spec)[0].digest)


@pytest.fixture(scope="module")
def single(model: VideoModel) -> dict[str, VideoResult]:
    return {name: read(model, name, 1) for name in FILES}


def edges(event: Event) -> tuple[float, float]:
    return float(event.start_pts * event.time_base), float(event.end_pts * event.time_base)


@pytest.mark.parametrize("windows", [2, 3, 7])
@pytest.mark.parametrize("name", FILES)
def test_windows_give_the_events_of_the_single_pass(
    model: VideoModel, single: dict[str, VideoResult], name: str, windows: int
) -> None:
    whole, cut = single[name], read(model, name, windows)
    assert cut.video is not None
    assert cut.video.num_windows == windows
    assert [event.query_id for event in whole.events], name
    found = [sorted(r.events, key=lambda e: (e.query_id, e.start_pts)) for r in (whole, cut)]
    assert [e.query_id for e in found[0]] == [e.query_id for e in found[1]]
    for one, other in zip(*found, strict=True):
        for at, seen in zip(edges(one), edges(other), strict=True):
            assert abs(at - seen) <= one.uncertainty_s
    # Seven windows cannot part without cutting an event.
    assert windows < 7 or any(event.merged_from for event in cut.events)
