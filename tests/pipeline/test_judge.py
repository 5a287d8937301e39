"""Judging: what counts as right, how far off a time is, and whether anybody could have seen it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pipeline.judge import Said, Seen, judge, offset_s, read_moment
from pipeline.needles import NONE
from pipeline.quiz import Asked, Control, Topic
from schemas.events import Event, NeedleRow, RequestRow, RequestStatus
from schemas.job import QuerySpec
from schemas.plan import Chunk, FrameGrid, MemoryNeed, PatchPair, SamplingPlan, VideoPlan
from schemas.time import TimeSpan

BASE = Fraction(1, 8)
PTS = tuple(range(0, 160, 2))
"""20 s of 8 frames a second, every other one seen: a step of 0.25 s."""


def seen(*truths: tuple[int, int]) -> Seen:
    pairs = tuple(
        PatchPair(a, b, PatchPair.text_of(a, b, BASE), 16)
        for a, b in zip(PTS[::2], PTS[1::2], strict=True)
    )
    sampling = SamplingPlan(TimeSpan(0, 160, BASE), PTS, FrameGrid(3, 4, 32), Fraction(4), ())
    plan = VideoPlan(sampling, (Chunk(0, pairs),), 4, 40, MemoryNeed(0, 0, 0), 0)
    return Seen("32k", 2, plan, 700, 152, truths)


def asked(topic: Topic, expected: str = "", *, there: bool = True, control: Control = "") -> Asked:
    query = QuerySpec(id="q", ask="anything?")
    number = 0 if there else None
    return Asked(query, 0, "code", number, 0.5, control, topic, expected)


def row(answer: str, status: RequestStatus = RequestStatus.ANSWERED) -> RequestRow:
    return RequestRow("q", status, 0, 0, answer, "", "", 4)


def judged(one: Asked, answer: str, truth: tuple[int, int] = (80, 88)) -> NeedleRow:
    return judge(one, Said(row(answer), ()), seen(truth))


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("ABC", True), (" abc. ", True), ("ABD", False), ("", False), (NONE, False)],
)
def test_what_is_right_where_it_says_the_same(answer: str, is_right: bool) -> None:
    assert judged(asked("what", "ABC"), answer).is_correct is is_right


@pytest.mark.parametrize(
    ("answer", "offset", "is_right"),
    [
        ("10.1", 0.0, True),
        ("10.9 seconds", 0.0, True),
        ("0:10.5", 0.0, True),
        ("9.8", -0.2, True),
        ("11.2", 0.2, True),
        ("11.4", 0.4, False),
        ("9.6", -0.4, False),
        ("3", -7.0, False),
        ("none", None, False),
        ("at noon", None, False),
    ],
)
def test_when_is_right_within_one_step(answer: str, offset: float | None, is_right: bool) -> None:
    found = judged(asked("when"), answer)
    assert found.is_correct is is_right
    assert found.offset_s == (None if offset is None else pytest.approx(offset))
    assert found.expected == "10.0 to 11.0"
    if offset == 0.0:
        assert found.iou is not None
        assert 0 < found.iou <= 0.5


def test_rows_tell_truth_and_what_could_be_seen() -> None:
    found = judged(asked("when"), "10.1")
    assert (found.truth_start_pts, found.truth_end_pts) == (80, 88)
    assert (found.truth_start_s, found.truth_end_s) == (10.0, 11.0)
    assert found.needle_frames == 4
    assert found.placed_depth == pytest.approx(80 / 152)
    assert (found.length, found.haystack, found.total_tokens) == ("32k", 2, 700)
    assert (found.sampled_frames, found.step_s) == (80, 0.25)
    between = judged(asked("when"), "10.1", (81, 82))
    assert between.needle_frames == 0


@pytest.mark.parametrize("control", ["no_needle", "other_needle"])
def test_controls_expect_nothing(control: Control) -> None:
    for topic in ("what", "when"):
        nothing = asked(topic, NONE, there=False, control=control)
        assert judged(nothing, "None.").is_correct
        assert not judged(nothing, "10.2").is_correct
        assert judged(nothing, "none").truth_start_s is None


def test_an_answer_that_failed_is_not_right() -> None:
    cut = row("ABC", RequestStatus.TRUNCATED)
    assert not judge(asked("what", "ABC"), Said(cut, ()), seen((80, 88))).is_correct
    failed = row("", RequestStatus.PARSE_FAILED)
    nothing = asked("when", NONE, there=False, control="no_needle")
    assert not judge(nothing, Said(failed, ()), seen()).is_correct


def event(start: int, end: int) -> Event:
    return Event("q", "code", (), start, end, BASE, 0.5, 0.9, (start,))


def test_spans_are_right_where_all_of_them_are() -> None:
    query = QuerySpec(id="q", find="the code ABC")
    one = Asked(query, 0, "code", 0, 0.5, "", "when", "")
    status = RequestStatus.FOUND
    good = judge(one, Said(row("", status), (event(80, 88),)), seen((80, 88)))
    assert good.is_correct
    assert (good.iou, good.offset_s) == (1.0, 0.0)
    assert (good.said_start_s, good.said_end_s) == (10.0, 11.0)
    two = judge(one, Said(row("", status), (event(80, 88), event(8, 16))), seen((80, 88)))
    assert not two.is_correct
    nothing = judge(one, Said(row("", RequestStatus.NO_EVENT), ()), seen((80, 88)))
    assert not nothing.is_correct
    absent = Asked(query, 0, "code", None, None, "no_needle", "when", NONE)
    assert judge(absent, Said(row("", RequestStatus.NO_EVENT), ()), seen()).is_correct
    assert not judge(absent, Said(row("", status), (event(8, 16),)), seen()).is_correct


def test_offsets_are_signed() -> None:
    assert offset_s((1, 2), (5, 6)) == -3
    assert offset_s((8, 9), (5, 6)) == 2
    assert offset_s((5.5, 5.5), (5, 6)) == 0


def test_times_are_read_as_people_write_them() -> None:
    assert read_moment("12.5s") == 12.5
    assert read_moment("1:02:03.5") == 3723.5
    assert read_moment("soon") is None
    assert read_moment("-4") is None
