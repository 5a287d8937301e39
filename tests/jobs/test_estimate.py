"""What a job will take: fitted to what was read, told with its spread."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.estimate import Calibration, Point, Rates, estimate_job, fit_rates

RATES = Rates(0.5, 1e-4, 2e-9)
LENGTHS = st.lists(st.integers(100, 200_000), min_size=2, max_size=12, unique=True)


def points(lengths: list[int], rates: Rates = RATES) -> list[Point]:
    return [Point((length,), rates.seconds([length])) for length in lengths]


@given(LENGTHS, st.integers(1000, 1_000_000))
def test_what_was_read_is_what_is_expected(lengths: list[int], asked: int) -> None:
    fitted = fit_rates(points(lengths), RATES.pair_s)
    assert fitted.seconds([asked]) == pytest.approx(RATES.seconds([asked]), rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0.01, 1e4)), min_size=1, max_size=9))
def test_no_rate_is_below_zero_and_more_tokens_take_longer(said: list[tuple[int, float]]) -> None:
    fitted = fit_rates([Point((n,), seconds) for n, seconds in said], 1e-9)
    assert min(fitted.video_s, fitted.token_s, fitted.pair_s) >= 0
    times = [fitted.seconds([n]) for n in (1, 1000, 10**6)]
    assert all(a <= b for a, b in pairwise(times))


def test_windows_cost_less_than_one_context_of_their_sum() -> None:
    assert RATES.seconds([100_000, 100_000]) < RATES.seconds([200_000])


def calibration() -> Calibration:
    return Calibration("m", tuple(points([1000, 4000, 8000])), RATES.pair_s, 5.0)


def test_a_job_is_its_videos_and_the_start() -> None:
    found = estimate_job([[1000], [50_000]], calibration(), [], 1)
    assert found is not None
    assert found.each_s == pytest.approx([RATES.seconds([1000]), RATES.seconds([50_000])])
    assert found.seconds == pytest.approx(5 + sum(found.each_s))
    assert found.low_s < found.seconds < found.high_s
    assert found.learnt_from == "3 short clips"


def test_more_workers_help_until_the_longest_video_is_left() -> None:
    videos = [[1000]] * 9 + [[50_000]]
    one, two, many = (estimate_job(videos, calibration(), [], n) for n in (1, 2, 64))
    assert one is not None
    assert two is not None
    assert many is not None
    assert one.seconds > two.seconds >= many.seconds == pytest.approx(5 + max(many.each_s))


def test_finished_videos_count_before_clips() -> None:
    slower = points([1000, 2000, 9000, 30_000, 70_000], Rates(1.0, 3e-4, 2e-9))
    found = estimate_job([[5000]], calibration(), slower, 1)
    assert found is not None
    assert found.learnt_from == "5 finished videos"
    assert found.seconds == pytest.approx(5 + 1 + 1.5 + 0.025)
    assert found.high_s == pytest.approx(1.1 * found.seconds)
    few = estimate_job([[5000]], calibration(), slower[:2], 1)
    assert few is not None
    assert few.learnt_from == "3 short clips"


def test_a_wide_spread_is_told() -> None:
    mixed = [
        Point(p.tokens, p.seconds * (2 if n % 2 else 0.5))
        for n, p in enumerate(points([1000, 2000, 3000, 9000, 20_000, 40_000]))
    ]
    found = estimate_job([[5000]], None, mixed, 1)
    assert found is not None
    assert found.high_s / found.low_s > 2


def test_nothing_known_is_nothing_told() -> None:
    assert estimate_job([[5000]], None, [], 1) is None
    assert estimate_job([], calibration(), [], 1) is None


def test_a_calibration_is_read_as_it_was_written() -> None:
    made = calibration()
    assert (
        Calibration.read(
            made.facts()
            | {"points": [{"tokens": list(p.tokens), "seconds": p.seconds} for p in made.points]}
        )
        == made
    )
    with pytest.raises((ValueError, KeyError, TypeError)):
        Calibration.read({"points": "none"})
