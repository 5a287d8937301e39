"""A job's plans without running it: probe every video, decode none."""

from __future__ import annotations

from typing import Any

from jobs.manifest import find_sources
from jobs.show import plan_facts
from jobs.tools import load_facts
from model.machine import available_bytes
from pipeline.probe import probe
from pipeline.windows import plan_windows
from schemas.errors import LongtakeError
from schemas.job import JobSpec

UNREAD = "0" * 64
"""Stands for the digest of a file that was probed and not hashed."""


def plan_job(job: JobSpec) -> tuple[list[dict[str, Any]], list[LongtakeError]]:
    """Facts of every plan that holds, and the error of every one that does not."""
    facts, counter = load_facts(job.model)
    free = available_bytes()
    plans, problems = [], []
    for source in find_sources(job.videos):
        try:
            index = probe(source, UNREAD)
            windows = plan_windows(index, job, facts, counter, free)
        except LongtakeError as error:
            problems.append(error)
        else:
            plans.append(plan_facts(index, windows, facts))
    return plans, problems
