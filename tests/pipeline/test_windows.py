"""Windows: one sampling, cut along its pairs, every pair seen and every seam seen twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.windows import Cut, Window, plan_windows
from schemas.errors import ConfigError, ResourceError
from schemas.job import read_job
from tests.pipeline.test_plan import FACTS, Counter, make_job
from tests.pipeline.test_sampling import make_index, steady


def windows_of(
    seconds: int,
    windows: object,
    *,
    overlap_s: float = 10.0,
    context: int = 1024,
    **sampling: object,
) -> tuple[Window, ...]:
    job = make_job(
        sampling={"windows": windows, "window_overlap_s": overlap_s, **sampling},
        model={"context": context, "prefill_chunk": 300},
        queries=[{"id": "a", "find": "x", "max_answer_tokens": 100}],
    )
    return plan_windows(make_index(steady(seconds), seconds * 1000), job, FACTS, Counter())


@given(st.integers(1, 400), st.integers(1, 60), st.integers(0, 50))
def test_a_cut_covers_every_pair_and_neighbours_share(
    pairs: int, windows: int, overlap: int
) -> None:
    overlap = min(overlap, pairs - 1)
    cut = Cut.of(pairs, windows, overlap)
    assert cut.spans[0][0] == 0
    assert cut.spans[-1][1] == pairs
    assert len(cut.spans) == min(windows, pairs - overlap)
    for (start, stop), (following, end) in pairwise(cut.spans):
        assert stop - following == overlap
        assert start < following
        assert end > stop
    lengths = [stop - start for start, stop in cut.spans]
    assert max(lengths) - min(lengths) <= 1
    assert cut.longest == max(lengths)


@given(
    seconds=st.integers(2, 900),
    windows=st.sampled_from(["auto", 1, 2, 3, 7]),
    overlap_s=st.sampled_from([0.0, 3.0, 20.0]),
    fps=st.sampled_from([0.2, 1.0, 4.0]),
    pair_tokens=st.sampled_from([4, 12]),
)
def test_every_window_fits_and_together_they_are_one_sampling(
    seconds: int, windows: object, overlap_s: float, fps: float, pair_tokens: int
) -> None:
    found = windows_of(seconds, windows, overlap_s=overlap_s, fps=fps, pair_tokens=pair_tokens)
    plans = [window.plan for window in found]
    assert len({plan.sampling.grid for plan in plans}) == 1
    assert plans[0].sampling.span.start_pts == 0
    assert plans[-1].sampling.span.end_pts == seconds * 1000
    for plan, following in pairwise(plans):
        shared = set(plan.sampling.frame_pts) & set(following.sampling.frame_pts)
        assert sorted(shared) == list(following.sampling.frame_pts[: len(shared)])
        assert len(shared) >= 2
        assert len(shared) % 2 == 0
        assert plan.sampling.span.end_pts == following.sampling.frame_pts[len(shared)]
    for plan in plans:
        assert plan.total_tokens <= 1024
    if windows != "auto":
        assert len(plans) <= int(str(windows))


def test_auto_keeps_what_was_asked_in_as_few_windows_as_hold_it() -> None:
    found = windows_of(600, "auto", fps=1, pair_tokens=12)
    assert all(window.plan.sampling.bound_by == ("pair_tokens",) for window in found)
    pts = sorted({pts for window in found for pts in window.plan.sampling.frame_pts})
    assert pts == list(range(0, 600_000, 1000))
    fewer = windows_of(600, len(found) - 1, fps=1, pair_tokens=12)
    assert "video_tokens" in str(fewer[0].plan.sampling.bound_by)


def test_one_window_is_the_plan_of_the_whole_video() -> None:
    (one,) = windows_of(600, 1, fps=1, pair_tokens=12)
    assert one.plan.sampling.span.end_pts == 600_000
    assert "video_tokens" in one.plan.sampling.bound_by
    (short,) = windows_of(20, "auto", fps=1, pair_tokens=12)
    assert short.plan == windows_of(20, 1, fps=1, pair_tokens=12)[0].plan


def test_each_window_is_asked_about_its_own_time() -> None:
    first, second = windows_of(100, 2, fps=1, overlap_s=10)
    assert "from 0.0 to 54.0 seconds" in first.questions[0].text
    assert "from 44.0 to 100.0 seconds" in second.questions[0].text


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lower sampling\.window_overlap_s"):
        windows_of(3600, "auto", fps=1, overlap_s=3000)


def test_memory_is_checked_for_every_window() -> None:
    job = make_job(sampling={"windows": 2, "fps": 1}, model={"context": 1024})
    index = make_index(steady(300), 300_000)
    need = max(w.plan.memory.total_bytes for w in plan_windows(index, job, FACTS, Counter()))
    plan_windows(index, job, FACTS, Counter(), need)
    with pytest.raises(ResourceError):
        plan_windows(index, job, FACTS, Counter(), need - 1)


@pytest.mark.parametrize("windows", [0, -1, 1001, "many", 2.5, True])
def test_a_number_of_windows_is_a_number(windows: object) -> None:
    with pytest.raises(ConfigError, match=r"is no number of windows; write 1 to 1000, or auto"):
        read_job(
            {"videos": ["a"], "queries": [{"id": "a", "find": "x"}]}
            | {"sampling": {"windows": windows}},
            where="t",
        )
