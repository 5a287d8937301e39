"""Counts, intervals and the words around them."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.needle.rates import (
    NO_SCORE,
    Length,
    Summary,
    control_sentences,
    rate_text,
    summarise,
    summary_table,
)
from pipeline.scoring import Rate
from tests.jobs.needle.helpers import control, frame_of, grid, what, when

_LINE = st.tuples(
    st.sampled_from(["what", "when"]),
    st.sampled_from(["6k", "11k"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
    st.integers(0, 2),
)


def _printed(summary: Summary) -> str:
    page = Console(file=io.StringIO(), width=160)
    page.print(summary_table(summary))
    assert isinstance(page.file, io.StringIO)
    return page.file.getvalue()


@given(st.lists(_LINE, max_size=40))
def test_every_count_is_the_sum_of_its_cells(
    lines: list[tuple[str, str, float, bool, int]],
) -> None:
    rows = [
        what(question=question, length=length, depth=depth, is_correct=right, needle_frames=frames)
        for question, length, depth, right, frames in lines
    ]
    summary = summarise(frame_of(*rows))
    for question in ("what", "when"):
        own = [line for line in lines if line[0] == question]
        seen = [line for line in own if line[4]]
        total = summary.totals.get(question, NO_SCORE)
        assert total.whole == Rate(sum(line[3] for line in own), len(own))
        assert total.sampled == Rate(sum(line[3] for line in seen), len(seen))
        for scores in (summary.by_length, summary.by_depth, summary.by_needle, summary.cells):
            mine = [score for key, score in scores.items() if key[0] == question]
            assert sum(score.whole.hits for score in mine) == total.whole.hits
            assert sum(score.sampled.trials for score in mine) == total.sampled.trials
            assert all(score.whole.trials for score in mine)


def test_lengths_are_ordered_by_tokens_and_not_by_name() -> None:
    rows = [what(length="11k", total_tokens=11264), what(length="6k", total_tokens=6100), what()]
    summary = summarise(frame_of(*rows))
    assert summary.lengths == (Length("6k", 6144), Length("11k", 11264))


def test_depths_that_differ_in_the_last_bit_are_one() -> None:
    summary = summarise(frame_of(what(depth=0.1 * 3), what(depth=0.3)))
    assert summary.depths == (0.3,)
    assert summary.cells[("what", "6k", 0.3)].whole == Rate(2, 2)


def test_needles_that_no_frame_shows_are_counted_apart() -> None:
    rows = [what(), what(needle_frames=0, is_correct=False)]
    score = summarise(frame_of(*rows)).totals["what"]
    assert (score.whole, score.sampled, score.is_split) == (Rate(1, 2), Rate(1, 1), True)
    printed = _printed(summarise(frame_of(*rows)))
    assert "0.500 (1 of 2, 0.095 to 0.905)" in printed
    assert "sampled: 1.000 (1 of 1, 0.207 to 1.000)" in printed


def test_the_table_says_sampled_only_where_it_differs() -> None:
    assert "sampled" not in _printed(summarise(frame_of(what(), when())))


def test_times_are_measured_where_one_was_said_and_the_needle_sampled() -> None:
    rows = [when(0.0), when(-0.55), when(2.0), when(None), when(9.0, needle_frames=0)]
    found = summarise(frame_of(*rows)).localisation
    assert (found.asked, found.within) == (4, Rate(2, 3))
    assert (found.median_s, found.max_s) == (0.55, 2.0)
    assert found.mean_iou == pytest.approx(1 / 3)


def test_without_any_time_nothing_is_measured() -> None:
    found = summarise(frame_of(when(None))).localisation
    assert (found.median_s, found.max_s, found.mean_iou) == (None, None, None)
    assert found.within.trials == 0


def test_controls_stay_out_of_the_rates_and_have_their_sentences() -> None:
    rows = [
        what(),
        *[control("no_needle", True)] * 66,
        control("other_needle", False),
        control("other_needle", True, question="when"),
        control("scrambled", True),
        *[control("scrambled", False)] * 3,
    ]
    summary = summarise(frame_of(*rows))
    assert summary.totals["what"].whole == Rate(1, 1)
    assert summary.controls_by_question[("other_needle", "what")] == Rate(1, 1)
    assert summary.controls_by_question[("other_needle", "when")] == Rate(0, 1)
    assert control_sentences(summary) == [
        "no needle: 0 of 66 false alarms (0.000, 95 % 0.000 to 0.055)",
        "other needle: 1 of 2 false alarms (0.500, 95 % 0.095 to 0.905)",
        "scrambled: 1 of 4 scrambled questions got the true answer (0.250, 95 % 0.046 to 0.699)",
    ]


def test_a_control_that_was_not_asked_has_no_sentence() -> None:
    assert control_sentences(summarise(frame_of(what()))) == []


def test_failed_answers_are_counted_and_told() -> None:
    rows = [what(), what(status="model_failed", is_correct=False), what(status="no_event")]
    summary = summarise(frame_of(*rows))
    assert (summary.num_failed, summary.num_rows) == (1, 3)
    assert "Failed and counted as wrong: 1." in " ".join(_printed(summary).split())


def test_a_rate_of_nothing_is_no_number() -> None:
    assert rate_text(Rate(0, 0)) == "–"


def test_only_controls_and_nothing_at_all_are_summaries_too() -> None:
    for frame in (frame_of(control("no_needle", True)), frame_of()):
        summary = summarise(frame)
        assert (summary.lengths, summary.questions) == ((), ())
        assert "length" in _printed(summary)


def test_a_whole_evaluation_has_all_its_cells() -> None:
    summary = summarise(grid())
    assert len(summary.cells) == 2 * 6 * 11
    assert summary.needles == ("clip", "code", "image")
    assert len(summary.controls_by_question) == 6
