"""Table of needle rows → rates with their intervals, and how they are told in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.table import Table
from rich.text import Text

from pipeline.scoring import Rate, wilson
from schemas.events import RequestStatus

QUESTIONS = ("what", "when")
CONTROLS = ("no_needle", "other_needle", "scrambled")
_DONE = [str(status) for status in RequestStatus if status.is_done]
_NO_RATE = Rate(0, 0)


@dataclass(frozen=True, slots=True)
class Score:
    """Right answers: of all rows, and of those whose needle a sampled frame shows."""

    whole: Rate
    sampled: Rate

    @property
    def is_split(self) -> bool:
        """Whether needles fell between sampled frames."""
        return self.whole.trials != self.sampled.trials


NO_SCORE = Score(_NO_RATE, _NO_RATE)


@dataclass(frozen=True, slots=True)
class Length:
    """One length as the evaluation names it, with the most tokens that a row of it had."""

    label: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Localisation:
    """How far the times that were said lie from needles that a sampled frame shows."""

    asked: int
    """Such questions; `within.trials` of them got a time for an answer."""
    within: Rate
    """At most one sampling step off, as the judge allows it."""
    median_s: float | None
    """Of |offset_s|; None where no time was said."""
    max_s: float | None
    mean_iou: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """All rates of an evaluation. Score maps lack what has no rows."""

    model: str
    lengths: tuple[Length, ...]
    """By total tokens."""
    depths: tuple[float, ...]
    needles: tuple[str, ...]
    totals: Mapping[str, Score]
    """By question."""
    by_length: Mapping[tuple[str, str], Score]
    """By question and length's label; the others likewise."""
    by_depth: Mapping[tuple[str, float], Score]
    by_needle: Mapping[tuple[str, str], Score]
    cells: Mapping[tuple[str, str, float], Score]
    """By question, length's label and depth."""
    localisation: Localisation
    controls: Mapping[str, Rate]
    """False alarms; of `scrambled` true answers given nevertheless. Only controls with rows."""
    controls_by_question: Mapping[tuple[str, str], Rate]
    num_failed: int
    """Rows without a usable answer. They count as wrong, and as false alarms."""
    num_rows: int

    @property
    def questions(self) -> tuple[str, ...]:
        """Those that were asked about needles, `what` first."""
        return tuple(name for name in QUESTIONS if name in self.totals)


def summarise(frame: pl.DataFrame) -> Summary:
    """Count a `needles` table."""
    main = main_rows(frame)
    controls = frame.filter(pl.col("control") != "")
    return Summary(
        model=", ".join(sorted(frame["model_id"].unique())),
        lengths=_lengths(main),
        depths=tuple(sorted(main["depth"].drop_nulls().unique())),
        needles=tuple(sorted(main["needle"].unique())),
        totals={key[0]: score for key, score in _scores(main, "question").items()},
        by_length=_scores(main, "question", "length"),
        by_depth=_scores(main, "question", "depth"),
        by_needle=_scores(main, "question", "needle"),
        cells=_scores(main, "question", "length", "depth"),
        localisation=_localisation(main),
        controls={key[0]: rate for key, rate in _flukes(controls, "control").items()},
        controls_by_question=_flukes(controls, "control", "question"),
        num_failed=frame.filter(~pl.col("status").is_in(_DONE)).height,
        num_rows=frame.height,
    )


