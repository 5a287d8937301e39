"""Short clips of a job's own videos through the job's own workers, to know what the whole takes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

from jobs.estimate import Calibration, Point
from jobs.executor import Executor, TaskContext
from jobs.manifest import Unit, build_units
from jobs.run_batch import run_units
from jobs.start import start_executor
from pipeline.probe import probe
from pipeline.store import Store
from schemas.errors import ConfigError, LongtakeError
from schemas.job import JobSpec
from schemas.media import VideoSource
from schemas.ports import ModelFacts

CLIPS_S = (10, 20, 60)
"""The first warms everything up and does not count."""
VIDEOS = 3
FILE = "_calibration.json"


def calibrate(job: JobSpec, facts: ModelFacts) -> Calibration:
    """Read clips of the first videos. Raises ConfigError where none can be read."""
    clips = list(_clips(job, facts))
    times = [time.monotonic()]
    executor = start_executor(job, facts, lambda _line: None)
    try:
        # A worker loads its model when it first needs it: the same clip again tells that apart.
        for warm_up in clips[:1] * 2:
            list(_read(job, warm_up, executor))
            times.append(time.monotonic())
        points = [point for unit in clips[1:] for point in _read(job, unit, executor)]
        pair_s = next(outcome.result for outcome in executor.run(_pair_s, [0], _hear_nothing))
    finally:
        times.append(time.monotonic())
        executor.close()
        times.append(time.monotonic())
    if not points:
        raise ConfigError(
            "none of the first videos could be read for a calibration; run the job to see why."
        )
    first_s, again_s, _, end_s = (later - earlier for earlier, later in pairwise(times))
    start_s = max(0.0, first_s - again_s) + end_s
    return Calibration(facts.digest, tuple(points), pair_s or 0.0, start_s)


def _hear_nothing(_report: dict[str, Any]) -> None:
    """Nobody watches."""


def _pair_s(context: TaskContext, _item: int) -> float:
    seconds: float = context.tool.pair_seconds()
    return seconds


def _read(job: JobSpec, unit: Unit, executor: Executor) -> Iterator[Point]:
    for done in run_units(job, [unit], executor, _hear_nothing):
        if done.result.video is not None:
            yield Point(done.result.window_tokens, done.result.work_s)


def _clips(job: JobSpec, facts: ModelFacts) -> Iterator[Unit]:
    """A warm-up, then two clips of each of the first videos that can be probed."""
    taken = 0
    for unit in build_units(job, facts):
        if taken == VIDEOS:
            return
        try:
            unit.wanted.fetched(job)
            span = probe(unit.source, unit.video_id).span
        except LongtakeError:
            continue
        for seconds in CLIPS_S if taken == 0 else CLIPS_S[1:]:
            yield _clipped(unit, span.start_s, min(span.end_s, span.start_s + seconds))
        taken += 1


def _clipped(unit: Unit, start_s: Fraction, end_s: Fraction) -> Unit:
    source: VideoSource = replace(unit.source, clip_s=(start_s, end_s))
    return replace(unit, wanted=replace(unit.wanted, source=source))


def write_calibration(store: Store, calibration: Calibration) -> None:
    """Keep it beside the output, for later plans of the same job."""
    store.prepare()
    store.put(FILE, (json.dumps(calibration.facts(), indent=1) + "\n").encode())


def read_calibration(store: Store, facts: ModelFacts) -> Calibration | None:
    """What an earlier plan kept; None where there is none of this model."""
    try:
        found = Calibration.read(json.loads(store.get(FILE)))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.model_digest == facts.digest else None
