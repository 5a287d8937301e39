"""What was said + what is true → one row of the `needles` table.

*What* is right where it says the same, blanks and case aside. *When* is right where the time, or
every span that was said, lies within one sampling step of the needle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from pipeline.needles import NONE
from pipeline.quiz import Asked
from pipeline.scoring import Span, temporal_iou
from schemas.errors import InputError
from schemas.events import Event, NeedleRow, RequestRow
from schemas.plan import VideoPlan
from schemas.time import clock_to_seconds, pts_to_seconds

_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:s|sec|seconds)?\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Seen:
    """One length of a pass as it was read."""

    label: str
    haystack: int
    plan: VideoPlan
    total_tokens: int
    last_start_pts: int
    """The last place where a needle could begin, from the clip's start."""
    truths: tuple[tuple[int, int], ...]
    """Half-open pts spans of the pass's needles, in order."""


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to one question, as the parser read it."""

    row: RequestRow
    events: tuple[Event, ...]


def judge(asked: Asked, said: Said, seen: Seen) -> NeedleRow:
    """One question's row."""
    plan, base = seen.plan, seen.plan.sampling.span.time_base
    truth = None if asked.number is None else seen.truths[asked.number]
    span = None if truth is None else _seconds(truth, base)
    spans = said_spans(asked, said)
    offsets = [offset_s(one, span) for one in spans] if span else []
    shown = [_shown(one, plan.sampling.step_s) for one in spans]
    overlaps = [temporal_iou(one, span) for one in shown] if span else []
    first = shown[0] if shown else None
    pts = plan.sampling.frame_pts
    return NeedleRow(
        query_id=asked.query.id,
        haystack=seen.haystack,
        length=seen.label,
        total_tokens=seen.total_tokens,
        sampled_frames=len(pts),
        clip_s=float(plan.sampling.span.duration_s),
        step_s=plan.sampling.step_s,
        depth=asked.depth,
        placed_depth=None if truth is None else truth[0] / max(1, seen.last_start_pts),
        needle=asked.needle,
        num_needles=len(seen.truths),
        control=asked.control,
        question=asked.topic,
        asked=asked.query.ask or asked.query.find or "",
        expected=asked.expected or _text(span),
        answer=said.row.answer,
        status=str(said.row.status),
        is_correct=is_correct(asked, said, spans, span, plan.sampling.step_s),
        needle_frames=0 if truth is None else sum(truth[0] <= one < truth[1] for one in pts),
        truth_start_s=None if span is None else span[0],
        truth_end_s=None if span is None else span[1],
        truth_start_pts=None if truth is None else truth[0],
        truth_end_pts=None if truth is None else truth[1],
        time_base_num=base.numerator,
        time_base_den=base.denominator,
        said_start_s=None if first is None else first[0],
        said_end_s=None if first is None else first[1],
        offset_s=min(offsets, key=abs, default=None),
        iou=max(overlaps, default=None),
    )


def is_correct(
    asked: Asked, said: Said, spans: Sequence[Span], truth: Span | None, step_s: float
) -> bool:
    """Whether an answer is what is expected. An answer that failed is not."""
    if not said.row.status.is_done:
        return False
    if asked.number is None:
        return says_nothing(asked, said)
    if asked.topic == "what":
        return _plain(said.row.answer) == _plain(asked.expected)
    # Rounding of printed times to a tenth is no error of the model.
    within = step_s + 0.05 + 1e-9
    return (
        bool(spans)
        and truth is not None
        and all(abs(offset_s(one, truth)) <= within for one in spans)
    )


def says_nothing(asked: Asked, said: Said) -> bool:
    """Whether the answer is that there is nothing."""
    if asked.query.find is not None:
        return not said.events
    return _plain(said.row.answer) == NONE


def said_spans(asked: Asked, said: Said) -> list[Span]:
    """Times of the answer, in order; a moment is a span without length."""
    if asked.topic != "when":
        return []
    if asked.query.find is not None:
        return [_seconds((one.start_pts, one.end_pts), one.time_base) for one in said.events]
    moment = read_moment(said.row.answer)
    return [] if moment is None else [(moment, moment)]


def _shown(span: Span, step_s: float) -> Span:
    """A span that was said; for a moment that of its patch pair."""
    if span[0] < span[1]:
        return span
    # A pair prints the middle of its two frames: it shows from half a step before to 1.5 behind.
    return span[0] - step_s / 2, span[1] + 1.5 * step_s


def read_moment(text: str) -> float | None:
    """Seconds of a time as people and models write it; None where it is none."""
    match = _SECONDS.fullmatch(text.strip())
    if match is not None:
        return float(match[1])
    try:
        return float(clock_to_seconds(text.strip()))
    except InputError:
        return None


def offset_s(said: Span, truth: Span) -> float:
    """Signed distance in seconds from the needle to what was said, 0 where they touch."""
    if said[1] < truth[0]:
        return said[1] - truth[0]
    return max(0.0, said[0] - truth[1])


def _seconds(span: tuple[int, int], base: Fraction) -> Span:
    return float(pts_to_seconds(span[0], base)), float(pts_to_seconds(span[1], base))


def _text(span: Span | None) -> str:
    return "" if span is None else f"{span[0]:.1f} to {span[1]:.1f}"


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()
