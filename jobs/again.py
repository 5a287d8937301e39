"""Which answers `retry` asks again: `--failed`, and `--where` with what must hold."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.run_batch import Asked
from schemas.errors import ConfigError

FIELDS = ("reason", "status", "query", "video")


@dataclass(frozen=True, slots=True)
class Again:
    """A choice among committed answers."""

    failed_only: bool
    where: tuple[tuple[str, str], ...] = ()
    """(field, value) pairs that must all hold; a video's value is a part of its path."""

    def __call__(self, asked: Asked) -> bool:
        answer = asked.answer or asked.standing
        if answer is None or (self.failed_only and answer.is_done):
            return False
        facts = {"reason": answer.reason, "status": answer.status, "query": asked.query.id}
        return all(
            value in asked.unit.source.uri if field == "video" else facts[field] == value
            for field, value in self.where
        )


def read_where(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """`reason=worker_died` → ("reason", "worker_died"). Raises ConfigError."""
    pairs = []
    for text in texts:
        field, sign, value = text.partition("=")
        if field not in FIELDS or not sign or not value:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"did you mean {near[0]}=…?" if near else f"fields are {', '.join(FIELDS)}."
            raise ConfigError(f"--where {text!r} is no condition; write reason=worker_died; {hint}")
        pairs.append((field, value))
    return tuple(pairs)
