"""An evaluation as a batch job: haystacks made, passes read, rows committed.

Promises one commit per pass, in the same log as any job's; the same command again does what is
missing and writes the report anew.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from jobs.children import CallLost, Limits, one_child
from jobs.clients import Client, sweep
from jobs.executor import Executor, TaskContext
from jobs.journal import Journal
from jobs.metrics import Metrics
from jobs.mishaps import loss_error, poison_error
from jobs.needle.prepare import Prepared, answer_keys, prepare
from jobs.outputs import open_store
from jobs.progress import BatchProgress
from jobs.provenance import gather_provenance, job_id, write_provenance
from jobs.start import limits_of, start_with
from jobs.tools import make_model
from pipeline.audit import drop_replaced, mend
from pipeline.commit_log import CommitLog
from pipeline.entries import Answer, is_final
from pipeline.needle_pass import PassWork, Tools, run_pass
from pipeline.parquet import RowContext, result_tables
from pipeline.reuse import SharedSession
from pipeline.run import chunk_work, decode_piece, probe_piece
from pipeline.settle import Fresh, settle
from pipeline.splice import Spliced
from pipeline.stage import Recipe, build, hide
from schemas.errors import InputError, LongtakeError
from schemas.events import RequestRow, RequestStatus, VideoResult
from schemas.job import ModelSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.needle import NeedleSpec
from schemas.plan import VideoPlan
from schemas.ports import VideoModel
from schemas.provenance import UnitFacts


@dataclass(slots=True)
class Evaluation:
    """What a run did."""

    ready: Prepared
    log: CommitLog
    since: int
    """The log's last number when the passes were chosen: later answers are another client's."""
    num_kept: int = 0
    """Passes that were committed before this run."""
    num_done: int = 0
    prefilled_tokens: int = 0
    """Video tokens that this run prefilled."""
    failures: list[RequestRow] = field(default_factory=list)


def make_reader(spec: ModelSpec, digest: str) -> SharedSession:
    """The tool of a model worker: the checkpoint with the session that it filled last."""
    model: VideoModel = make_model(spec, digest)
    # An int8 cache rounds its last block once more when it is cut.
    return SharedSession(model, is_exact=spec.kv_cache != "int8")


def read_one(limit: int, context: TaskContext, work: PassWork) -> VideoResult:
    """One pass on a model worker. What is wrong with it is a row."""

    def read_index(source: VideoSource, video_id: str) -> StreamIndex:
        return next(context.stream(probe_piece, [(source, video_id)], 1))

    def frames(index: StreamIndex, plan: VideoPlan, first: int, stop: int) -> Iterator[FrameBatch]:
        pieces = chunk_work(index, plan, first)[: stop - first]
        return context.stream(decode_piece, pieces, limit)

    def hidden(work: PassWork) -> Spliced:
        piece = (work.haystack, work.spliced, work.insertions, work.form)
        return next(context.stream(hide, [piece], 1))

    def progress(seconds: float) -> None:
        begun = work.grid.rungs[work.own.rungs[-1]].clip_s - work.seconds
        context.report({"unit": work.key, "seconds": max(0.0, seconds - float(begun))})

    started = time.monotonic()
    try:
        result = run_pass(work, context.tool, Tools(hidden, read_index, frames, progress))
        return replace(result, work_s=time.monotonic() - started)
    except LongtakeError as error:
        return failed_pass(work, error)
    except CallLost as lost:
        return failed_pass(work, poison_error(work.uri, work.look.cluster, lost))


def failed_pass(work: PassWork, error: LongtakeError) -> VideoResult:
    """A pass without answers, as rows with the reason."""
    is_input = isinstance(error, InputError)
    status = RequestStatus.INPUT_FAILED if is_input else RequestStatus.MODEL_FAILED
    rows = tuple(
        RequestRow(one.query.id, status, 0, 0, "", error.reason, error.message, 0)
        for one in work.asked
    )
    return VideoResult(work.haystack_name, work.uri, None, rows, ())


def run_needle(
    spec: NeedleSpec,
    console: Console,
    folder: Path,
    *,
    base: Path | None = None,
    on_cancel: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Do what is missing of an evaluation. Haystacks are kept in `folder`, which every worker must
    see. Raises LongtakeError."""
    base = base or Path.cwd()
    ready = prepare(spec, folder, base)
    log = CommitLog(open_store(spec.output))
    mend(log)
    drop_replaced(log)
    since = _last(log)
    pending = _pending(ready, log)
    log.begin()
    units = tuple(
        UnitFacts(work.uri, work.place, answer_keys(work), work.seconds * (work in pending))
        for work in ready.works
    )
    made = gather_provenance(ready.spec, ready.facts, base, units)
    write_provenance(log.store, made)
    sweep(log.store)
    done = Evaluation(ready, log, since, num_kept=len(ready.works) - len(pending))
    if pending:
        with Journal(log.store, uuid.uuid4().hex[:12]) as journal:
            run = _Run(done, console, journal, Metrics(log.store, job_id(spec), len(pending)))
            with Client(log.store, partial(run.cancel, on_cancel)):
                run.do(pending)
    return done


