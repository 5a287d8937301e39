"""Times are integers with a base; seconds are only how they are written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.time import (
    TimeSpan,
    clock_to_seconds,
    pts_to_seconds,
    seconds_to_clock,
    seconds_to_pts,
    timestamp_text,
)

BASES = st.sampled_from([Fraction(1, 90000), Fraction(1001, 30000), Fraction(1, 1000), Fraction(1)])


@given(st.integers(-(10**12), 10**12), BASES)
def test_pts_survive_the_way_to_seconds_and_back(pts: int, base: Fraction) -> None:
    assert seconds_to_pts(pts_to_seconds(pts, base), base) == pts


@given(st.integers(0, 99 * 3600 * 1000))
def test_a_clock_reads_back_what_was_written(millis: int) -> None:
    assert clock_to_seconds(seconds_to_clock(Fraction(millis, 1000))) == Fraction(millis, 1000)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12.5", Fraction(25, 2)),
        ("0", Fraction(0)),
        ("01:02", Fraction(62)),
        ("1:02.25", Fraction(249, 4)),
        ("00:10:00", Fraction(600)),
        ("1:00:00.5", Fraction(7201, 2)),
        ("600", Fraction(600)),
        (" 7 ", Fraction(7)),
    ],
)
def test_accepted_forms(text: str, seconds: Fraction) -> None:
    assert clock_to_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "-1", "1:60", "1:2:3:4", "00:75:00", "soon", "1e3", "inf", "1:"]
)
def test_refused_forms_say_what_is_accepted(text: str) -> None:
    with pytest.raises(InputError, match="is not a time"):
        clock_to_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (Fraction(0), "00:00:00.000"),
        (Fraction(-3, 2), "-00:00:01.500"),
        (Fraction(3661), "01:01:01.000"),
        (Fraction(359999, 1), "99:59:59.000"),
        (Fraction(19999, 10000), "00:00:02.000"),
    ],
)
def test_clock_text(seconds: Fraction, clock: str) -> None:
    assert seconds_to_clock(seconds) == clock


def test_timestamp_text_is_the_trained_one() -> None:
    assert timestamp_text(Fraction(1, 4)) == "<0.2 seconds>"
    assert timestamp_text(3) == "<3.0 seconds>"


@given(st.integers(-1000, 1000), st.integers(1, 1000), BASES)
def test_a_span_holds_its_start_and_not_its_end(start: int, length: int, base: Fraction) -> None:
    span = TimeSpan(start, start + length, base)
    assert span.holds(start)
    assert not span.holds(start + length)
    assert span.duration_s == length * base == span.end_s - span.start_s


@pytest.mark.parametrize(("start", "end"), [(5, 5), (6, 5)])
def test_an_empty_span_is_refused(start: int, end: int) -> None:
    with pytest.raises(InputError, match="empty"):
        TimeSpan(start, end, Fraction(1, 10))


def test_a_base_must_be_positive() -> None:
    with pytest.raises(InputError, match="not positive"):
        TimeSpan(0, 1, Fraction(0))
