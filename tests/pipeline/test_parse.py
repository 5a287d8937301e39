"""Every emitted time is inside, in order and really seen, whatever the model says."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.parse import parse_reply
from schemas.events import Event, RequestRow
from schemas.job import QuerySpec
from schemas.plan import VideoPlan
from schemas.ports import Reply
from tests.pipeline.test_plan import plan_of

QUERY = QuerySpec(id="q", find="a cat")
PLAN = plan_of(20)
"""Twenty frames, one per second from 0; pairs printed as 0.5, 2.5 … 18.5."""


def parse(
    text: str, query: QuerySpec = QUERY, plan: VideoPlan = PLAN, finish: Any = "complete"
) -> tuple[RequestRow, tuple[Event, ...]]:
    return parse_reply(Reply(query.id, text, finish, 40, -0.5), query, plan)


def events_of(*items: dict[str, Any], plan: VideoPlan = PLAN) -> list[tuple[float, float]]:
    _, events = parse(json.dumps({"events": list(items)}), plan=plan)
    return [(event.start_pts / 1000, event.end_pts / 1000) for event in events]


def test_printed_times_become_the_first_frames_of_their_pairs() -> None:
    assert events_of({"start": 2.5, "end": 8.5}) == [(2.0, 8.0)]


@pytest.mark.parametrize(
    ("start", "end"),
    [("00:02.50", "00:08.50"), ("2.5", "8.5"), ("00:00:02.5", "00:00:08.5"), (2.4, 8.6)],
)
def test_seconds_and_clocks_are_read(start: object, end: object) -> None:
    assert events_of({"start": start, "end": end}) == [(2.0, 8.0)]
    assert events_of({"start_time": start, "end_time": end}) == [(2.0, 8.0)]


def test_an_event_to_the_end_stops_at_the_last_frame_seen() -> None:
    assert events_of({"start": 12.5, "end": 20.0}) == [(12.0, 19.0)]


def test_times_outside_are_clamped_or_dropped() -> None:
    row, events = parse('{"events": [{"start": 16.0, "end": 900.0}, {"start": 30.0, "end": 40.0}]}')
    assert [(e.start_pts, e.end_pts) for e in events] == [(16000, 19000)]
    assert (row.num_events, row.num_dropped) == (1, 1)


@pytest.mark.parametrize(
    "item",
    [
        {"start": 9.0, "end": 3.0},
        {"start": "soon", "end": 3.0},
        {"start": 1.0},
        {"start": True, "end": 3.0},
        {"start": None, "end": None},
        ["x"],
        "x",
    ],
)
def test_what_cannot_be_repaired_is_dropped_and_counted(item: object) -> None:
    row, events = parse(json.dumps({"events": [item]}))
    assert events == ()
    assert (row.status, row.num_dropped) == ("no_event", 1)


def test_a_moment_becomes_the_shortest_span() -> None:
    assert events_of({"start": 4.5, "end": 4.5}) == [(4.0, 5.0)]
    assert events_of({"start": 19.9, "end": 19.9}) == [(18.0, 19.0)]


def test_events_come_in_order_and_once() -> None:
    twice = {"start": 8.5, "end": 10.5}
    assert events_of(twice, {"start": 0.5, "end": 2.5}, twice) == [(0.0, 2.0), (8.0, 10.0)]


def test_statuses_differ() -> None:
    assert parse('{"events": []}')[0].status == "no_event"
    assert parse('{"events": [{"start": 0.5, "end": 4.5}]}')[0].status == "found"
    row, events = parse('{"events": [{"start": 0.5, "end": 4.5}, {"star', finish="truncated")
    assert (row.status, row.reason, len(events)) == ("truncated", "answer_too_long", 1)
    row, events = parse("I saw a cat.")
    assert (row.status, row.reason, events) == ("parse_failed", "not_the_asked_form", ())
    assert row.answer == "I saw a cat."
    assert parse('{"cats": 3}')[0].status == "parse_failed"


def test_a_text_answer() -> None:
    query = QuerySpec(id="q", ask="What happens?")
    row, events = parse('{"answer": "A cat sleeps."}', query)
    assert (row.status, row.answer, events) == ("answered", "A cat sleeps.", ())
    assert parse("nothing", query)[0].status == "parse_failed"
    assert parse('{"answer": "A c', query, finish="truncated")[0].status == "truncated"


def test_a_choice_is_one_of_its_options() -> None:
    query = QuerySpec(id="q", ask="Which sky?", options=("blue", "grey"))
    row, events = parse('{"answer": "grey"}', query)
    assert (row.status, row.answer, events) == ("answered", "grey", ())
    row, _ = parse('{"answer": "green"}', query)
    assert (row.status, row.reason) == ("parse_failed", "not_the_asked_form")


def test_fields_are_kept_as_asked() -> None:
    query = QuerySpec(id="q", find="a chart", fields={"kind": ["bar", "pie"], "title": "string"})
    item = {"start": 0.5, "end": 4.5, "kind": "pie", "title": "Rain", "mood": "grim"}
    _, events = parse(json.dumps([item]), query)
    assert events[0].attributes == (("kind", "pie"), ("title", "Rain"))


def test_confidence_and_evidence() -> None:
    _, events = parse('{"events": [{"start": 0.5, "end": 18.5}]}')
    assert events[0].confidence == pytest.approx(0.6065, abs=1e-3)
    assert len(events[0].evidence_pts) == 8
    assert set(events[0].evidence_pts) <= set(PLAN.sampling.frame_pts)
    assert events[0].uncertainty_s == 2.0


def test_one_frame_ends_with_the_clip() -> None:
    plan = plan_of(1)
    assert plan.sampling.num_frames == 1
    assert events_of({"start": 0.0, "end": 1.0}, plan=plan) == [(0.0, 1.0)]


@given(
    st.lists(
        st.tuples(st.floats(0, 40, allow_nan=False), st.floats(0, 40, allow_nan=False)), max_size=6
    ),
    st.integers(2, 30),
)
def test_whatever_is_said_only_seen_frames_come_out(
    spans: list[tuple[float, float]], seconds: int
) -> None:
    plan = plan_of(seconds)
    items = [{"start": round(a, 1), "end": round(b, 1)} for a, b in spans]
    row, events = parse(json.dumps({"events": items}), plan=plan)
    seen = set(plan.sampling.frame_pts)
    for event in events:
        assert event.start_pts < event.end_pts
        assert {event.start_pts, event.end_pts} <= seen
        assert event.time_base == Fraction(1, 1000)
    assert row.num_events == len(events)
    assert row.num_events + row.num_dropped == len(items)


@given(st.text(max_size=200))
def test_no_text_raises(text: str) -> None:
    parse(text)
    parse(text, finish="truncated")
