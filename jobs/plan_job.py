"""A job's plans without running it: probe every video, decode none but for a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.calibrate import calibrate, read_calibration, write_calibration
from jobs.estimate import Estimate, estimate_job, finished_points
from jobs.manifest import find_videos
from jobs.output_size import output_bytes
from jobs.outputs import open_store
from jobs.show import plan_facts
from jobs.start import careful_probe
from jobs.tools import load_facts
from model.machine import available_bytes
from pipeline.commit_log import CommitLog
from pipeline.windows import plan_windows
from schemas.errors import LongtakeError
from schemas.job import JobSpec
from schemas.ports import ModelFacts

UNREAD = "0" * 64
"""Stands for the digest of a file that was probed and not hashed."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What a job would do."""

    videos: tuple[dict[str, Any], ...]
    """Facts of every plan that holds."""
    problems: tuple[LongtakeError, ...]
    """The error of every one that does not."""
    estimate: Estimate | None
    """None where nothing was read here yet."""


def plan_job(job: JobSpec, *, calibrated: bool = False) -> JobPlan:
    """Plan every video. `calibrated` reads short clips first, to know what the whole will take."""
    facts, counter = load_facts(job.model)
    free = available_bytes()
    plans, problems = [], []
    with careful_probe(job.cluster) as probe:
        for wanted in find_videos(job):
            try:
                index = probe(wanted.fetched(job).source, UNREAD)
                windows = plan_windows(index, wanted.own_job(job), facts, counter, free)
            except LongtakeError as error:
                problems.append(error)
            else:
                size = output_bytes(index, windows, wanted.queries, facts)
                plans.append(plan_facts(index, windows, facts) | {"output_bytes": size})
    estimate = _estimate(job, facts, plans, calibrated=calibrated)
    for number, plan in enumerate(plans):
        plan["estimated_s"] = None if estimate is None else round(estimate.each_s[number], 2)
    return JobPlan(tuple(plans), tuple(problems), estimate)


def _estimate(
    job: JobSpec, facts: ModelFacts, plans: list[dict[str, Any]], *, calibrated: bool
) -> Estimate | None:
    store = open_store(job.output)
    if calibrated:
        write_calibration(store, calibrate(job, facts))
    finished = finished_points(CommitLog(store).state())
    videos = [plan["window_tokens"] for plan in plans]
    workers = 1 if job.cluster.executor == "serial" else job.cluster.model_workers
    return estimate_job(videos, read_calibration(store, facts), finished, workers)
