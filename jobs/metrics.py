"""What a run did, as Prometheus counts in OUT/metrics.prom, beside what Dask exports of itself.

A text file in the exposition format: the textfile collector of node_exporter reads it as it is.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from pipeline.store import Store
from schemas.events import VideoResult

METRICS_FILE = "metrics.prom"
_EVERY_S = 5.0
"""The file is written at most so often while a run goes on, and at its end."""


class Metrics:
    """Counts of one run, since it began."""

    def __init__(self, store: Store, job_id: str, num_pending: int) -> None:
        self._store = store
        self._written = 0.0
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"longtake_{name}", what, ("job", *labels), registry=self.registry)

        self._job = job_id
        self._units = counter("units", "Videos by how they ended.", "outcome")
        self._answers = counter("answers", "Answers by status and reason.", "status", "reason")
        self._events = counter("events", "Events that were found.")
        self._frames = counter("frames", "Frames that were looked at.")
        self._corrupt = counter("corrupt_frames", "Frames that could not be decoded.")
        self._tokens = counter("tokens", "Tokens of the sessions that were filled.")
        self._seconds = counter("video_seconds", "Seconds of video that were read.")
        self._pending = Gauge(
            "longtake_pending_units", "Videos left.", ("job",), registry=self.registry
        )
        self._pending.labels(job_id).set(num_pending)

    def committed(self, result: VideoResult, *, is_ours: bool) -> None:
        """One unit ended; `is_ours` is False where another client was first."""
        self._pending.labels(self._job).dec()
        failed = any(not row.status.is_done for row in result.requests)
        outcome = "kept" if not is_ours else "failed" if failed else "done"
        self._units.labels(self._job, outcome).inc()
        if is_ours:
            self._count(result)
        if time.monotonic() - self._written >= _EVERY_S:
            self.write()

    def _count(self, result: VideoResult) -> None:
        for row in result.requests:
            self._answers.labels(self._job, str(row.status), row.reason).inc()
        self._events.labels(self._job).inc(len(result.events))
        if (seen := result.video) is not None:
            self._frames.labels(self._job).inc(seen.sampled_frames)
            self._corrupt.labels(self._job).inc(seen.num_corrupt)
            self._tokens.labels(self._job).inc(seen.total_tokens)
            self._seconds.labels(self._job).inc(seen.end_s - seen.start_s)

    def write(self) -> None:
        """Put the counts at OUT/metrics.prom, whole."""
        self._store.put(METRICS_FILE, generate_latest(self.registry))
        self._written = time.monotonic()
