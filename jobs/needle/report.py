"""Table of needle rows → one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any

import jinja2
import polars as pl

from jobs.needle.heatmap import heatmaps, to_svg
from jobs.needle.rates import (
    CONTROLS,
    NO_SCORE,
    QUESTIONS,
    Score,
    Summary,
    control_sentences,
    counts_text,
    main_rows,
    rate_text,
    summarise,
    was_sampled,
)

_EXPECTED = {
    "no_needle": "0: no needle is in, so the right answer is none",
    "other_needle": "0: another needle is in, so the right answer is none",
    "scrambled": "about 0: without the true question its answer can only be guessed",
}


@dataclass(frozen=True, slots=True)
class ReportFacts:
    """What was evaluated, with what, and what it took."""

    model: str
    model_digest: str
    longtake_version: str
    library_versions: dict[str, str]
    machine: str
    seed: int
    date: str
    prefilled_tokens: int
    """That the model really read."""
    naive_tokens: int
    """That it would have read, had each length of each pass been read from its beginning."""


@dataclass(frozen=True, slots=True)
class Worst:
    """A row that is shown in full."""

    picture: bytes | None
    """The needle's middle frame as PNG or JPEG; None where no needle is in or the file is gone."""
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Table:
    """Scores by one thing, one column for each question."""

    title: str
    head: str
    rows: tuple[tuple[str, tuple[Score, ...]], ...]


@dataclass(frozen=True, slots=True)
class _Case:
    """A worst case, in words."""

    picture: str
    """Data URI; empty: none."""
    alt: str
    title: str
    asked: str
    answer: str
    truth: str
    where: str


def worst_rows(frame: pl.DataFrame, limit: int = 8) -> list[dict[str, Any]]:
    """Missed needles that a sampled frame shows: *what*, then *when* from the farthest off; then
    false alarms. Where there are none, the right times that are farthest off."""
    seen = main_rows(frame).filter(was_sampled())
    wrong = seen.filter(~pl.col("is_correct"))
    alarms = frame.filter(pl.col("control").is_in(CONTROLS[:2]) & ~pl.col("is_correct"))
    chosen = [
        *wrong.filter(pl.col("question") == "what").sort("total_tokens", "depth").to_dicts(),
        *_farthest(wrong.filter(pl.col("question") == "when")).to_dicts(),
        *alarms.sort("control", "total_tokens", "query_id").to_dicts(),
    ]
    if not chosen:
        right = seen.filter((pl.col("question") == "when") & pl.col("offset_s").is_not_null())
        chosen = _farthest(right).to_dicts()
    return chosen[:limit]


def report_html(frame: pl.DataFrame, about: ReportFacts, worst: Sequence[Worst]) -> str:
    """The whole report as one file, without scripts and without anything from elsewhere."""
    summary = summarise(frame)
    text = resources.files("jobs.needle").joinpath("report.html.j2").read_text("utf-8")
    engine = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters |= {"rate": rate_text, "counts": counts_text}
    return engine.from_string(text).render(
        about=about,
        summary=summary,
        tables=_tables(summary),
        controls=_controls(summary),
        localisation=_localisation(summary),
        heatmap=to_svg(heatmaps(frame)),
        heatmap_alt=_heatmap_alt(summary),
        saved=_saved(about),
        cases=[_case(one) for one in worst],
        is_wrong=any(not one.row["is_correct"] for one in worst),
    )