def _last(log: CommitLog) -> int:
    return log.state().last


def _pending(ready: Prepared, log: CommitLog) -> list[PassWork]:
    """Passes with an answer that is missing, or may come out better this time."""
    live = log.state().live.values()
    given = {answer.key for entry in live for answer in entry.answers if answer.final}
    return [work for work in ready.works if not given.issuperset(answer_keys(work).values())]


@dataclass(slots=True)
class _Run:
    """The moving part: passes on their way to the log."""

    done: Evaluation
    console: Console
    journal: Journal
    metrics: Metrics
    is_cancelled: threading.Event = field(default_factory=threading.Event)

    def do(self, pending: Sequence[PassWork]) -> None:
        spec = self.done.ready.spec
        self._make_haystacks(pending)
        say = partial(self.console.print, markup=False, soft_wrap=True)
        maker = partial(make_reader, spec.model, self.done.ready.facts.digest)
        with closing(start_with(spec.cluster, maker, say)) as executor:
            self._read(pending, executor)

    def _make_haystacks(self, pending: Sequence[PassWork]) -> None:
        """Encode what is not there. A child does it: footage may be anything."""
        wanted = {work.haystack for work in pending}
        folder = pending[0].haystack.parent
        missing = [
            recipe
            for recipe in self.done.ready.recipes
            if recipe.path(folder) in wanted and not recipe.path(folder).exists()
        ]
        for number, recipe in enumerate(missing, 1):
            text = (
                f"Making haystack {number} of {len(missing)}: "
                f"{recipe.num_frames / recipe.form.fps / 60:.1f} minutes of video."
            )
            self.console.print(text, soft_wrap=True)
            self._make(recipe, folder)

    def _make(self, recipe: Recipe, folder: Path) -> None:
        spec = self.done.ready.spec.cluster
        limits = replace(limits_of(spec), wall_s=spec.unit_limit_s, attempts=1)
        _in_child(limits, spec, recipe, folder)

    def _read(self, pending: Sequence[PassWork], executor: Executor) -> None:
        self.console.print(
            f"Reading {len(pending)} passes on {executor.describe()}.", soft_wrap=True
        )
        seconds = {work.key: work.seconds for work in pending}
        task = partial(read_one, self.done.ready.spec.cluster.lookahead_chunks)
        with BatchProgress(self.console, seconds, noun="passes") as progress:
            for outcome in executor.run(task, pending, progress.on_report):
                work: PassWork = outcome.item
                result = outcome.result
                if result is None:
                    result = failed_pass(work, loss_error(work.uri, outcome.error))
                self.commit(work, result)
                progress.on_end(work.key)
                if self.is_cancelled.is_set():
                    raise KeyboardInterrupt

    def commit(self, work: PassWork, result: VideoResult) -> None:
        ready, log, keys = self.done.ready, self.done.log, answer_keys(work)
        context = RowContext(
            job_id(ready.spec), work.key, ready.facts.name, ready.facts.digest, keys
        )
        answers = tuple(
            Answer(row.query_id, keys[row.query_id], str(row.status), row.reason, is_final(row))
            for row in result.requests
        )
        fresh = Fresh(
            work.place,
            work.key,
            answers,
            result_tables(result, context),
            self.done.since,
            work.seconds,
            result.window_tokens,
            result.work_s,
        )
        entry = settle(log, fresh)
        self.done.num_done += 1
        self.done.prefilled_tokens += sum(result.window_tokens)
        self.done.failures += [row for row in result.requests if not row.status.is_done]
        self.metrics.committed(result, is_ours=entry is not None)
        self.journal.write("pass_committed", **_facts(work, result))

    def cancel(self, on_cancel: Callable[[], None]) -> None:
        """Stop behind the commit at hand. Called from a thread."""
        self.journal.write("cancel_asked")
        self.is_cancelled.set()
        on_cancel()


def _in_child(limits: Limits, spec: Any, recipe: Recipe, folder: Path) -> None:
    with one_child() as child:
        try:
            child.call(build, (recipe, folder), limits)
        except CallLost as lost:
            raise poison_error("the haystack's footage", spec, lost) from None


def _facts(work: PassWork, result: VideoResult) -> dict[str, Any]:
    return {
        "pass": work.own.name,
        "unit": work.key,
        "prefilled_tokens": sum(result.window_tokens),
        "right": sum(row.is_correct for row in result.needles),
        "asked": len(result.requests),
        "work_s": round(result.work_s, 3),
    }
