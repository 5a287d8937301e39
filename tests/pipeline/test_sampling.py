"""Sampling arithmetic, without decoding anything."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

from pipeline.sampling import MIN_PAIR_TOKENS, SamplingLimits, resize_grid, sample
from schemas.errors import ConfigError, InputError
from schemas.media import StreamIndex, VideoSource

BASE = Fraction(1, 1000)


def make_index(
    pts: list[int],
    end: int,
    size: tuple[int, int] = (320, 240),
    clip: tuple[int, int] | None = None,
) -> StreamIndex:
    seconds = None if clip is None else (Fraction(clip[0]), Fraction(clip[1]))
    return StreamIndex(
        source=VideoSource("v.mp4", str(Path("v.mp4").absolute()), seconds),
        video_id="0" * 64,
        size_bytes=1,
        container="mov",
        codec="h264",
        width=size[0],
        height=size[1],
        rotation=0,
        time_base=BASE,
        frame_pts=np.asarray(pts, dtype=np.int64),
        keyframe_pts=np.asarray(pts[:1], dtype=np.int64),
        end_pts=end,
        declared_duration_s=None,
        notes=(),
    )


def limits(
    fps: str = "1", *, max_frames: int = 2048, video_tokens: int = 100_000, pair_tokens: int = 768
) -> SamplingLimits:
    return SamplingLimits(Fraction(fps), max_frames, video_tokens, pair_tokens, 10, 32)


def steady(seconds: int, fps: int = 10) -> list[int]:
    return [k * 1000 // fps for k in range(seconds * fps)]


def test_one_frame_per_second_is_one_frame_per_second() -> None:
    plan = sample(make_index(steady(20), 20_000), limits())
    assert plan.frame_pts == tuple(range(0, 20_000, 1000))
    assert plan.effective_fps == 1.0
    assert plan.bound_by == ()


def test_more_fps_than_the_source_has_takes_every_frame_and_says_so() -> None:
    plan = sample(make_index(steady(3), 3000), limits("30"))
    assert plan.frame_pts == tuple(steady(3))
    assert plan.bound_by == ("source_fps",)


def test_max_frames_stretches_the_step_and_says_so() -> None:
    plan = sample(make_index(steady(100), 100_000), limits(max_frames=10))
    assert plan.num_frames == 10
    assert plan.step_s == 10.0
    assert "max_frames" in plan.bound_by


def test_few_tokens_first_shrink_the_frame_then_take_fewer() -> None:
    index = make_index(steady(100), 100_000)
    small = sample(index, limits(video_tokens=50 * (10 + 6)))
    assert small.num_frames == 100
    assert small.grid.tokens <= 6
    assert "video_tokens_size" in small.bound_by
    fewer = sample(index, limits(video_tokens=10 * (10 + MIN_PAIR_TOKENS)))
    assert fewer.num_frames == 20
    assert "video_tokens" in fewer.bound_by


def test_a_budget_below_one_pair_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot hold one patch pair"):
        sample(make_index(steady(5), 5000), limits(video_tokens=13))


def test_a_long_still_frame_is_taken_once() -> None:
    plan = sample(make_index([0, 100, 200, 9000], 10_000), limits())
    assert plan.frame_pts == (0, 200, 9000)


def test_a_start_that_is_not_zero() -> None:
    plan = sample(make_index([5000 + t for t in steady(4)], 9000), limits())
    assert plan.frame_pts == (5000, 6000, 7000, 8000)


def test_a_clip_is_cut_to_the_video() -> None:
    plan = sample(make_index(steady(20), 20_000, clip=(15, 99)), limits())
    assert plan.frame_pts == (15_000, 16_000, 17_000, 18_000, 19_000)
    assert plan.span.end_pts == 20_000


@pytest.mark.parametrize("clip", [(20, 30), (500, 600)])
def test_a_clip_outside_the_video_is_refused(clip: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="lies outside"):
        sample(make_index(steady(20), 20_000, clip=clip), limits())


@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=200),
    st.integers(-5000, 5000),
    st.sampled_from(["0.25", "1", "2.5", "30"]),
    st.integers(1, 64),
    st.integers(20, 5000),
)
def test_any_video_gives_a_plan_inside_every_limit(
    gaps: list[int], start: int, fps: str, max_frames: int, video_tokens: int
) -> None:
    pts = [start + sum(gaps[:i]) for i in range(len(gaps))]
    bound = limits(fps, max_frames=max_frames, video_tokens=video_tokens)
    plan = sample(make_index(pts, pts[-1] + gaps[-1]), bound)
    pairs = (plan.num_frames + 1) // 2
    assert set(plan.frame_pts) <= set(pts)
    assert plan.frame_pts[0] == pts[0]
    assert plan.num_frames <= max_frames
    assert pairs * (plan.grid.tokens + bound.overhead_tokens) <= video_tokens


@given(
    st.integers(2, 64),
    st.integers(8, 3000),
    st.integers(8, 3000),
    st.sampled_from([4_096, 131_072]),
    st.sampled_from([786_432, 25_165_824, 469_762_048]),
)
def test_the_grid_is_the_released_processors(
    frames: int, height: int, width: int, low: int, high: int
) -> None:
    if max(height, width) / min(height, width) > 60:
        return
    ours = resize_grid(frames, height, width, token_px=32, min_volume=low, max_volume=high)
    theirs = smart_resize(frames, height, width, 2, 32, min_pixels=low, max_pixels=high)
    assert ours == tuple(theirs)


def test_a_strip_is_refused() -> None:
    with pytest.raises(InputError, match="longer than 200:1"):
        resize_grid(2, 32, 32 * 201, token_px=32, min_volume=1, max_volume=10**9)
