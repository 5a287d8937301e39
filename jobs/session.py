"""One command's work from a validated job to committed rows: `find`, `run` and `retry` share it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.clients import Client, sweep
from jobs.cluster import checked_address
from jobs.executor import Executor, Report
from jobs.journal import Journal
from jobs.limits import check_limits
from jobs.manifest import Unit, build_units
from jobs.metrics import Metrics
from jobs.outputs import open_store
from jobs.progress import BatchProgress
from jobs.provenance import gather_provenance, job_id, write_provenance
from jobs.run_batch import (
    BatchSummary,
    Choose,
    UnitDone,
    Work,
    choose_work,
    commit_unit,
    failed_result,
    forget_sessions,
    is_open,
    move_rows,
    run_units,
)
from jobs.start import read_headers, start_executor
from jobs.tools import load_facts
from jobs.tracing import Facts, Tracing
from pipeline.audit import Finding, drop_replaced, mend
from pipeline.commit_log import CommitLog
from pipeline.entries import Entry
from pipeline.plan import resolve_limits
from pipeline.questions import build_questions
from schemas.errors import InputError
from schemas.job import JobSpec
from schemas.ports import ModelFacts, PromptCounter
from schemas.provenance import UnitFacts
from schemas.time import TimeSpan


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything known before a worker is started."""

    job: JobSpec
    facts: ModelFacts
    counter: PromptCounter
    units: tuple[Unit, ...]
    log: CommitLog
    damage: tuple[Finding, ...]
    """What was damaged in the output; the work says what of it is done again."""
    work: Work
    seconds: dict[str, float]
    """Length of each pending video by its header, by unit key."""
    since: int
    """The log's last number when the work was chosen."""


def prepare(
    job: JobSpec,
    base: Path | None = None,
    choose: Choose = is_open,
) -> Prepared:
    """Check what can be checked before anything is spent. Raises ConfigError or ResourceError."""
    if job.cluster.scheduler is not None:
        checked_address(job.cluster.scheduler, insecure=job.cluster.insecure)
    facts, counter = load_facts(job.model)
    # The questions' length does not depend on the video but for the digits of its times.
    hour = TimeSpan(0, 3600, Fraction(1))
    resolve_limits(job, facts, counter, build_questions(job.queries, hour))
    units = build_units(job, facts, base)
    for unit in units:
        own = unit.wanted.own_job(job)
        resolve_limits(own, facts, counter, build_questions(unit.wanted.queries, hour))
    log = CommitLog(open_store(job.output))
    damage = mend(log)
    drop_replaced(log)
    state = log.state()
    damaged = {finding.place for finding in damage}
    work = choose_work(units, state.live, damaged, choose)
    work = replace(work, pending=tuple(_fetch(unit, job) for unit in work.pending))
    readable = [unit for unit in work.pending if unit.problem is None]
    lengths = read_headers([unit.source for unit in readable], job.cluster)
    seconds = {unit.key: length for unit, length in zip(readable, lengths, strict=True)}
    check_limits(job, work.pending, seconds, facts, counter)
    log.begin()
    return Prepared(job, facts, counter, units, log, tuple(damage), work, seconds, state.last)


def _fetch(unit: Unit, job: JobSpec) -> Unit:
    """The unit with its bytes here; what cannot be had is a fact of it."""
    if unit.problem is not None:
        return unit
    try:
        unit.wanted.fetched(job)
    except InputError as error:
        return replace(unit, problem=error)
    return unit


def run_job(
    job: JobSpec,
    console: Console,
    watch: Callable[[Report], None] = lambda _report: None,
    *,
    base: Path | None = None,
    choose: Choose = is_open,
    on_cancel: Callable[[], None] = lambda: None,
) -> BatchSummary:
    """Do what is missing of a job and commit each unit as it ends.

    `watch` hears what running units report: `unit` and the `seconds` of it that are read. `base` is
    where relative paths start, `choose` says which questions are asked, and `on_cancel` is
    called from a thread when `longtake cancel` asks this run to stop.
    """
    ready = prepare(job, base, choose)
    _tell(ready, console)
    write_provenance(
        ready.log.store,
        gather_provenance(job, ready.facts, base or Path.cwd(), _unit_facts(ready)),
    )
    store, work = ready.log.store, ready.work
    sweep(store)
    metrics = Metrics(store, job_id(job), len(work.pending))
    tracing = Tracing()
    about: Facts = {"longtake.job": job_id(job), "longtake.model": ready.facts.name}
    with Journal(store, uuid.uuid4().hex[:12]) as journal, tracing.run(about):
        summary = BatchSummary(num_kept=work.num_kept)
        run = _Run(ready, console, watch, journal, metrics, tracing, summary)
        with Client(store, partial(run.cancel, on_cancel)) as client:
            journal.write("run_started", **_start_facts(ready, client))
            move_rows(work, ready.log)
            run.do(client)
    return run.summary


def _start_facts(ready: Prepared, client: Client) -> dict[str, Any]:
    return {
        "job": job_id(ready.job),
        "model": ready.facts.name,
        "model_digest": ready.facts.digest,
        "client": client.lease.title,
        "videos": len(ready.units),
        "pending": len(ready.work.pending),
        "moved": len(ready.work.moved),
        "pending_s": sum(ready.seconds.values()),
        "damage": [asdict(finding) for finding in ready.damage],
    }


