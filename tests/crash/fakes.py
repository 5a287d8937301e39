"""A model that takes its time and leaves a mark for each video that it begins."""

from __future__ import annotations

import os
import time
from pathlib import Path

from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from tests.jobs.fakes import FakeFilling, FakeModel

FEED_S = 0.03


class MarkingModel(FakeModel):
    """Appends the length of each video that it begins to `marks`, in ticks."""

    def __init__(self, marks: Path) -> None:
        self._marks = marks

    def begin(self, plan: VideoPlan) -> FakeFilling:
        with self._marks.open("ab", buffering=0) as file:
            file.write(f"{plan.sampling.span.end_pts}\n".encode())
        return _SlowFilling(plan)


class _SlowFilling(FakeFilling):
    def feed(self, frames: FrameBatch) -> None:
        time.sleep(FEED_S)
        super().feed(frames)


def crash(_: object) -> None:
    """End the process as a decoder's bug does."""
    os.abort()
