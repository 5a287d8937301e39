"""Time, exactly: a time is an integer `pts` and its base; a span is half-open.

Seconds exist in three places only: the prompt, the output columns and what people read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from schemas.errors import InputError

_CLOCK = re.compile(r"(?:(?:(\d+):)?(\d{1,2}):)?(\d+(?:\.\d+)?)")


def pts_to_seconds(pts: int, time_base: Fraction) -> Fraction:
    """Exact seconds of `pts` ticks of `time_base` seconds each."""
    return pts * time_base


def seconds_to_pts(seconds: Fraction, time_base: Fraction) -> int:
    """The last tick at or before `seconds`."""
    return int(seconds // time_base)


def clock_to_seconds(text: str) -> Fraction:
    """Read `12.5`, `mm:ss(.ff)` or `hh:mm:ss(.ff)`; after a colon, 59 is the highest.

    Raises InputError for anything else.
    """
    match = _CLOCK.fullmatch(text.strip())
    if match is None:
        raise InputError(
            f"{text!r} is not a time; write seconds (12.5), mm:ss or hh:mm:ss.", reason="bad_time"
        )
    hours, minutes, seconds = match[1], match[2], Fraction(match[3])
    if (minutes is not None and seconds >= 60) or (hours is not None and int(minutes or 0) >= 60):
        raise InputError(
            f"{text!r} is not a time: minutes and seconds after a colon stay below 60.",
            reason="bad_time",
        )
    return int(hours or 0) * 3600 + int(minutes or 0) * 60 + seconds


def seconds_to_clock(seconds: Fraction | float) -> str:
    """`hh:mm:ss.mmm`, rounded to the millisecond; a leading `-` for times before zero."""
    millis = round(Fraction(seconds) * 1000)
    sign, millis = ("-", -millis) if millis < 0 else ("", millis)
    minutes, rest = divmod(millis, 60_000)
    return f"{sign}{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def timestamp_text(seconds: Fraction | float) -> str:
    """The text before a patch pair, `<12.5 seconds>`: one decimal, as checkpoints were trained."""
    return f"<{float(seconds):.1f} seconds>"


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """Half-open `[start_pts, end_pts)` in ticks of `time_base` seconds."""

    start_pts: int
    end_pts: int
    time_base: Fraction

    def __post_init__(self) -> None:
        if self.time_base <= 0:
            raise InputError(f"time base {self.time_base} is not positive.", reason="bad_time_base")
        if self.start_pts >= self.end_pts:
            raise InputError(
                f"span {self.start_pts}..{self.end_pts} is empty; it must start before it ends.",
                reason="empty_span",
            )

    @property
    def start_s(self) -> Fraction:
        return pts_to_seconds(self.start_pts, self.time_base)

    @property
    def end_s(self) -> Fraction:
        return pts_to_seconds(self.end_pts, self.time_base)

    @property
    def duration_s(self) -> Fraction:
        return self.end_s - self.start_s

    def holds(self, pts: int) -> bool:
        return self.start_pts <= pts < self.end_pts
