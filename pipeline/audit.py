"""Output → what is wrong with it, file by file; and the two ways to clean it.

Promises that every flipped bit, missing file and lost entry of what counts is found. Mending drops
what is hit from the log and nothing else: the job's own command then does those videos again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.commit_log import LAST, CommitLog, LogState
from pipeline.entries import Entry, entry_path
from pipeline.parquet import part_fault
from pipeline.store import Stored
from schemas.events import TABLES

SAFETY_AGE_S = 3600.0
"""Younger files may be parts of a run that has not committed them yet."""

_DRAFTS = ("", "_log", "_log/clients", "_sessions")
"""Folders besides the tables' where a killed run may leave half-written files."""

Kind = Literal["lost_entry", "damaged_part", "damaged_job", "orphan"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was written."""

    kind: Kind
    path: str
    """Relative to the output."""
    what: str
    place: str = ""
    """The video whose rows it hits; empty where that is not known, or none."""

    @property
    def is_damage(self) -> bool:
        """An orphan is what a killed run leaves: no reader sees it."""
        return self.kind != "orphan"


def audit(log: CommitLog) -> list[Finding]:
    """Everything that is wrong. Costs one pass over the bytes of all parts that count."""
    state = log.state()
    findings = [
        Finding("lost_entry", entry_path(number), "is missing or is not what was written")
        for number in state.lost
    ]
    for place, entry in state.live.items():
        findings += _place_faults(log, place, entry)
    findings += _job_faults(log)
    if log.pointer() is None and (state.last or log.store.has("job.json")):
        findings.append(Finding("lost_entry", LAST, "is missing or is not what was written"))
    return findings + [
        Finding("orphan", file.path, "is named by no entry that counts")
        for file in leftovers(log, state)
    ]


def damaged_parts(log: CommitLog, entry: Entry) -> Iterator[Finding]:
    """The parts of an entry that are not what was written."""
    for part in entry.parts:
        try:
            fault = part_fault(part, log.store.get(part.path))
        except FileNotFoundError:
            fault = "is missing"
        except OSError as error:
            fault = f"cannot be read ({error.strerror or error})"
        if fault is not None:
            yield Finding("damaged_part", part.path, fault, entry.place)


def _place_faults(log: CommitLog, place: str, entry: Entry | None) -> list[Finding]:
    """The damage to what counts of a place, also while other clients replace it."""
    while entry is not None and (faults := list(damaged_parts(log, entry))):
        now = log.state().live.get(place)
        if now == entry:
            return faults
        entry = now
    return []


def _job_faults(log: CommitLog) -> Iterator[Finding]:
    try:
        facts = json.loads(log.store.get("job.json"))
        digest = facts.pop("sha256")
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, AttributeError):
        yield Finding("damaged_job", "job.json", "is not what was written")
        return
    if digest != job_digest(facts):
        yield Finding("damaged_job", "job.json", "is not what was written")


def job_digest(facts: object) -> str:
    """What job.json says of itself, hex."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def mend(log: CommitLog) -> list[Finding]:
    """Take lost entries out of the way and name the damaged parts, whose places are to be done
    again. Returns the damage that was found."""
    state = log.state()
    findings = [
        Finding("lost_entry", entry_path(number), "is missing or is not what was written")
        for number in state.lost
    ]
    if state.lost:
        log.forget_lost(state.lost)
    for place, entry in log.state().live.items():
        findings += _place_faults(log, place, entry)
    return findings


def drop_replaced(log: CommitLog) -> None:
    """Remove parts of entries that count no more: what a run left that died while it did so."""
    state = log.state()
    kept = _named(state)
    known = {part.path for entry in state.entries for part in entry.parts} - kept
    for file in _part_files(log):
        if file.path in known:
            log.store.delete(file.path)


def leftovers(log: CommitLog, state: LogState) -> list[Stored]:
    """Files that no entry names: parts of runs that died, and half-written ones."""
    kept = _named(state)
    drafts = (file for folder in _DRAFTS for file in log.store.files(folder) if file.is_draft)
    return [*(file for file in _part_files(log) if file.path not in kept), *drafts]


def collect(log: CommitLog, older_than_s: float, now_s: float, *, dry_run: bool) -> list[Stored]:
    """Remove leftovers that are old enough; returns what went, or would go.

    Raises ConfigError where an entry is lost: its parts would look like nobody's.
    """
    old = [
        file
        for file in leftovers(log, log.whole_state())
        if now_s - file.modified_s >= older_than_s
    ]
    if not dry_run:
        for file in old:
            log.store.delete(file.path)
    return old


def _named(state: LogState) -> set[str]:
    return {part.path for entry in state.live.values() for part in entry.parts}


def _part_files(log: CommitLog) -> Iterator[Stored]:
    for table in TABLES:
        yield from log.store.files(table)


def rows_sha256(log: CommitLog) -> str:
    """Names all rows that count by what they say, hex: equal for equal answers, whenever and in
    whichever order they were made."""
    digest = hashlib.sha256()
    for table in TABLES:
        rows = log.read(table).drop_columns(["created_at", "job_id"]).to_pylist()
        for text in sorted(json.dumps(row, sort_keys=True, default=str) for row in rows):
            digest.update(f"{table}\0{text}\n".encode())
    return digest.hexdigest()
