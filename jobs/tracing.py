"""A run as OpenTelemetry spans: the run, each video in it, each commit. An optional extra.

Without the package, or with nobody set up to listen, the spans go nowhere and cost nothing.
`opentelemetry-instrument longtake run …` sets a listener up from the environment.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from schemas.events import VideoResult

Facts = dict[str, str | int | float | bool]


class Tracing:
    """Spans of one run."""

    def __init__(self) -> None:
        is_here = importlib.util.find_spec("opentelemetry") is not None
        self._api: Any = importlib.import_module("opentelemetry.trace") if is_here else None
        self._tracer = self._api.get_tracer("longtake") if self._api else None

    @contextmanager
    def run(self, facts: Facts) -> Iterator[None]:
        """The span that all others of this run lie in."""
        if self._tracer is None:
            yield
            return
        with self._tracer.start_as_current_span("longtake.run", attributes=facts):
            yield

    @contextmanager
    def commit(self, result: VideoResult) -> Iterator[None]:
        """A video that was read, as long as its worker took, and its commit inside the block."""
        if self._tracer is None:
            yield
            return
        now_ns = time.time_ns()
        video = self._tracer.start_span(
            "longtake.video",
            attributes=_facts(result),
            start_time=now_ns - round(result.work_s * 1e9),
        )
        failed = [row for row in result.requests if not row.status.is_done]
        if failed:
            status = self._api.Status(self._api.StatusCode.ERROR, failed[0].message)
            video.set_status(status)
        with self._api.use_span(video), self._tracer.start_as_current_span("longtake.commit"):
            yield
        # The worker was done when the commit began; what it waited for belongs to the run.
        video.end(now_ns)


def _facts(result: VideoResult) -> Facts:
    facts: Facts = {
        "longtake.video.uri": result.video_uri,
        "longtake.video.id": result.video_id,
        "longtake.events": len(result.events),
        "longtake.reasons": ",".join(sorted({row.reason for row in result.requests if row.reason})),
    }
    if result.video is not None:
        facts["longtake.tokens"] = result.video.total_tokens
        facts["longtake.frames"] = result.video.sampled_frames
        facts["longtake.windows"] = result.video.num_windows
    return facts
