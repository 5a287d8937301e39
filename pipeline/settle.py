"""What a run found + what stays of earlier runs → parts → one log entry.

Promises one commit per answer, whoever computes it: a writer that comes second finds its answers in
the log and drops its parts. One entry holds everything that counts of a place, so an added question
leaves the old answers' rows as they are, and a plain glob over the Parquet sees what readers see.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.commit_log import CommitLog, LogState
from pipeline.entries import Answer, Entry, Part
from pipeline.parquet import Tables, encode_part
from schemas.errors import ConfigError
from schemas.events import TABLES

BY_QUESTION = ("events", "requests", "needles")
"""Tables whose rows each belong to one question."""


@dataclass(frozen=True, slots=True)
class Fresh:
    """What one unit's run found."""

    place: str
    unit_key: str
    answers: tuple[Answer, ...]
    tables: Tables
    since: int
    """The log's last number when the work was chosen: what came later was not known then."""
    seconds: float = 0.0
    window_tokens: tuple[int, ...] = ()
    work_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Merged:
    answers: tuple[Answer, ...]
    tables: Tables


def settle(log: CommitLog, fresh: Fresh) -> Entry | None:
    """Commit what of `fresh` is not committed yet; None where another client did all of it."""
    state = log.state()
    base: Entry | None = None
    parts: tuple[Part, ...] = ()
    entry: Entry | None = None
    is_built = False
    while entry is None:
        live = state.live.get(fresh.place)
        if not is_built or live != base:
            _discard(log, parts, state)
            base, is_built = live, True
            mine = [a for a in fresh.answers if not _is_given(a, live, fresh.since)]
            if not mine:
                return None
            merged = _merge(log, fresh, mine, live)
            parts = _write(log, merged.tables, fresh.unit_key)
            log.at_step("parts_written")
        draft = Entry(
            0,
            fresh.place,
            fresh.unit_key,
            merged.answers,
            parts,
            fresh.seconds,
            sum(fresh.window_tokens),
            datetime.now(UTC).isoformat(),
            fresh.window_tokens,
            fresh.work_s,
        )
        entry = log.append(draft, state.last)
        state = log.state()
    if base is not None:
        _discard(log, base.parts, state)
        log.at_step("replaced_dropped")
    return entry


def _is_given(answer: Answer, live: Entry | None, since: int) -> bool:
    """Whether another client committed this answer while it was worked on here."""
    if live is None or live.number <= since:
        return False
    for given in live.answers:
        if given.key == answer.key:
            return given.final or not answer.final
    return False


def _merge(log: CommitLog, fresh: Fresh, mine: list[Answer], live: Entry | None) -> _Merged:
    """The place's rows from here on: ours, and of the live entry those that ours do not replace."""
    ours = {answer.query_id for answer in mine}
    tables = {name: _only(fresh.tables[name], ours) for name in BY_QUESTION}
    tables["videos"] = fresh.tables["videos"]
    stays = [a for a in live.answers if a.query_id not in ours] if live else []
    if live is None or not stays:
        return _Merged(tuple(mine), tables)
    try:
        old = {name: _read(log, live, name) for name in TABLES}
    except ConfigError:
        # Damaged: what this job asks of it is among `mine`; the rest can be read by nobody.
        return _Merged(tuple(mine), tables)
    ids = {answer.query_id for answer in stays}
    kept = {name: _only(old[name], ids) for name in BY_QUESTION}
    # One row per video and settings, the newest, for every answer that refers to it.
    needed = set(kept["requests"]["unit_key"].to_pylist())
    if tables["videos"].num_rows:
        needed.discard(fresh.unit_key)
    kept["videos"] = old["videos"].filter(_among(old["videos"], "unit_key", needed))
    joined = {name: pa.concat_tables([kept[name], tables[name]]) for name in TABLES}
    return _Merged((*stays, *mine), joined)


def _only(table: pa.Table, query_ids: set[str]) -> pa.Table:
    return table.filter(_among(table, "query_id", query_ids))


def _among(table: pa.Table, column: str, values: Collection[str]) -> pa.Array:
    return pc.is_in(table[column], value_set=pa.array(sorted(values), pa.string()))


def _read(log: CommitLog, entry: Entry, table: str) -> pa.Table:
    tables = [log.read_part(part) for part in entry.parts if part.table == table]
    return pa.concat_tables([TABLES[table].empty_table(), *tables])


def _write(log: CommitLog, tables: Tables, unit_key: str) -> tuple[Part, ...]:
    """Tables without rows get no file."""
    parts = []
    for name in TABLES:
        if tables[name].num_rows:
            part, data = encode_part(name, tables[name], unit_key)
            log.store.put(part.path, data)
            parts.append(part)
    return tuple(parts)


def _discard(log: CommitLog, parts: tuple[Part, ...], state: LogState) -> None:
    """Remove files that no live entry names."""
    kept = {part.path for entry in state.live.values() for part in entry.parts}
    for part in parts:
        if part.path not in kept:
            log.store.delete(part.path)


def adopt(log: CommitLog, entry: Entry, keys: Collection[str], place: str, uri: str) -> Fresh:
    """The answers of `entry` that `keys` name as those of another place, which holds the same
    bytes; nothing is redone. Raises ConfigError where its parts are damaged."""
    answers = tuple(answer for answer in entry.answers if answer.key in keys)
    ids = {answer.query_id for answer in answers}
    tables = {name: _at(_read(log, entry, name), uri) for name in TABLES}
    for name in BY_QUESTION:
        tables[name] = _only(tables[name], ids)
    used = set(tables["requests"]["unit_key"].to_pylist())
    tables["videos"] = tables["videos"].filter(_among(tables["videos"], "unit_key", used))
    return Fresh(place, entry.unit_key, answers, tables, since=log.state().last)


def _at(table: pa.Table, uri: str) -> pa.Table:
    number = table.schema.get_field_index("video_uri")
    column = pa.array([uri] * table.num_rows, pa.string())
    return table.set_column(number, table.schema.field(number), column)
