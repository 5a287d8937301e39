"""How far a job is, from its commit log and job.json alone: no cluster, and while it runs too."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.clients import running
from jobs.provenance import read_provenance
from pipeline.commit_log import CommitLog, LogState
from pipeline.entries import Answer
from schemas.provenance import Provenance, UnitFacts


@dataclass(frozen=True, slots=True)
class Status:
    """One output's progress."""

    job_id: str
    model_id: str
    num_videos: int
    num_done: int
    """Videos whose questions are all answered."""
    num_failed: int
    """Videos with an answer that failed, all of them there."""
    num_pending: int
    """Videos with a question that nobody has answered yet."""
    requests: dict[str, int]
    """Answers of this job by status."""
    failed: dict[str, int]
    """Failed answers of this job by reason."""
    pending_s: float
    """Seconds of video in pending videos, by their headers."""
    read_s: float
    """Seconds of video that were read since the run began."""
    rate: float | None
    """Seconds of video per second since the run began; None before the first commit."""
    eta_s: float | None
    """Seconds until nothing is pending at that rate; None where nobody works on it."""
    clients: tuple[str, ...]
    lost_entries: int
    started_at: str


def read_status(log: CommitLog, now: datetime | None = None) -> Status:
    """Look at an output. Raises ConfigError where its job.json cannot be read."""
    made = read_provenance(log.store)
    state = log.state()
    clients = tuple(lease.title for lease in running(log.store))
    given = {a.key: a for entry in state.live.values() for a in entry.answers}
    answers = [given[k] for unit in made.units for k in unit.answers.values() if k in given]
    pending = [unit for unit in made.units if not given.keys() >= set(unit.answers.values())]
    failed = [unit for unit in made.units if unit not in pending and _has_failed(unit, given)]
    pending_s = sum(unit.seconds for unit in pending)
    read_s, rate = _rate(state, made, now or datetime.now(UTC), is_running=bool(clients))
    return Status(
        made.job_id,
        made.model_id,
        len(made.units),
        len(made.units) - len(pending) - len(failed),
        len(failed),
        len(pending),
        dict(sorted(Counter(a.status for a in answers).items())),
        dict(sorted(Counter(a.reason or a.status for a in answers if not a.is_done).items())),
        pending_s,
        read_s,
        rate,
        pending_s / rate if clients and rate else None,
        clients,
        len(state.lost),
        made.started_at,
    )


def _has_failed(unit: UnitFacts, given: dict[str, Answer]) -> bool:
    return not all(given[key].is_done for key in unit.answers.values())


def _rate(
    state: LogState, made: Provenance, now: datetime, *, is_running: bool
) -> tuple[float, float | None]:
    """Seconds of video read since the run began, in all and per second."""
    started = datetime.fromisoformat(made.started_at)
    commits = [
        (datetime.fromisoformat(entry.created_at), entry.seconds)
        for entry in state.entries
        if entry.created_at
    ]
    since = [(at, seconds) for at, seconds in commits if at >= started]
    read_s = sum(seconds for _, seconds in since)
    if not read_s:
        return 0.0, None
    until = now if is_running else max(at for at, _ in since)
    return read_s, read_s / max((until - started).total_seconds(), 1e-3)