def _farthest(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort(pl.col("offset_s").abs(), descending=True, nulls_last=True)


def _tables(summary: Summary) -> list[_Table]:
    def row(head: str, scores: Mapping[Any, Score], key: Any) -> tuple[str, tuple[Score, ...]]:
        return head, tuple(scores.get((name, key), NO_SCORE) for name in summary.questions)

    lengths = [
        row(f"{one.label} ({one.tokens:,} tokens)", summary.by_length, one.label)
        for one in summary.lengths
    ]
    depths = [row(f"{one * 100:.4g} %", summary.by_depth, one) for one in summary.depths]
    needles = [row(one, summary.by_needle, one) for one in summary.needles]
    return [
        _Table("By length", "Length", tuple(lengths)),
        _Table("By depth", "Depth", tuple(depths)),
        _Table("By needle", "Needle", tuple(needles)),
    ]


def _controls(summary: Summary) -> list[dict[str, Any]]:
    asked = [name for name in CONTROLS if name in summary.controls]
    return [
        {
            "name": name.replace("_", " "),
            "rates": [
                (question, summary.controls_by_question[(name, question)])
                for question in QUESTIONS
                if (name, question) in summary.controls_by_question
            ],
            "expected": _EXPECTED[name],
            "sentence": sentence,
        }
        for name, sentence in zip(asked, control_sentences(summary), strict=True)
    ]


def _localisation(summary: Summary) -> list[tuple[str, str]]:
    found = summary.localisation
    told = [
        ("Asked when, of needles that were sampled", f"{found.asked:,}"),
        ("Answered with a time", f"{found.within.trials:,}"),
        ("Of these, at most one sampling step off", rate_text(found.within)),
    ]
    if found.median_s is not None and found.max_s is not None:
        told += [
            ("Median distance from the needle", f"{found.median_s:.2f} s"),
            ("Largest distance from the needle", f"{found.max_s:.2f} s"),
        ]
    if found.mean_iou is not None:
        told.append(("Mean temporal IoU", f"{found.mean_iou:.3f}"))
    return told


def _heatmap_alt(summary: Summary) -> str:
    totals = [f"{name} {rate_text(summary.totals[name].whole)}" for name in summary.questions]
    return (
        f"Heat-maps of right answers over {len(summary.lengths)} lengths and "
        f"{len(summary.depths)} depths: {'; '.join(totals)}. The tables below give the numbers."
    )


def _saved(about: ReportFacts) -> str:
    read, naive = about.prefilled_tokens, about.naive_tokens
    text = f"{read:,} tokens were prefilled."
    if naive > read > 0:
        text += (
            f" Reading each length of each pass from its beginning would be up to {naive:,}: "
            f"up to {naive / read:.1f} times as many."
        )
    return text


def _case(one: Worst) -> _Case:
    row = one.row
    start, end = row["truth_start_s"], row["truth_end_s"]
    return _Case(
        picture="" if one.picture is None else _data_uri(one.picture),
        alt="" if start is None else f"Frame at {(start + end) / 2:.1f} s, where the needle shows",
        title=_case_title(row),
        asked=row["asked"],
        answer=row["answer"],
        truth=_truth(row),
        where=_where(row),
    )


def _data_uri(picture: bytes) -> str:
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _case_title(row: Mapping[str, Any]) -> str:
    if row["control"]:
        return f"False alarm, {row['control'].replace('_', ' ')}: {row['question']}"
    verdict = "Right" if row["is_correct"] else "Wrong"
    off = row["offset_s"]
    if row["question"] == "when":
        told = "no time said" if off is None else f"{abs(off):.2f} s {_side(off)}"
        return f"{verdict}: when, {told}"
    return f"{verdict}: what"


def _side(offset_s: float) -> str:
    if offset_s == 0:
        return "off"
    return "too early" if offset_s < 0 else "too late"


def _truth(row: Mapping[str, Any]) -> str:
    if row["question"] == "when" and row["truth_start_s"] is not None:
        return f"from {row['truth_start_s']:.1f} to {row['truth_end_s']:.1f} s"
    return str(row["expected"])


def _where(row: Mapping[str, Any]) -> str:
    parts = [f"{row['length']} ({row['total_tokens']:,} tokens)", f"needle {row['needle']}"]
    if row["depth"] is not None:
        parts.append(f"depth {row['depth'] * 100:.4g} %")
    if row["truth_start_s"] is not None:
        parts.append(f"at {row['truth_start_s']:.1f} s of {row['clip_s']:.1f} s")
        parts.append(f"in {row['needle_frames']} of {row['sampled_frames']:,} sampled frames")
    return ", ".join([*parts, PurePosixPath(row["video_uri"]).name, f"status {row['status']}"])
