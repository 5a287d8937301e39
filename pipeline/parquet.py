"""Step 7: VideoResult → Arrow tables → Parquet bytes. The one file that reads and writes Parquet.

Ids come from what an answer is named by, so the same question on the same video gives the same ids.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.entries import Part
from schemas.events import SCHEMA_VERSION, TABLES, Event, VideoResult
from schemas.time import pts_to_seconds, seconds_to_clock

Tables = dict[str, pa.Table]


@dataclass(frozen=True, slots=True)
class RowContext:
    """What every row of a unit carries besides its own facts."""

    job_id: str
    unit_key: str
    model_id: str
    model_digest: str
    answer_keys: Mapping[str, str]
    """What names each (video, question) by content, by query id."""


def result_tables(result: VideoResult, context: RowContext) -> Tables:
    """The unit's rows as Arrow tables, by name; a video that failed early has no video row."""
    made = {
        "job_id": context.job_id,
        "unit_key": context.unit_key,
        "video_id": result.video_id,
        "video_uri": result.video_uri,
        "model_id": context.model_id,
        "model_digest": context.model_digest,
        "schema_version": SCHEMA_VERSION,
        "created_at": datetime.now(UTC),
    }
    prompts = dict(result.prompts)
    seen: Counter[str] = Counter()
    rows: dict[str, list[dict[str, Any]]] = {
        "events": [
            {
                **made,
                **_event_row(event),
                "event_id": event_id(context.answer_keys[event.query_id], event, seen),
                "prompt_sha256": prompts[event.query_id],
            }
            for event in result.events
        ],
        "requests": [
            {**made, **_fields(row), "status": str(row.status)}
            | {"prompt_sha256": prompts.get(row.query_id, "")}
            for row in result.requests
        ],
        "videos": [] if result.video is None else [{**made, **_fields(result.video)}],
        "needles": [{**made, **_fields(row)} for row in result.needles],
    }
    return {name: pa.Table.from_pylist(rows[name], schema=TABLES[name]) for name in TABLES}


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def event_id(answer_key: str, event: Event, seen: Counter[str]) -> str:
    """Derived from its answer's key and its place among the answer's events, hex; counts in
    `seen`. Other questions beside it do not matter."""
    position = seen[event.query_id]
    seen[event.query_id] += 1
    name = f"{answer_key}|{position}|{event.start_pts}|{event.end_pts}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _event_row(event: Event) -> dict[str, Any]:
    base = event.time_base
    start_s, end_s = pts_to_seconds(event.start_pts, base), pts_to_seconds(event.end_pts, base)
    attributes = dict(event.attributes)
    return {
        "query_id": event.query_id,
        "kind": attributes.get("kind", event.query_id),
        "label": event.label,
        "description": attributes.get("description"),
        "attributes": list(event.attributes),
        "start_s": float(start_s),
        "end_s": float(end_s),
        "start_pts": event.start_pts,
        "end_pts": event.end_pts,
        "time_base_num": base.numerator,
        "time_base_den": base.denominator,
        "start_tc": seconds_to_clock(start_s),
        "end_tc": seconds_to_clock(end_s),
        "uncertainty_s": event.uncertainty_s,
        "confidence": event.confidence,
        "evidence_pts": list(event.evidence_pts),
        "window_index": event.window_index,
        "merged_from": list(event.merged_from),
    }


def encode_part(name: str, table: pa.Table, unit_key: str) -> tuple[Part, bytes]:
    """A table as a part file: how the log names it, and its bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(data).hexdigest()
    path = f"{name}/{unit_key[:24]}-{digest[:16]}.parquet"
    return Part(name, path, table.num_rows, digest), data


def part_fault(part: Part, data: bytes) -> str | None:
    """What is wrong with a part's bytes, if anything."""
    if hashlib.sha256(data).hexdigest() != part.sha256:
        return "has other bytes than were written"
    try:
        rows = pq.read_metadata(pa.BufferReader(data)).num_rows
    except pa.ArrowException:
        return "has no footer"
    return None if rows == part.rows else f"holds {rows} rows where the log says {part.rows}"


def decode_part(part: Part, data: bytes) -> pa.Table:
    """The rows of a part whose bytes are whole."""
    return pq.read_table(pa.BufferReader(data)).cast(TABLES[part.table])


def join_tables(name: str, tables: list[pa.Table]) -> pa.Table:
    """The rows of one table from several parts, in order; an empty table where there are none."""
    return pa.concat_tables(tables) if tables else TABLES[name].empty_table()
