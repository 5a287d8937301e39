"""A job's plans without running it: probe every video, decode none."""

from __future__ import annotations

from typing import Any

from jobs.manifest import find_videos
from jobs.show import plan_facts
from jobs.tools import load_facts
from model.machine import available_bytes
from pipeline.plan import plan_job_video
from pipeline.probe import probe
from pipeline.questions import build_questions
from pipeline.sampling import clip_span
from schemas.errors import LongtakeError
from schemas.job import JobSpec

UNREAD = "0" * 64
"""Stands for the digest of a file that was probed and not hashed."""


def plan_job(job: JobSpec) -> tuple[list[dict[str, Any]], list[LongtakeError]]:
    """Facts of every plan that holds, and the error of every one that does not."""
    facts, counter = load_facts(job.model)
    free = available_bytes()
    plans, problems = [], []
    for wanted in find_videos(job):
        own = job.model_copy(update={"sampling": wanted.sampling})
        try:
            index = probe(wanted.fetched(job).source, UNREAD)
            questions = build_questions(wanted.queries, clip_span(index))
            plan = plan_job_video(index, own, facts, counter, questions, free)
        except LongtakeError as error:
            problems.append(error)
        else:
            plans.append(plan_facts(index, plan, facts))
    return plans, problems
