"""One entry of the commit log: what was committed, as types and as bytes with a digest in them.

Promises that an entry with one flipped bit, a missing tail or another one's number is told from a
whole one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from schemas.events import RequestRow, RequestStatus

_PASSING = (
    "missing_file",
    "denied",
    "directory",
    "not_a_file",
    "unreachable",
    "out_of_memory",
    "worker_died",
)
"""Reasons that may be gone at the next run: such questions are asked again."""


@dataclass(frozen=True, slots=True)
class Part:
    """One written file: how the commit log names it."""

    table: str
    path: str
    """Relative to the output."""
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Answer:
    """How one (video, question) ended, as the log remembers it."""

    query_id: str
    key: str
    """Names the pair by content: video bytes, clip, settings, model, question."""
    status: str
    reason: str
    final: bool
    """False where asking again may end otherwise: a missing file, a worker that died."""

    @property
    def is_done(self) -> bool:
        return RequestStatus(self.status).is_done


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit: all rows that count of one place from here on."""

    number: int
    place: str
    """Where the video is, clip included. Empty: the entry was lost and stands for nothing."""
    unit_key: str
    """Names the video, clip, settings and model of the answers that were new in this commit."""
    answers: tuple[Answer, ...]
    parts: tuple[Part, ...]
    seconds: float = 0.0
    """Seconds of video that were read for this commit."""
    tokens: int = 0
    """Tokens of the session that was filled for this commit."""
    created_at: str = ""
    """UTC, ISO 8601."""
    window_tokens: tuple[int, ...] = ()
    """The same tokens, window by window."""
    work_s: float = 0.0
    """Seconds that the model worker spent on it."""


def void(number: int) -> Entry:
    """What takes the number of a lost entry."""
    return Entry(number, "", "", (), ())


def is_final(row: RequestRow) -> bool:
    """Whether asking again would end the same way."""
    unsettled = row.status in (RequestStatus.MODEL_FAILED, RequestStatus.REFUSED)
    return row.reason not in _PASSING and not unsettled


def entry_path(number: int) -> str:
    return f"_log/{number:06d}.json"


def entry_bytes(entry: Entry) -> bytes:
    """The entry as it is written, its own digest in it."""
    facts = asdict(entry)
    return (json.dumps({**facts, "sha256": _digest(facts)}, indent=1) + "\n").encode()


def read_entry(number: int, data: bytes) -> Entry | None:
    """The entry, or None where the bytes are not what was written under this number."""
    try:
        facts = json.loads(data)
        digest = facts.pop("sha256")
        answers = tuple(Answer(**answer) for answer in facts.pop("answers"))
        parts = tuple(Part(**part) for part in facts.pop("parts"))
        windows = tuple(facts.pop("window_tokens"))
        entry = Entry(**facts, answers=answers, parts=parts, window_tokens=windows)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    # Compared byte by byte: an extra blank, or a key written twice, is damage too.
    is_whole = digest == _digest(asdict(entry)) and data == entry_bytes(entry)
    return entry if is_whole and entry.number == number else None


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
