"""The merge: what two windows saw of one thing is one event, what is two things stays two."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.merge import WindowAnswers, merge_windows
from schemas.events import Event, RequestRow, RequestStatus
from schemas.plan import VideoPlan
from tests.pipeline.test_windows import windows_of

ROW = RequestRow("a", RequestStatus.FOUND, 1, 0, "said", "", "", 5)
Spans = list[tuple[int, int]]


def event(start: int, end: int, **changes: object) -> Event:
    """Seconds to an event on a clock of milliseconds."""
    made = Event(
        "a", "x", (), start * 1000, end * 1000, Fraction(1, 1000), 2.0, 0.5, (start * 1000,)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def plans(count: int) -> list[VideoPlan]:
    """Windows over 600 s, a patch pair every two seconds."""
    return [w.plan for w in windows_of(600, count, fps=1, pair_tokens=4, context=4096)]


def merged(*windows: list[Event]) -> list[Event]:
    answers = [WindowAnswers((ROW,), tuple(events)) for events in windows]
    return list(merge_windows(answers, plans(len(windows)))[1])


def spans(events: list[Event]) -> Spans:
    return [(e.start_pts // 1000, e.end_pts // 1000) for e in events]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ([[(10, 30)], [(20, 40)]], [(10, 40)]),
        ([[(10, 30)], [(30, 40)]], [(10, 40)]),
        ([[(10, 30)], [(32, 40)]], [(10, 40)]),
        ([[(10, 30)], [(33, 40)]], [(10, 30), (33, 40)]),
        # Both windows saw both things: each finds its own, although one could bridge to the other.
        ([[(10, 20), (21, 30)], [(15, 20), (21, 40)]], [(10, 20), (21, 40)]),
        # One event joins one event of the next window, not two.
        ([[(10, 40)], [(10, 20), (30, 40)]], [(10, 40), (30, 40)]),
        # Overlaps go on as long as they like.
        ([[(10, 30)], [(25, 60)], [(50, 90)]], [(10, 90)]),
        # Gaps do not add up: the second would bridge three seconds in all.
        ([[(10, 20)], [(22, 30)], [(31, 40)]], [(10, 30), (31, 40)]),
        # Only neighbours join.
        ([[(10, 20)], [], [(20, 30)]], [(10, 20), (20, 30)]),
        ([[], [(5, 9)]], [(5, 9)]),
    ],
)
def test_what_joins(windows: list[Spans], expected: Spans) -> None:
    found = merged(*[[event(*span) for span in window] for window in windows])
    assert spans(found) == expected


def test_other_labels_and_attributes_stay_apart() -> None:
    bar, line = ((("kind", kind),) for kind in ("bar", "line"))
    assert len(merged([event(1, 5, attributes=bar)], [event(2, 6, attributes=line)])) == 2
    assert len(merged([event(1, 5, attributes=bar)], [event(2, 6, attributes=bar)])) == 1
    assert len(merged([event(1, 5, query_id="a")], [event(2, 6, query_id="b")])) == 2


def test_the_originals_are_kept() -> None:
    (one,) = merged(
        [event(10, 30, confidence=0.9)], [event(20, 40, confidence=0.4, uncertainty_s=3.0)]
    )
    assert one.merged_from == ("0:10000..30000", "1:20000..40000")
    assert (one.window_index, one.confidence, one.uncertainty_s) == (0, 0.4, 3.0)
    assert one.evidence_pts == (10_000, 20_000)
    (alone,) = merged([], [event(20, 40)])
    assert (alone.window_index, alone.merged_from) == (1, ())


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 80), st.integers(1, 30))), min_size=2, max_size=4)
)
def test_the_order_of_events_does_not_matter_and_no_time_is_lost(given_: list[Spans]) -> None:
    windows = [[event(start, start + length) for start, length in w] for w in given_]
    found = merged(*windows)
    for window in windows:
        random.Random(1).shuffle(window)
    assert merged(*windows) == found
    seen = {t for w in windows for e in w for t in range(e.start_pts, e.end_pts, 1000)}
    kept = {t for e in found for t in range(e.start_pts, e.end_pts, 1000)}
    assert seen <= kept
    # What no window saw is at most the one step that an event may bridge.
    for one in found:
        own = set(range(one.start_pts, one.end_pts, 1000))
        assert len(own - seen) <= 2
    used = [name for e in found for name in e.merged_from]
    assert len(used) == len(set(zip(used, range(len(used)), strict=True)))


def test_one_window_is_left_as_it_is() -> None:
    events = (event(20, 40), event(10, 30))
    assert merge_windows([WindowAnswers((ROW,), events)], plans(1)) == ((ROW,), events)


def test_rows_tell_of_all_windows() -> None:
    cut = replace(ROW, status=RequestStatus.TRUNCATED, reason="answer_too_long", message="cut.")
    none = replace(ROW, status=RequestStatus.NO_EVENT, num_events=0, num_dropped=2, answer="none")
    answers = [
        WindowAnswers((none,), ()),
        WindowAnswers((ROW,), (event(1, 5),)),
        WindowAnswers((ROW,), (event(2, 6),)),
    ]
    ((row,), _) = merge_windows(answers, plans(3))
    assert (row.status, row.num_events, row.num_dropped) == (RequestStatus.FOUND, 1, 2)
    assert row.answer_tokens == 15
    assert row.answer.splitlines()[0] == "<0.0 seconds> to <206.0 seconds>: none"
    answers[2] = WindowAnswers((cut,), (event(2, 6),))
    ((row,), _) = merge_windows(answers, plans(3))
    assert (row.status, row.reason) == (RequestStatus.TRUNCATED, "answer_too_long")
