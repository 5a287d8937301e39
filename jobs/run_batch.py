"""Units → committed rows: the batch around `pipeline.run`.

Promises a request row for every (video, question), whatever happens to a video, and one commit per
unit. What is committed already is not done again, question by question; the same command finishes
what is missing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from jobs.children import CallLost
from jobs.executor import Executor, Outcome, Report, TaskContext
from jobs.manifest import Unit
from jobs.mishaps import DECODING, loss_error, poison_error
from jobs.remote import is_url
from pipeline.commit_log import CommitLog
from pipeline.entries import Answer, Entry, is_final
from pipeline.keep import NOT_KEPT, SessionKeeper, drop_sessions
from pipeline.parquet import RowContext, result_tables
from pipeline.run import chunk_work, decode_piece, probe_piece, run_video
from pipeline.settle import Fresh, adopt, settle
from schemas.errors import ConfigError, InputError, LongtakeError
from schemas.events import RequestRow, RequestStatus, VideoResult
from schemas.job import JobSpec, QuerySpec
from schemas.media import FrameBatch, StreamIndex, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts


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


@dataclass(frozen=True, slots=True)
class Work:
    """What a job has left to do in an output."""

    pending: tuple[Unit, ...]
    """Units with the questions that are not answered yet, or may be answered better this time."""
    moved: tuple[tuple[Unit, Entry], ...]
    """Units whose answers lie under another place's name, which holds other bytes now, or whose own
    place has damaged rows or rows of other bytes: theirs are put in place first."""
    twins: tuple[tuple[str, str], ...]
    """(left out, answered in its place): the same bytes under two paths."""
    num_kept: int
    """Units that are answered in full."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question on one video, and what is committed of it."""

    unit: Unit
    query: QuerySpec
    answer: Answer | None
    """The answer to exactly this question on exactly these bytes."""
    standing: Answer | None
    """What the video's place says to it now, be it of other bytes: a file that was missing, say."""


Choose = Callable[[Asked], bool]
"""Says whether a question is to be asked."""


def is_open(asked: Asked) -> bool:
    """What `run` asks: what has no answer, or one that may come out better this time."""
    return asked.answer is None or not asked.answer.final


def choose_work(
    units: Sequence[Unit],
    live: Mapping[str, Entry],
    damaged: Collection[str] = (),
    choose: Choose = is_open,
) -> Work:
    """Compare a job's units with what is committed, answer by answer, wherever it lies.

    `damaged` names places whose rows cannot be read: they are done again.
    """
    sound = {place: entry for place, entry in live.items() if place not in damaged}
    given = {a.key: (entry, a) for entry in sound.values() for a in entry.answers}
    at = {unit.place: unit for unit in units}
    pending, moved, twins = [], [], []
    first: dict[frozenset[str], Unit] = {}
    for unit in units:
        keys = unit.answer_keys
        twin = first.setdefault(frozenset(keys.values()), unit)
        if twin is not unit and unit.place not in live:
            twins.append((unit.source.uri, twin.source.uri))
            continue
        found = {name: given[key] for name, key in keys.items() if key in given}
        own = sound.get(unit.place)
        standing = {} if own is None else {answer.query_id: answer for answer in own.answers}
        missing = tuple(
            query
            for query in unit.wanted.queries
            if choose(
                Asked(
                    unit,
                    query,
                    found[query.id][1] if query.id in found else None,
                    standing.get(query.id),
                )
            )
        )
        if missing:
            pending.append(replace(unit, asked=missing))
        is_stale = unit.place in damaged or _is_stale(keys, live.get(unit.place))
        for entry in {id(entry): entry for entry, _ in found.values()}.values():
            other = at.get(entry.place, unit)
            if entry.place != unit.place and (is_stale or other.key != unit.key):
                moved.append((unit, entry))
    kept = len(units) - len(pending) - len(twins)
    return Work(tuple(pending), tuple(moved), tuple(twins), kept)


def _is_stale(keys: Mapping[str, str], entry: Entry | None) -> bool:
    """Whether an entry answers the same questions about something else."""
    answers = () if entry is None else entry.answers
    return any(keys.get(answer.query_id, answer.key) != answer.key for answer in answers)


def move_rows(work: Work, log: CommitLog) -> None:
    """Put answers that lie under another place's name under their own.

    Files may have changed places: what lies where other rows are to go is read before any go there.
    Whoever is killed between two such commits has the second one's answers asked again.
    """

    def rows_of(unit: Unit, entry: Entry) -> Fresh:
        return adopt(log, entry, set(unit.answer_keys.values()), unit.place, unit.source.uri)

    targets = {unit.place for unit, _ in work.moved}
    for fresh in [rows_of(*move) for move in work.moved if move[1].place in targets]:
        settle(log, fresh)
    for move in work.moved:
        if move[1].place not in targets:
            settle(log, rows_of(*move))


