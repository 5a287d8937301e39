"""What a bar says of units on their way."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from jobs import progress
from jobs.progress import BatchProgress


def test_lines_tell_what_is_read_and_never_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0.0)
    file = io.StringIO()
    with BatchProgress(Console(file=file, width=100), {"a": 60.0, "b": 30.0}, "passes") as bar:
        for seconds in (20.0, 40.0, 25.0, 50.0):
            bar.on_report({"unit": "a", "seconds": seconds})
        bar.on_end("a")
        bar.on_report({"unit": "b", "seconds": 15.0})
        bar.on_end("b")
    lines = file.getvalue().splitlines()
    told = [line.split(" of ")[0] for line in lines]
    assert told == ["0:00:20", "0:00:40", "0:00:40", "0:00:50", "0:01:00", "0:01:15", "0:01:30"]
    assert "of 0:01:30 of video read, 1 of 2 passes done" in lines[4]
    assert "2 of 2 passes done" in lines[6]
