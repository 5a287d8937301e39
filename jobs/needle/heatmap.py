"""Table of needle rows → heat-maps of length × depth, drawn without a browser or a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from jobs.needle.rates import Score, Summary, rate_text, summarise

_WIDE, _HIGH = 62, 32
_MOST_HIGH = 620
_TWO_LINES = 24
"""So high must a cell be for a second line."""
_FEW = 10
"""A cell of fewer questions says how many: such a rate is coarse."""
_TURN = 0.45
"""Below it the scale is dark enough for white letters."""
Chart = alt.HConcatChart
_Panel = alt.LayerChart | alt.FacetChart


def heatmap(frame: pl.DataFrame, question: str) -> Chart:
    """One question's map, `what` or `when`; a note in its place where it was not asked."""
    summary = summarise(frame)
    return _titled(summary, [question] if question in summary.questions else [])


def heatmaps(frame: pl.DataFrame) -> Chart:
    """*What* and *when* side by side: a cell's colour and number are its share of right answers."""
    summary = summarise(frame)
    return _titled(summary, summary.questions)


def _titled(summary: Summary, questions: Sequence[str]) -> Chart:
    panels = [_panel(summary, question) for question in questions]
    title = alt.TitleParams(
        f"Needles in a haystack: {summary.model}",
        subtitle=_subtitle(summary),
        anchor="start",
        fontSize=16,
        offset=14,
    )
    drawn: Chart = alt.hconcat(*(panels or [_nothing()]), spacing=28, title=title)
    styled: Chart = drawn.configure(aria=False, background="white", padding=12).configure_view(
        stroke="#888888"
    )
    return styled


def to_svg(chart: Chart) -> str:
    """The chart as one SVG element."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


def to_png(chart: Chart, scale: float = 2) -> bytes:
    """The chart as PNG, at `scale` pixels to a point."""
    return vl_convert.vegalite_to_png(chart.to_dict(), scale=scale)


def _panel(summary: Summary, question: str) -> _Panel:
    names = [_name(length.label, length.tokens) for length in summary.lengths]
    depths = [_percent(depth) for depth in summary.depths]
    high = min(_HIGH, max(8, _MOST_HIGH // max(1, len(depths))))
    axis = alt.Axis(labelExpr="split(datum.label, '\\n')", labelAngle=0, labelLimit=_WIDE)
    x = alt.X("length:N", sort=None, title="length, tokens", axis=axis).scale(domain=names)
    y = alt.Y("depth:N", sort=None, title="depth %").scale(domain=depths)
    colour = alt.Color("rate:Q", title="right").scale(scheme="cividis", domain=[0, 1])
    base = alt.Chart(alt.InlineData(values=_cells(summary, question)))
    tint = alt.when(alt.datum.rate < _TURN).then(alt.value("white")).otherwise(alt.value("black"))
    cells = base.mark_rect(stroke="white", strokeWidth=1).encode(x=x, y=y, color=colour)
    has_room = high >= _TWO_LINES
    told = base.mark_text(fontSize=min(11, high - 1), dy=-5 if has_room else 0)
    layers = [cells, told.encode(x=x, y=y, text="text:N", color=tint)]
    if has_room:
        few = base.mark_text(fontSize=9, dy=8)
        layers.append(few.encode(x=x, y=y, text="few:N", color=tint))
    title = alt.TitleParams(
        f"{question}: {rate_text(summary.totals[question].whole)}", anchor="start", fontSize=12
    )
    both: _Panel = alt.layer(*layers)
    return both.properties(width=alt.Step(_WIDE), height=alt.Step(high), title=title)


def _cells(summary: Summary, question: str) -> list[dict[str, Any]]:
    """Only cells with rows: a cell that nobody asked about stays empty."""
    return [
        {
            "length": _name(length.label, length.tokens),
            "depth": _percent(depth),
            "rate": score.whole.value,
            "text": _told(score),
            "few": f"n {score.whole.trials}" if score.whole.trials < _FEW else "",
        }
        for length in summary.lengths
        for depth in summary.depths
        if (score := summary.cells.get((question, length.label, depth))) is not None
    ]


def _told(score: Score) -> str:
    return f"{score.whole.value:.2f}" + ("*" if score.is_split else "")


def _subtitle(summary: Summary) -> list[str]:
    asked = sum(score.whole.trials for score in summary.totals.values())
    lines = [f"Share of right answers (hits of questions, 95 % interval); {asked:,} questions."]
    if any(score.is_split for score in summary.totals.values()):
        lines.append("* no sampled frame shows some of the needles: nobody could have seen them.")
    return lines


def _name(label: str, tokens: int) -> str:
    return f"{label}\n{tokens:,}"


def _percent(depth: float) -> str:
    return f"{depth * 100:.4g}"


def _nothing() -> _Panel:
    empty = alt.Chart(alt.InlineData(values=[{"text": "no question about a needle was asked"}]))
    alone: _Panel = alt.layer(empty.mark_text().encode(text="text:N"))
    return alone.properties(width=360, height=80)
