"""One command's work from a validated job to committed rows; what `find` and `run` share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from jobs.cluster import checked_address
from jobs.executor import Executor, Report
from jobs.manifest import Manifest, Unit, build_manifest
from jobs.progress import BatchProgress
from jobs.provenance import gather_provenance, job_id, write_provenance
from jobs.run_batch import (
    BatchSummary,
    UnitDone,
    check_output,
    commit_unit,
    failed_result,
    pending_units,
    run_units,
)
from jobs.start import read_headers, start_executor
from jobs.tools import load_facts
from pipeline.commit_log import CommitLog
from pipeline.plan import resolve_limits
from pipeline.questions import build_questions
from schemas.job import JobSpec
from schemas.ports import ModelFacts, PromptCounter
from schemas.time import TimeSpan


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything known before a worker is started."""

    job: JobSpec
    facts: ModelFacts
    counter: PromptCounter
    manifest: Manifest
    log: CommitLog
    pending: tuple[Unit, ...]


def prepare(job: JobSpec) -> Prepared:
    """Check what can be checked before anything is spent. Raises ConfigError or ResourceError."""
    if job.cluster.scheduler is not None:
        checked_address(job.cluster.scheduler, insecure=job.cluster.insecure)
    facts, counter = load_facts(job.model)
    # The questions' length does not depend on the video but for the digits of its times.
    hour = TimeSpan(0, 3600, Fraction(1))
    resolve_limits(job, facts, counter, build_questions(job.queries, hour))
    manifest = build_manifest(job, facts)
    log = CommitLog(Path(job.output))
    log.open_for_writing()
    check_output(manifest.units, job, log)
    pending = tuple(pending_units(manifest.units, log))
    return Prepared(job, facts, counter, manifest, log, pending)


def run_job(
    job: JobSpec, console: Console, watch: Callable[[Report], None] = lambda _report: None
) -> BatchSummary:
    """Do what is missing of a job and commit each unit as it ends.

    `watch` hears what running units report: `unit` and the `seconds` of it that are read.
    """
    ready = prepare(job)
    for left_out, instead in ready.manifest.twins:
        console.print(f"{left_out} holds the same bytes as {instead}; answered once.")
    summary = BatchSummary(num_kept=len(ready.manifest.units) - len(ready.pending))
    write_provenance(ready.log.folder, gather_provenance(job, ready.facts))
    # What cannot be read needs no worker to say so.
    for unit in ready.pending:
        if unit.problem is not None:
            _commit(UnitDone(unit, failed_result(unit, job, unit.problem)), ready, summary)
    readable = tuple(unit for unit in ready.pending if unit.problem is None)
    if readable:
        executor = start_executor(
            job, ready.facts, lambda line: console.print(line, markup=False, soft_wrap=True)
        )
        try:
            place = executor.describe()
            console.print(f"Reading {_count(readable)} on {place}.", soft_wrap=True)
            _run_readable(ready, readable, executor, summary, console, watch)
        finally:
            executor.close()
    return summary


def _commit(done: UnitDone, ready: Prepared, summary: BatchSummary) -> None:
    commit_unit(done, ready.job, job_id(ready.job), ready.facts, ready.log)
    summary.add(done.result)


def _count(units: tuple[Unit, ...]) -> str:
    return "1 video" if len(units) == 1 else f"{len(units)} videos"


def _run_readable(
    ready: Prepared,
    units: tuple[Unit, ...],
    executor: Executor,
    summary: BatchSummary,
    console: Console,
    watch: Callable[[Report], None],
) -> None:
    found = read_headers([unit.source for unit in units], ready.job.cluster)
    seconds = {unit.key: length for unit, length in zip(units, found, strict=True)}
    with BatchProgress(console, seconds) as progress:

        def on_report(report: Report) -> None:
            progress.on_report(report)
            watch(report)

        for done in run_units(ready.job, units, executor, on_report):
            _commit(done, ready, summary)
            progress.on_end(done.unit.key)
