"""Progress in seconds of video: a bar on a terminal, one plain line now and then elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from jobs.executor import Report

PLAIN_EVERY_S = 30.0


class _VideoTime(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{_clock(task.completed)} / {_clock(task.total or 0)} of video")


def _clock(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{minutes // 60}:{minutes % 60:02d}:{int(seconds) % 60:02d}"


class BatchProgress:
    """Takes the reports of running units and shows how much video is through."""

    def __init__(
        self, console: Console, seconds_by_unit: dict[str, float], noun: str = "videos"
    ) -> None:
        self._console = console
        self._noun = noun
        self._total_by_unit = seconds_by_unit
        self._done_by_unit: dict[str, float] = {}
        self._num_ended = 0
        self._started = self._last_line = time.monotonic()
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("reading"),
            BarColumn(),
            _VideoTime(),
            TextColumn("·"),
            TextColumn(f"{{task.fields[ended]}} {noun} ·"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._videos = self._bar.add_task(
            "videos", total=sum(seconds_by_unit.values()) or None, ended=self._ended()
        )

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def on_report(self, report: Report) -> None:
        """A unit tells how many of its seconds are in the KV cache. Called from any thread.

        What is taken back, as a needle's pass does and a second try, moves nothing until it is made
        up for: a bar that runs backwards tells nobody when it ends.
        """
        unit, seconds = report["unit"], report["seconds"]
        with self._lock:
            self._done_by_unit[unit] = max(seconds, self._done_by_unit.get(unit, 0.0))
            self._show()

    def on_end(self, key: str) -> None:
        """A unit is committed."""
        with self._lock:
            self._done_by_unit[key] = self._total_by_unit.get(key, 0.0)
            self._num_ended += 1
            self._show()

    def _ended(self) -> str:
        return f"{self._num_ended}/{len(self._total_by_unit)}"

    def _show(self) -> None:
        done = sum(self._done_by_unit.values())
        self._bar.update(self._videos, completed=done, ended=self._ended())
        now = time.monotonic()
        if self._console.is_terminal or now - self._last_line < PLAIN_EVERY_S:
            return
        self._last_line = now
        total = sum(self._total_by_unit.values())
        rate = done / max(now - self._started, 1e-9)
        self._console.print(
            f"{_clock(done)} of {_clock(total)} of video read, {self._num_ended} of "
            f"{len(self._total_by_unit)} {self._noun} done, {rate:.1f}x real time",
            highlight=False,
        )