def run_units(
    job: JobSpec,
    units: Sequence[Unit],
    executor: Executor,
    on_report: Callable[[Report], None],
) -> Iterator[UnitDone]:
    """Run units and yield each one's rows as it ends; nothing is written here."""
    task = partial(answer_unit, job, sessions_folder(job))
    for outcome in executor.run(task, units, on_report):
        yield UnitDone(outcome.item, _result_of(outcome))


def sessions_folder(job: JobSpec) -> Path | None:
    """Where the sessions of an output are saved; nowhere where it is no folder."""
    return None if is_url(job.output) else Path(job.output).absolute() / "_sessions"


def answer_unit(
    job: JobSpec, sessions: Path | None, context: TaskContext, unit: Unit
) -> VideoResult:
    """One unit on a model worker. The per-video border: what is wrong with a video is a row."""

    def read_index(source: VideoSource, video_id: str) -> StreamIndex:
        # A probe decodes a frame, so it may end its process as well as any chunk.
        return next(context.stream(probe_piece, [(source, video_id)], 1))

    def frames(index: StreamIndex, plan: VideoPlan, first: int) -> Iterator[FrameBatch]:
        pieces = chunk_work(index, plan, first)
        return context.stream(decode_piece, pieces, job.cluster.lookahead_chunks)

    def progress(seconds: float) -> None:
        context.report({"unit": unit.key, "seconds": seconds})

    asked = [query.id for query in unit.asked]
    started = time.monotonic()
    try:
        result = run_video(
            unit.source,
            unit.video_id,
            unit.wanted.own_job(job),
            context.tool,
            frames,
            progress,
            _keeper(job, sessions, unit),
            asked,
            read_index,
        )
        return replace(result, work_s=time.monotonic() - started)
    except LongtakeError as error:
        return failed_result(unit, error)
    except CallLost as lost:
        return failed_result(unit, poison_error(unit.source.uri, job.cluster, lost))


def _keeper(job: JobSpec, sessions: Path | None, unit: Unit) -> SessionKeeper:
    """How the sessions of a unit are saved."""
    minutes, keep = job.cluster.snapshot_minutes, job.cluster.keep_sessions
    if sessions is None or (minutes is None and not keep):
        return NOT_KEPT
    every_s = math.inf if minutes is None else minutes * 60
    return SessionKeeper(sessions, unit.session_prefix, every_s, keep)


def forget_sessions(job: JobSpec, done: UnitDone) -> None:
    """Drop what was saved of a unit that ended; one that may come out better goes on from there."""
    folder, is_over = sessions_folder(job), all(is_final(row) for row in done.result.requests)
    if folder is not None and is_over and not job.cluster.keep_sessions:
        drop_sessions(folder, done.unit.session_prefix)


def failed_result(unit: Unit, error: LongtakeError) -> VideoResult:
    """A video that gave no answers, as rows: one for each question, with the reason."""
    status = _failed_status(error)
    rows = tuple(
        RequestRow(query.id, status, 0, 0, "", error.reason, error.message, 0)
        for query in unit.asked
    )
    return VideoResult(unit.video_id, unit.source.uri, None, rows, ())


def _failed_status(error: LongtakeError) -> RequestStatus:
    if isinstance(error, InputError):
        decoding = error.reason in DECODING
        return RequestStatus.DECODE_FAILED if decoding else RequestStatus.INPUT_FAILED
    return RequestStatus.REFUSED if isinstance(error, ConfigError) else RequestStatus.MODEL_FAILED


def _result_of(outcome: Outcome[Unit, VideoResult]) -> VideoResult:
    if outcome.result is not None:
        return outcome.result
    return failed_result(outcome.item, loss_error(outcome.item.source.uri, outcome.error))


def commit_unit(
    done: UnitDone, job_id: str, facts: ModelFacts, log: CommitLog, since: int
) -> Entry | None:
    """Write the unit's rows and its log entry; None where another client has answered it all.

    `since` is the log's last number when the unit was chosen.
    """
    unit, result = done.unit, done.result
    keys = unit.answer_keys
    context = RowContext(job_id, unit.key, facts.name, facts.digest, keys)
    answers = tuple(
        Answer(row.query_id, keys[row.query_id], str(row.status), row.reason, is_final(row))
        for row in result.requests
    )
    seen = result.video
    fresh = Fresh(
        unit.place,
        unit.key,
        answers,
        result_tables(result, context),
        since,
        0.0 if seen is None else seen.end_s - seen.start_s,
        result.window_tokens,
        result.work_s,
    )
    return settle(log, fresh)
