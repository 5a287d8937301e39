"""The yardstick itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring import Rate, match_spans, temporal_iou, wilson

SPANS = st.tuples(st.floats(0, 100), st.floats(0.1, 50)).map(lambda t: (t[0], t[0] + t[1]))


@pytest.mark.parametrize(
    ("a", "b", "iou"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 1), (1, 2), 0.0),
        ((2, 4), (0, 8), 0.25),
    ],
)
def test_iou(a: tuple[float, float], b: tuple[float, float], iou: float) -> None:
    assert temporal_iou(a, b) == pytest.approx(iou)


@given(SPANS, SPANS)
def test_iou_is_symmetric_and_bounded(a: tuple[float, float], b: tuple[float, float]) -> None:
    assert temporal_iou(a, b) == temporal_iou(b, a)
    assert 0 <= temporal_iou(a, b) <= 1


def test_a_span_is_matched_once() -> None:
    assert match_spans([(0, 10), (0, 10)], [(0, 10)], 0.5) == [1.0]
    assert match_spans([(0, 10)], [(0, 10), (1, 10)], 0.5) == [1.0]
    assert match_spans([(0, 3)], [(0, 10)], 0.5) == []


@given(st.lists(SPANS, max_size=6))
def test_the_truth_matches_itself_whole(spans: list[tuple[float, float]]) -> None:
    assert match_spans(spans, spans, 0.5) == [pytest.approx(1.0)] * len(spans)


def test_wilson_against_published_values() -> None:
    low, high = wilson(81, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == pytest.approx(1.0)


def test_a_rate_reads_well() -> None:
    assert str(Rate(9, 10)) == "0.900 (9 of 10, 95 % 0.596 to 0.982)"
