"""Units → committed rows: the batch around `pipeline.run`.

Promises a request row for every (video, question), whatever happens to a video, and one commit per
unit. What is committed already is not done again; the same command finishes what is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from jobs.children import CallLost
from jobs.executor import Executor, Outcome, Report, TaskContext
from jobs.manifest import Unit
from jobs.mishaps import DECODING, loss_error, poison_error
from pipeline.commit_log import CommitLog, Entry
from pipeline.parquet import RowContext, write_parts
from pipeline.run import chunk_work, decode_piece, probe_piece, run_video
from schemas.errors import ConfigError, InputError, LongtakeError
from schemas.events import RequestRow, RequestStatus, VideoResult
from schemas.job import JobSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts

_PASSING = ("missing_file", "denied", "directory", "not_a_file", "out_of_memory", "worker_died")
"""Reasons that may be gone at the next run: such units are done again."""


@dataclass(frozen=True, slots=True)
class UnitDone:
    """One unit's end, as the caller shows it."""

    unit: Unit
    result: VideoResult


@dataclass(slots=True)
class BatchSummary:
    """Counts of a whole run, kept or done."""

    num_kept: int = 0
    """Units that were committed before this run."""
    statuses: Counter[str] = field(default_factory=Counter)
    num_events: int = 0
    failures: list[tuple[str, RequestRow]] = field(default_factory=list)

    def add(self, result: VideoResult) -> None:
        self.num_events += len(result.events)
        self.statuses.update(str(row.status) for row in result.requests)
        self.failures += [(result.video_uri, r) for r in result.requests if not r.status.is_done]


def pending_units(units: Sequence[Unit], log: CommitLog) -> list[Unit]:
    """Units whose rows are not committed yet, or may come out better this time."""
    live = log.live()
    return [unit for unit in units if unit.key not in live or not live[unit.key].final]


def check_output(units: Sequence[Unit], job: JobSpec, log: CommitLog) -> None:
    """Refuse an output whose rows this job would half replace. Raises ConfigError."""
    ours = {query.id for query in job.queries}
    places = {unit.place for unit in units}
    for entry in log.live().values():
        theirs = set(entry.query_ids)
        if entry.place in places and theirs & ours and not theirs <= ours:
            raise ConfigError(
                f"{log.folder} holds answers to {sorted(theirs)} of {entry.place} and this job "
                f"asks {sorted(ours)}; ask all of them again, or choose another output."
            )


def run_units(
    job: JobSpec,
    units: Sequence[Unit],
    executor: Executor,
    on_report: Callable[[Report], None],
) -> Iterator[UnitDone]:
    """Run units and yield each one's rows as it ends; nothing is written here."""
    task = partial(answer_unit, job)
    for outcome in executor.run(task, units, on_report):
        yield UnitDone(outcome.item, _result_of(outcome, job))


def answer_unit(job: JobSpec, context: TaskContext, unit: Unit) -> VideoResult:
    """One unit on a model worker. The per-video border: what is wrong with a video is a row."""

    def read_index(source: VideoSource, video_id: str) -> StreamIndex:
        # A probe decodes a frame, so it may end its process as well as any chunk.
        return next(context.stream(probe_piece, [(source, video_id)], 1))

    def frames(index: StreamIndex, plan: VideoPlan) -> Iterator[FrameBatch]:
        pieces = chunk_work(index, plan)
        return context.stream(decode_piece, pieces, job.cluster.lookahead_chunks)

    def progress(seconds: float) -> None:
        context.report({"unit": unit.key, "seconds": seconds})

    try:
        return run_video(
            unit.source,
            unit.video_id,
            job,
            context.tool,
            frames,
            progress,
            read_index=read_index,
        )
    except LongtakeError as error:
        return failed_result(unit, job, error)
    except CallLost as lost:
        return failed_result(unit, job, poison_error(unit.source.uri, job.cluster, lost))


def failed_result(unit: Unit, job: JobSpec, error: LongtakeError) -> VideoResult:
    """A video that gave no answers, as rows: one for each question, with the reason."""
    status = _failed_status(error)
    rows = tuple(
        RequestRow(query.id, status, 0, 0, "", error.reason, error.message, 0)
        for query in job.queries
    )
    return VideoResult(unit.video_id, unit.source.uri, None, rows, ())


def _failed_status(error: LongtakeError) -> RequestStatus:
    if isinstance(error, InputError):
        decoding = error.reason in DECODING
        return RequestStatus.DECODE_FAILED if decoding else RequestStatus.INPUT_FAILED
    return RequestStatus.REFUSED if isinstance(error, ConfigError) else RequestStatus.MODEL_FAILED


def _result_of(outcome: Outcome[Unit, VideoResult], job: JobSpec) -> VideoResult:
    if outcome.result is not None:
        return outcome.result
    return failed_result(outcome.item, job, loss_error(outcome.item.source.uri, outcome.error))


def commit_unit(
    done: UnitDone, job: JobSpec, job_id: str, facts: ModelFacts, log: CommitLog
) -> None:
    """Write the unit's parts, then its log entry, then drop what it replaces."""
    result = done.result
    context = RowContext(job_id, done.unit.key, facts.name, facts.digest)
    parts = write_parts(log.folder, result, context)
    ids = tuple(query.id for query in job.queries)
    final = all(row.reason not in _PASSING and _is_settled(row) for row in result.requests)
    replaces = _replaced(done.unit, ids, log)
    log.commit(Entry(done.unit.key, done.unit.place, ids, final, replaces, tuple(parts)))
    if replaces:
        log.drop_replaced()


def _is_settled(row: RequestRow) -> bool:
    return row.status is not RequestStatus.MODEL_FAILED and row.status is not RequestStatus.REFUSED


def _replaced(unit: Unit, ids: tuple[str, ...], log: CommitLog) -> tuple[str, ...]:
    return tuple(
        key
        for key, entry in log.live().items()
        if entry.place == unit.place and set(entry.query_ids) <= set(ids)
    )
