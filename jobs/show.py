"""Rows and plans as tables for people and as JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from jobs.outputs import open_store
from jobs.provenance import JOB_FILE
from pipeline.commit_log import CommitLog
from schemas.errors import ConfigError
from schemas.media import StreamIndex
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events are shown; None lets all through."""

    query: str | None = None
    video: str | None = None
    after_s: float | None = None
    before_s: float | None = None
    min_confidence: float | None = None

    def keep(self) -> pl.Expr:
        """The filter as one expression over the events table."""
        expression = pl.lit(True)
        if self.query is not None:
            expression &= pl.col("query_id") == self.query
        if self.video is not None:
            expression &= pl.col("video_uri").str.contains(self.video, literal=True)
        if self.after_s is not None:
            expression &= pl.col("end_s") > self.after_s
        if self.before_s is not None:
            expression &= pl.col("start_s") < self.before_s
        if self.min_confidence is not None:
            expression &= pl.col("confidence") >= self.min_confidence
        return expression


def open_output(folder: str) -> CommitLog:
    """The log of an output folder. Raises ConfigError where there is none."""
    log = CommitLog(open_store(folder))
    if not log.store.files("_log") and not log.store.has(JOB_FILE):
        raise ConfigError(
            f"{folder} is no output of Longtake (it has no _log); name the folder given "
            "as --output."
        )
    return log


def read_frame(log: CommitLog, table: str) -> pl.DataFrame:
    """One table of an output, live rows only."""
    frame = pl.from_arrow(log.read(table))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError("an Arrow table becomes a data frame")
    return frame


def select_events(log: CommitLog, chosen: EventFilter) -> pl.DataFrame:
    """The wanted events by video and time."""
    events = read_frame(log, "events").filter(chosen.keep())
    return events.sort("video_uri", "start_s", "query_id")


def events_table(events: pl.DataFrame) -> Table:
    """Events as people read them."""
    table = Table(title=None)
    for name, justify in (
        ("video", "left"),
        ("query", "left"),
        ("label", "left"),
        ("start", "right"),
        ("end", "right"),
        ("± s", "right"),
        ("conf.", "right"),
        ("attributes", "left"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in events.iter_rows(named=True):
        attributes = ", ".join(f"{a['key']}={a['value']}" for a in row["attributes"])
        table.add_row(
            _plain(Path(row["video_uri"]).name),
            _plain(row["query_id"]),
            _plain(row["label"]),
            row["start_tc"],
            row["end_tc"],
            f"{row['uncertainty_s']:.1f}",
            f"{row['confidence']:.2f}",
            _plain(attributes),
        )
    return table


def _plain(text: str) -> str:
    # What a model or a file name says is data: neither markup nor control characters.
    return "".join(c if c.isprintable() else " " for c in text).replace("[", r"\[")


def json_lines(frame: pl.DataFrame) -> Iterator[str]:
    """One JSON object per row, times in ISO 8601."""
    for row in frame.iter_rows(named=True):
        if "attributes" in row:
            row["attributes"] = {a["key"]: a["value"] for a in row["attributes"]}
        yield json.dumps(row, default=lambda value: value.isoformat())


def plan_facts(index: StreamIndex, plan: VideoPlan, facts: ModelFacts) -> dict[str, Any]:
    """One video's plan as plain values."""
    sampling = plan.sampling
    return {
        "video": index.source.uri,
        "duration_s": float(sampling.span.duration_s),
        "frames": sampling.num_frames,
        "asked_fps": float(sampling.asked_fps),
        "effective_fps": round(sampling.effective_fps, 4),
        "step_s": round(sampling.step_s, 4),
        "frame_size": f"{sampling.grid.width}x{sampling.grid.height}",
        "pair_tokens": sampling.grid.tokens,
        "video_tokens": plan.video_tokens,
        "total_tokens": plan.total_tokens,
        "chunks": len(plan.chunks),
        "largest_chunk_frame_bytes": plan.frame_bytes,
        "weight_bytes": plan.memory.weight_bytes,
        "kv_bytes": plan.memory.kv_bytes,
        "chunk_bytes": plan.memory.chunk_bytes,
        "waiting_bytes": plan.memory.waiting_bytes,
        "total_bytes": plan.memory.total_bytes,
        "yarn_factor": facts.yarn_factor,
        "bound_by": list(sampling.bound_by),
        "notes": list(index.notes),
    }


def _caption(plans: list[dict[str, Any]]) -> str:
    most = max(plans, key=lambda plan: plan["total_bytes"])
    names = ("total_bytes", "weight_bytes", "kv_bytes", "chunk_bytes", "waiting_bytes")
    total, weights, kv, chunk, waiting = (f"{most[name] / GIB:.2f}" for name in names)
    said = (
        f"most memory: {total} GiB = weights {weights} + KV cache {kv} + chunk {chunk} "
        f"+ frames ahead {waiting}"
    )
    return said if most["yarn_factor"] is None else f"{said}; YaRN factor {most['yarn_factor']:g}"


def plans_table(plans: list[dict[str, Any]]) -> Table:
    """Plans as people read them, with the memory of the largest in parts, and YaRN if it is on."""
    table = Table(caption=_caption(plans), caption_justify="left", caption_style="")
    for name in (
        "video",
        "length",
        "fps",
        "step",
        "frame",
        "per pair",
        "tokens",
        "chunks",
        "memory",
    ):
        table.add_column(name, justify="left" if name == "video" else "right", overflow="fold")
    table.add_column("bound by", overflow="fold")
    for plan in plans:
        table.add_row(
            _plain(Path(plan["video"]).name),
            f"{plan['duration_s']:.1f} s",
            f"{plan['effective_fps']:.2f} of {plan['asked_fps']:.2f}",
            f"{plan['step_s']:.2f} s",
            plan["frame_size"],
            str(plan["pair_tokens"]),
            f"{plan['total_tokens']:,}",
            str(plan["chunks"]),
            f"{plan['total_bytes'] / GIB:.2f} GiB",
            ", ".join(plan["bound_by"]) or "-",
        )
    return table
