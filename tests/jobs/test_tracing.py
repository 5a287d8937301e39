"""A run as spans, heard by a listener in this process."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from unittest import mock

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.jobs.fake_jobs import answers, find, make_job, run, sample


@pytest.fixture(scope="module")
def listener() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


def spans(listener: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in listener.get_finished_spans() if span.name == name]


def test_a_run_its_videos_and_its_commits(listener: InMemorySpanExporter, tmp_path: Path) -> None:
    listener.clear()
    videos = [sample("twice.webm"), str(tmp_path / "missing.mp4")]
    run(make_job(tmp_path / "out", videos, [find("q")]))
    (whole,) = spans(listener, "longtake.run")
    read = spans(listener, "longtake.video")
    commits = spans(listener, "longtake.commit")
    assert whole.attributes is not None
    assert whole.attributes["longtake.model"] == "fake"
    assert whole.context is not None
    for video, commit in zip(read, commits, strict=True):
        assert video.parent is not None
        assert commit.parent is not None
        assert video.context is not None
        assert video.parent.span_id == whole.context.span_id
        assert commit.parent.span_id == video.context.span_id
    by_name = {str((v.attributes or {})["longtake.video.uri"]).rpartition("/")[2]: v for v in read}
    good, bad = by_name["twice.webm"], by_name["missing.mp4"]
    assert (good.attributes or {})["longtake.tokens"]
    assert (good.end_time or 0) > (good.start_time or 0)
    assert not bad.status.is_ok
    assert (bad.attributes or {})["longtake.reasons"] == "missing_file"


def test_nothing_is_needed(tmp_path: Path) -> None:
    with mock.patch.object(importlib.util, "find_spec", return_value=None):
        run(make_job(tmp_path / "out", [sample("twice.webm")], [find("q")]))
    assert answers(tmp_path / "out") == {("twice.webm", "q")}
