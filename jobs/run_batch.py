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
from jobs.executor import Executor, Outcome, Report, TaskContext, TaskOverdue, WorkerLost
from jobs.manifest import Unit
from pipeline.commit_log import CommitLog, Entry
from pipeline.parquet import RowContext, write_parts
from pipeline.run import chunk_work, decode_piece, probe_piece, run_video
from schemas.errors import ConfigError, InputError, LongtakeError, TransientError
from schemas.events import RequestRow, RequestStatus, VideoResult
from schemas.job import JobSpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts

_PASSING = (
    "missing_file",
    "denied",
    "directory",
    "not_a_file",
    "out_of_memory",
    "worker_died",
    "decoder_killed",
)
"""Reasons that may be gone at the next run: such units are done again."""


_DECODING = (
    "decode_failed",
    "no_frame",
    "decoder_crashed",
    "decoder_killed",
    "time_limit",
    "decode_memory",
)
"""Reasons that tell of decoding and not of the file as a whole."""


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

    def index(source: VideoSource, video_id: str) -> StreamIndex:
        # A probe decodes a frame, so it may end its process as well as any chunk.
        return next(context.stream(probe_piece, [(source, video_id)], 1))

    def frames(index: StreamIndex, plan: VideoPlan) -> Iterator[FrameBatch]:
        pieces = chunk_work(index, plan)
        return context.stream(decode_piece, pieces, job.cluster.lookahead_chunks)

    def progress(seconds: float) -> None:
        context.report({"unit": unit.key, "seconds": seconds})

    try:
        return run_video(unit.source, unit.video_id, job, context.tool, frames, progress, index)
    except LongtakeError as error:
        return failed_result(unit, job, error)
    except CallLost as lost:
        return failed_result(unit, job, poison_error(unit, job, lost))


def poison_error(unit: Unit, job: JobSpec, lost: CallLost) -> InputError:
    """A video that takes its decoder down, as the error of that video alone."""
    said, reason, advice = {
        "crashed": ("crashes its decoder", "decoder_crashed", "convert it, or leave it out"),
        "killed": (
            "was not decoded: the system killed its decoder",
            "decoder_killed",
            "memory may be short; use fewer decode workers and run the same command again",
        ),
        "time_limit": (
            f"keeps its decoder busy for more than {job.cluster.decode_limit_s:g} s a chunk",
            "time_limit",
            "convert it, or raise cluster.decode_limit_s and retry it",
        ),
        "memory": (
            f"takes more than {job.cluster.decode_memory_mib} MiB to decode",
            "decode_memory",
            "convert it, or raise cluster.decode_memory_mib and retry it",
        ),
    }[lost.cause]
    tries = "once" if lost.attempts == 1 else f"{lost.attempts} times"
    return InputError(f"{unit.source.uri} {said} (tried {tries}); {advice}.", reason=reason)


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
        decoding = error.reason in _DECODING
        return RequestStatus.DECODE_FAILED if decoding else RequestStatus.INPUT_FAILED
    return RequestStatus.REFUSED if isinstance(error, ConfigError) else RequestStatus.MODEL_FAILED


def _result_of(outcome: Outcome[Unit, VideoResult], job: JobSpec) -> VideoResult:
    if outcome.result is not None:
        return outcome.result
    return failed_result(outcome.item, job, _lost_error(outcome.item.source.uri, outcome.error))


def _lost_error(uri: str, error: BaseException | None) -> LongtakeError:
    if isinstance(error, LongtakeError):
        return error
    if isinstance(error, TaskOverdue):
        return TransientError(
            f"{uri} was not finished within {error.limit_s:g} s and its worker was ended; raise "
            "cluster.unit_limit_s, or choose a clip of it.",
            reason="unit_time_limit",
        )
    if isinstance(error, WorkerLost):
        return TransientError(
            f"{uri} was not finished: the worker that held it died (tried {error.attempts} times); "
            "run the same command again, with fewer workers if memory was short.",
            reason="worker_died",
        )
    return TransientError(
        f"{uri} was not finished: the model failed on it ({type(error).__name__}); run the same "
        "command again.",
        reason="model_failed",
    )


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
