"""Plans of whole jobs: nothing is run, and no video takes the client down."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from jobs import plan_job, start
from jobs.start import careful_probe
from schemas.errors import InputError
from schemas.job import ClusterSpec, JobSpec
from schemas.media import VideoSource
from tests.counter import Counter
from tests.crash.fakes import crash
from tests.jobs.fake_jobs import fake_model, find, make_job, run, sample
from tests.jobs.fakes import FACTS, FakeModel


def planned(job: JobSpec, *, calibrated: bool = False) -> plan_job.JobPlan:
    with mock.patch.object(plan_job, "load_facts", return_value=(FACTS, Counter())):
        return plan_job.plan_job(job, calibrated=calibrated)


def test_a_video_that_crashes_its_decoder_is_a_sentence() -> None:
    with (
        mock.patch.object(start, "probe_piece", crash),
        careful_probe(ClusterSpec()) as probe,
        pytest.raises(InputError, match=r"bad\.mp4 crashes its decoder") as caught,
    ):
        probe(VideoSource("bad.mp4", "bad.mp4"), "")
    assert caught.value.reason == "decoder_crashed"


def test_time_is_unknown_until_something_was_read(tmp_path: Path) -> None:
    videos = [sample(name) for name in ("twice.webm", "turned.mov", "modern.mp4")]
    job = make_job(tmp_path / "out", videos, [find("q")], cluster={"executor": "serial"})
    assert planned(job).estimate is None
    run(job)
    learnt = planned(job)
    assert learnt.estimate is not None
    assert learnt.estimate.learnt_from == "3 finished videos"
    assert len(learnt.estimate.each_s) == len(learnt.videos) == 3
    assert all(plan["estimated_s"] >= 0 for plan in learnt.videos)


def test_a_calibration_is_kept_beside_the_output(tmp_path: Path) -> None:
    job = make_job(
        tmp_path / "out", [sample("twice.webm")], [find("q")], cluster={"executor": "serial"}
    )
    with (
        fake_model(),
        mock.patch("jobs.calibrate.start_executor", return_value=start.SerialExecutor(FakeModel)),
    ):
        first = planned(job, calibrated=True)
    assert first.estimate is not None
    assert first.estimate.learnt_from == "2 short clips"
    assert planned(job).estimate == first.estimate


def test_parquet_bytes_are_close(tmp_path: Path) -> None:
    job = make_job(
        tmp_path / "out", [sample("twice.webm")], [find("q")], cluster={"executor": "serial"}
    )
    expected = planned(job).videos[0]["output_bytes"]
    run(job)
    written = sum(path.stat().st_size for path in (tmp_path / "out").glob("*/*.parquet"))
    assert abs(expected - written) <= 0.1 * written
