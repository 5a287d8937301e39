"""Step 7: VideoResult → Parquet bytes on disk. The one file that writes Parquet.

Promises that a part file is whole or absent: temporary name, fsync, rename, fsync of the folder.
Ids come from the unit's key, so the same key gives the same ids.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.events import SCHEMA_VERSION, TABLES, Event, VideoResult
from schemas.time import pts_to_seconds, seconds_to_clock


@dataclass(frozen=True, slots=True)
class RowContext:
    """What every row of a unit carries besides its own facts."""

    job_id: str
    unit_key: str
    model_id: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class Part:
    """One written file: how the commit log names it."""

    table: str
    path: str
    """Relative to the output folder."""
    rows: int
    sha256: str


def result_tables(result: VideoResult, context: RowContext) -> dict[str, pa.Table]:
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
    rows: dict[str, list[dict[str, Any]]] = {
        "events": [
            {**made, **_event_row(event, i, context), "prompt_sha256": prompts[event.query_id]}
            for i, event in enumerate(result.events)
        ],
        "requests": [
            {**made, **_fields(row), "status": str(row.status)}
            | {"prompt_sha256": prompts.get(row.query_id, "")}
            for row in result.requests
        ],
        "videos": [] if result.video is None else [{**made, **_fields(result.video)}],
    }
    return {name: pa.Table.from_pylist(rows[name], schema=TABLES[name]) for name in TABLES}


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def event_id(unit_key: str, event: Event, position: int) -> str:
    """Derived from the unit's key and the event's place in it, hex."""
    name = f"{unit_key}|{event.query_id}|{position}|{event.start_pts}|{event.end_pts}"
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def _event_row(event: Event, position: int, context: RowContext) -> dict[str, Any]:
    base = event.time_base
    start_s, end_s = pts_to_seconds(event.start_pts, base), pts_to_seconds(event.end_pts, base)
    attributes = dict(event.attributes)
    return {
        "event_id": event_id(context.unit_key, event, position),
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


def write_parts(folder: Path, result: VideoResult, context: RowContext) -> list[Part]:
    """Write the unit's part files, whole or not at all. Tables without rows get no file."""
    parts = []
    for name, table in result_tables(result, context).items():
        if table.num_rows:
            parts.append(_write_part(folder, name, table, context.unit_key))
    return parts


def _write_part(folder: Path, name: str, table: pa.Table, unit_key: str) -> Part:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    path = f"{name}/{unit_key[:24]}-{digest[:8]}.parquet"
    write_whole(folder / path, data)
    return Part(name, path, table.num_rows, digest)


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader sees all of it or nothing, even after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps half-written files out of `*.parquet`.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and links inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_tables(folder: Path, name: str, paths: list[str]) -> pa.Table:
    """The rows of one table from the named parts, in order; an empty table where there are none."""
    tables = [pq.ParquetFile(folder / path).read().cast(TABLES[name]) for path in paths]
    return pa.concat_tables(tables) if tables else TABLES[name].empty_table()