def _tell(ready: Prepared, console: Console) -> None:
    say = partial(console.print, markup=False, soft_wrap=True)
    for left_out, instead in ready.work.twins:
        say(f"{left_out} holds the same bytes as {instead}; answered once.")
    for finding in ready.damage:
        say(f"{finding.path} {finding.what}; what it held and still counts is done again.")
    ours = {unit.place for unit in ready.units}
    for place in sorted({f.place for f in ready.damage if f.place} - ours):
        say(f"{place} is no video of this job; run its own job to read it again.")


def _unit_facts(ready: Prepared) -> Iterator[UnitFacts]:
    pending = {unit.key: unit for unit in ready.work.pending}
    for unit in ready.units:
        seconds = ready.seconds.get(unit.key, 0.0) if unit.key in pending else 0.0
        yield UnitFacts(unit.source.uri, unit.place, unit.answer_keys, seconds)


@dataclass(slots=True)
class _Run:
    """The moving part: units on their way to the log."""

    ready: Prepared
    console: Console
    watch: Callable[[Report], None]
    journal: Journal
    metrics: Metrics
    tracing: Tracing
    summary: BatchSummary
    said: set[str] = field(default_factory=set)
    committing: threading.Lock = field(default_factory=threading.Lock)
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def do(self, client: Client) -> None:
        """Everything pending; what an older client has in flight comes last."""
        pending = self.ready.work.pending
        # What cannot be read needs no worker to say so.
        for unit in pending:
            if unit.problem is not None:
                self.commit(UnitDone(unit, failed_result(unit, unit.problem)))
        todo = [unit for unit in pending if unit.problem is None]
        try:
            self._read_all(todo, client)
        finally:
            self.metrics.write()

    def _read_all(self, todo: list[Unit], client: Client) -> None:
        with self._executor() as start:
            while todo:
                held = {key for lease in client.elders() for key in lease.units}
                mine = [unit for unit in todo if unit.key not in held]
                if mine:
                    client.hold(unit.key for unit in mine)
                    self._read(mine, start())
                    client.hold(())
                theirs = [unit for unit in todo if unit.key in held]
                todo = self._wait(theirs, client) if theirs else []

    def commit(self, done: UnitDone) -> None:
        ready = self.ready
        with self.committing:
            with self.tracing.commit(done.result):
                entry = commit_unit(done, job_id(ready.job), ready.facts, ready.log, ready.since)
            if entry is None:
                self.summary.num_kept += 1
            else:
                self.summary.add(done.result)
            self._note(done, entry)
            forget_sessions(ready.job, done)
        self._heed()

    def _note(self, done: UnitDone, entry: Entry | None) -> None:
        result = done.result
        self.metrics.committed(result, is_ours=entry is not None)
        self.journal.write(
            "unit_committed" if entry is not None else "unit_done_elsewhere",
            video=result.video_uri,
            unit=done.unit.key,
            entry=None if entry is None else entry.number,
            statuses={row.query_id: str(row.status) for row in result.requests},
            reasons=sorted({row.reason for row in result.requests if row.reason}),
            events=len(result.events),
            tokens=0 if result.video is None else result.video.total_tokens,
        )

    def cancel(self, on_cancel: Callable[[], None]) -> None:
        """Stop after the commit that is under way, if one is. Called from a thread."""
        with self.committing:
            self.journal.write("cancel_asked")
            on_cancel()
            # Where nobody listened, the next unit's end does.
            self.is_cancelled.set()

    def _heed(self) -> None:
        if self.is_cancelled.is_set():
            raise KeyboardInterrupt

    @contextmanager
    def _executor(self) -> Iterator[Callable[[], Executor]]:
        """The executor, started when it is first asked for."""
        started: list[Executor] = []

        def start() -> Executor:
            if not started:
                say = partial(self.console.print, markup=False, soft_wrap=True)
                started.append(start_executor(self.ready.job, self.ready.facts, say))
            return started[0]

        try:
            yield start
        finally:
            for executor in started:
                executor.close()

    def _read(self, units: Sequence[Unit], executor: Executor) -> None:
        self._heed()
        place = executor.describe()
        self.console.print(f"Reading {_count(units)} on {place}.", soft_wrap=True)
        seconds = {unit.key: self.ready.seconds[unit.key] for unit in units}
        with BatchProgress(self.console, seconds) as progress:

            def on_report(report: Report) -> None:
                progress.on_report(report)
                self.watch(report)

            for done in run_units(self.ready.job, units, executor, on_report):
                self.commit(done)
                progress.on_end(done.unit.key)

    def _wait(self, theirs: list[Unit], client: Client) -> list[Unit]:
        """What is left once another client has let go of what it had in flight."""
        whole = len(theirs)
        while True:
            theirs = [unit for unit in theirs if not self._is_committed(unit)]
            elders = [lease for lease in client.elders() if lease.units]
            held = {key for lease in elders for key in lease.units}
            if not any(unit.key in held for unit in theirs):
                self.summary.num_kept += whole - len(theirs)
                return theirs
            self._heed()
            who = " and ".join(lease.title for lease in elders)
            self._say_once(f"{_count(theirs)} in the hands of {who}; waiting for it.")
            time.sleep(self.ready.log.store.poll_s)

    def _is_committed(self, unit: Unit) -> bool:
        live = self.ready.log.state().live
        entry = live.get(unit.place)
        is_newer = entry is not None and entry.number > self.ready.since
        return is_newer and not choose_work([unit], live).pending

    def _say_once(self, text: str) -> None:
        if text not in self.said:
            self.said.add(text)
            self.console.print(text, soft_wrap=True)


def _count(units: Sequence[object]) -> str:
    return "1 video" if len(units) == 1 else f"{len(units)} videos"
