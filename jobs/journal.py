"""What a run did, as JSON lines in OUT/longtake.log: one object per event, for machines to read.

The log of commits says what counts; this one says what happened. Losing it loses no row.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any

import stamina.instrumentation
import structlog

from pipeline.store import FolderStore, Store

LOG_FILE = "longtake.log"


class Journal:
    """The log of one run; several clients may append to the same file."""

    def __init__(self, store: Store, run: str) -> None:
        self._store = store
        # Where files cannot be appended to, a run writes one of its own at its end.
        self._kept: io.StringIO | None = None
        if isinstance(store, FolderStore):
            path = Path(store.folder) / LOG_FILE
            self._file: io.TextIOBase = path.open("a", encoding="utf-8", buffering=1)
        else:
            self._file = self._kept = io.StringIO()
        self._run = run
        self._logger = structlog.wrap_logger(
            structlog.WriteLogger(self._file),
            processors=[
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.BoundLogger,
            run=run,
        )

    def __enter__(self) -> Journal:
        self._hooks_before = stamina.instrumentation.get_on_retry_hooks()
        stamina.instrumentation.set_on_retry_hooks([self._on_retry])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stamina.instrumentation.set_on_retry_hooks(self._hooks_before)
        if kind is None:
            self.write("run_ended")
        else:
            self.write("run_stopped", error=kind.__name__, message=str(error))
        if self._kept is not None:
            self._store.put(f"_log/runs/{self._run}.log", self._kept.getvalue().encode())
        self._file.close()

    def write(self, event: str, **facts: Any) -> None:
        """One event with its facts; when, and of which run, is added."""
        self._logger.msg(event, **facts)

    def _on_retry(self, details: stamina.instrumentation.RetryDetails) -> None:
        self.write(
            "retry",
            attempt=details.retry_num,
            wait_s=round(details.wait_for, 3),
            error=type(details.caused_by).__name__,
        )