def main_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows that ask for a needle which is in; depths that print alike are one."""
    return frame.filter(pl.col("control") == "").with_columns(pl.col("depth").round(6))


def was_sampled() -> pl.Expr:
    """Whether anybody could have seen the needle."""
    return pl.col("needle_frames") > 0


def rate_text(rate: Rate) -> str:
    """`0.955 (63 of 66, 0.875 to 0.984)`; a dash where nothing was asked."""
    return f"{rate.value:.3f} ({counts_text(rate)})" if rate.trials else "–"


def counts_text(rate: Rate) -> str:
    """`63 of 66, 0.875 to 0.984`: the counts and the 95 % interval alone."""
    low, high = wilson(rate.hits, rate.trials)
    return f"{rate.hits} of {rate.trials}, {low:.3f} to {high:.3f}"


def summary_table(summary: Summary) -> Table:
    """Rates by length, with a last row of all lengths."""
    table = Table(caption=_caption(summary), caption_justify="left", caption_style="")
    table.add_column("length")
    table.add_column("tokens", justify="right")
    for question in summary.questions:
        table.add_column(question)
    for length in summary.lengths:
        scores = [
            summary.by_length.get((question, length.label), NO_SCORE)
            for question in summary.questions
        ]
        cells = [_cell(score) for score in scores]
        table.add_row(Text(length.label), f"{length.tokens:,}", *cells)
    table.add_section()
    table.add_row("all", "", *(_cell(summary.totals[name]) for name in summary.questions))
    return table


def control_sentences(summary: Summary) -> list[str]:
    """One sentence for each control that was asked."""
    return [
        _sentence(name, summary.controls[name]) for name in CONTROLS if name in summary.controls
    ]


def _sentence(control: str, rate: Rate) -> str:
    low, high = wilson(rate.hits, rate.trials)
    told = f"({rate.value:.3f}, 95 % {low:.3f} to {high:.3f})"
    if control == "scrambled":
        asked = f"{rate.trials} scrambled questions"
        return f"scrambled: {rate.hits} of {asked} got the true answer {told}"
    return f"{control.replace('_', ' ')}: {rate.hits} of {rate.trials} false alarms {told}"


def _cell(score: Score) -> Text:
    lines = [rate_text(score.whole)]
    if score.is_split:
        lines.append(f"sampled: {rate_text(score.sampled)}")
    return Text("\n".join(lines))


def _caption(summary: Summary) -> str:
    parts = ["Share of right answers, with its 95 % interval."]
    if any(score.is_split for score in summary.totals.values()):
        parts.append("sampled: without needles that no sampled frame shows.")
    if summary.num_failed:
        parts.append(f"Failed and counted as wrong: {summary.num_failed}.")
    return " ".join(parts)


def _lengths(main: pl.DataFrame) -> tuple[Length, ...]:
    grouped = (
        main.group_by("length").agg(pl.col("total_tokens").max()).sort("total_tokens", "length")
    )
    return tuple(Length(label, tokens) for label, tokens in grouped.iter_rows())


def _scores(main: pl.DataFrame, *by: str) -> dict[Any, Score]:
    grouped = (
        main.drop_nulls(by)
        .group_by(*by)
        .agg(
            pl.col("is_correct").sum().alias("hits"),
            pl.len().alias("rows"),
            (pl.col("is_correct") & was_sampled()).sum().alias("sampled_hits"),
            was_sampled().sum().alias("sampled_rows"),
        )
        .sort(by)
    )
    return {
        row[: len(by)]: Score(Rate(*row[-4:-2]), Rate(*row[-2:])) for row in grouped.iter_rows()
    }


def _flukes(controls: pl.DataFrame, *by: str) -> dict[Any, Rate]:
    is_fluke = pl.col("is_correct") == (pl.col("control") == "scrambled")
    grouped = controls.group_by(*by).agg(is_fluke.sum().alias("hits"), pl.len()).sort(by)
    return {row[: len(by)]: Rate(*row[-2:]) for row in grouped.iter_rows()}


def _localisation(main: pl.DataFrame) -> Localisation:
    asked = main.filter(was_sampled() & (pl.col("question") == "when"))
    said = asked.drop_nulls("offset_s")
    off = said["offset_s"].abs()
    # As pipeline.judge: times are printed to a tenth.
    within = int((off <= said["step_s"] + 0.05 + 1e-9).sum())
    return Localisation(
        asked=asked.height,
        within=Rate(within, said.height),
        median_s=_number(off.median()),
        max_s=_number(off.max()),
        mean_iou=_number(said["iou"].mean()),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
