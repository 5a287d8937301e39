"""Rows and plans as tables for people and as JSON lines for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from jobs.estimate import Estimate
from jobs.outputs import open_store
from jobs.provenance import JOB_FILE
from pipeline.commit_log import CommitLog
from pipeline.run import describe
from pipeline.windows import Window
from schemas.errors import ConfigError
from schemas.media import StreamIndex
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


def plan_facts(index: StreamIndex, windows: Sequence[Window], facts: ModelFacts) -> dict[str, Any]:
    """One video's plan as plain values; bytes are those of its largest window."""
    row = describe(index, windows, 0)
    plans = [window.plan for window in windows]
    memory = max((plan.memory for plan in plans), key=lambda need: need.total_bytes)
    return {
        "video": index.source.uri,
        "duration_s": row.end_s - row.start_s,
        "frames": row.sampled_frames,
        "asked_fps": float(plans[0].sampling.asked_fps),
        "effective_fps": round(row.effective_fps, 4),
        "step_s": round(row.step_s, 4),
        "frame_size": f"{row.frame_width}x{row.frame_height}",
        "pair_tokens": row.pair_tokens,
        "video_tokens": sum(plan.video_tokens for plan in plans),
        "total_tokens": row.total_tokens,
        "windows": row.num_windows,
        "window_tokens": [plan.total_tokens for plan in plans],
        "chunks": row.num_chunks,
        "largest_chunk_frame_bytes": max(plan.frame_bytes for plan in plans),
        "weight_bytes": memory.weight_bytes,
        "kv_bytes": memory.kv_bytes,
        "chunk_bytes": memory.chunk_bytes,
        "waiting_bytes": memory.waiting_bytes,
        "total_bytes": memory.total_bytes,
        "yarn_factor": facts.yarn_factor,
        "bound_by": list(row.bound_by),
        "notes": list(row.notes),
    }


def _caption(plans: Sequence[dict[str, Any]]) -> str:
    most = max(plans, key=lambda plan: plan["total_bytes"])
    names = ("total_bytes", "weight_bytes", "kv_bytes", "chunk_bytes", "waiting_bytes")
    total, weights, kv, chunk, waiting = (f"{most[name] / GIB:.2f}" for name in names)
    said = (
        f"most memory: {total} GiB = weights {weights} + KV cache {kv} + chunk {chunk} "
        f"+ frames ahead {waiting}"
    )
    return said if most["yarn_factor"] is None else f"{said}; YaRN factor {most['yarn_factor']:g}"


def plans_table(plans: Sequence[dict[str, Any]]) -> Table:
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
        "windows",
        "chunks",
        "memory",
        "time",
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
            str(plan["windows"]),
            str(plan["chunks"]),
            f"{plan['total_bytes'] / GIB:.2f} GiB",
            "-" if plan["estimated_s"] is None else _spoken(plan["estimated_s"]),
            ", ".join(plan["bound_by"]) or "-",
        )
    return table


def plan_total(plans: Sequence[dict[str, Any]], estimate: Estimate | None) -> str:
    """What all videos come to, in one line."""
    size = sum(plan["output_bytes"] for plan in plans)
    tokens = sum(plan["total_tokens"] for plan in plans)
    videos = "1 video" if len(plans) == 1 else f"{len(plans)} videos"
    said = f"total: {videos}, {tokens:,} tokens, about {size / 1024:.0f} KiB of Parquet; "
    if estimate is None:
        return said + "time unknown: `--calibrate` reads short clips to tell it"
    low, high = _spoken(estimate.low_s), _spoken(estimate.high_s)
    return f"{said}{_spoken(estimate.seconds)} ({low} to {high}), from {estimate.learnt_from}"


def _spoken(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
