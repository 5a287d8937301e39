"""Step 2: StreamIndex + settings → SamplingPlan.

Promises frames named by pts and a frame size, from integer arithmetic that can be followed by hand:

1. The span is the clip, cut to what the file holds.
2. Moments wanted = ceil(duration × fps), at most `max_frames`.
3. Frame k of n is the one on screen at start + k × duration / n: right for any frame rate, constant
   or not. A frame that is on screen at two of these moments is taken once.
4. Tokens per patch pair = what `video_tokens` leaves for each pair after its timestamp text, at
   most `pair_tokens`; the frame is scaled to fit, keeping its aspect, never below 4 tokens.
5. Where even that does not fit, fewer frames are taken, and `bound_by` says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from schemas.errors import ConfigError, InputError
from schemas.media import PtsArray, StreamIndex
from schemas.plan import FrameGrid, SamplingPlan
from schemas.time import TimeSpan, seconds_to_clock

MIN_PAIR_TOKENS = 4
"""Smallest frame, 2 × 2 merged tokens: below that nothing can be seen."""
MAX_ASPECT = 200
"""Longer strips than this are refused, as the released processors do."""


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """The settings of one job, resolved: every value known, no None left."""

    fps: Fraction
    max_frames: int
    video_tokens: int
    """All tokens of the video: timestamps, delimiters and visual tokens."""
    pair_tokens: int
    """Most visual tokens per patch pair."""
    overhead_tokens: int
    """Timestamp text and delimiters of one patch pair, at their longest."""
    token_px: int


def resize_grid(
    num_frames: int, height: int, width: int, *, token_px: int, min_volume: int, max_volume: int
) -> tuple[int, int]:
    """Frame (height, width) in pixels, multiples of `token_px`, with frames × height × width inside
    the two bounds where the aspect allows. The released processors' arithmetic (`smart_resize`)."""
    if num_frames < 2:
        num_frames = 2
    if height < token_px or width < token_px:
        scale = max(token_px / height, token_px / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise InputError(
            f"frames of {width}x{height} are longer than {MAX_ASPECT}:1; crop the video.",
            reason="aspect",
        )
    fit_height, fit_width = (round(side / token_px) * token_px for side in (height, width))
    fit_frames = round(num_frames / 2) * 2
    if fit_frames * fit_height * fit_width > max_volume:
        beta = math.sqrt((num_frames * height * width) / max_volume)
        fit_height, fit_width = (
            max(token_px, math.floor(side / beta / token_px) * token_px) for side in (height, width)
        )
    elif fit_frames * fit_height * fit_width < min_volume:
        beta = math.sqrt(min_volume / (num_frames * height * width))
        fit_height, fit_width = (
            math.ceil(side * beta / token_px) * token_px for side in (height, width)
        )
    return fit_height, fit_width


def sample(index: StreamIndex, limits: SamplingLimits) -> SamplingPlan:
    """Choose frames and frame size. Raises InputError for a clip outside the video."""
    span = clip_span(index)
    available = frames_inside(index.frame_pts, span)
    wanted = max(1, math.ceil(span.duration_s * limits.fps))
    bound_by: list[str] = []
    count = _bound(wanted, limits.max_frames, "max_frames", bound_by)
    affordable = 2 * (limits.video_tokens // (limits.overhead_tokens + MIN_PAIR_TOKENS))
    if affordable < 2:
        raise ConfigError(
            f"{limits.video_tokens} tokens for the video cannot hold one patch pair, which needs "
            f"at least {limits.overhead_tokens + MIN_PAIR_TOKENS}; raise model.context or "
            "sampling.video_tokens."
        )
    count = _bound(count, affordable, "video_tokens", bound_by)
    chosen = pick_frames(available, span, count)
    _bound(count, len(chosen), "source_fps", bound_by)
    grid = _fit_grid(index, len(chosen), limits, bound_by)
    return SamplingPlan(span, chosen, grid, limits.fps, tuple(bound_by))


def _bound(count: int, limit: int, name: str, bound_by: list[str]) -> int:
    if count > limit:
        bound_by.append(name)
        return limit
    return count


def clip_span(index: StreamIndex) -> TimeSpan:
    """The wanted clip cut to the video, or all of it. Raises InputError where they do not meet."""
    whole = index.span
    if index.source.clip_s is None:
        return whole
    start_s, end_s = index.source.clip_s
    start = max(whole.start_pts, math.ceil(start_s / index.time_base))
    end = min(whole.end_pts, math.ceil(end_s / index.time_base))
    if start >= end:
        raise InputError(
            f"clip {seconds_to_clock(start_s)} to {seconds_to_clock(end_s)} lies outside "
            f"{index.source.uri}, which runs from {seconds_to_clock(whole.start_s)} to "
            f"{seconds_to_clock(whole.end_s)}; choose a clip inside it.",
            reason="clip_outside",
        )
    return TimeSpan(start, end, index.time_base)


def frames_inside(frame_pts: PtsArray, span: TimeSpan) -> PtsArray:
    """Frames that begin inside `span`, in order."""
    low, high = np.searchsorted(frame_pts, [span.start_pts, span.end_pts])
    return frame_pts[low:high]


def pick_frames(available: PtsArray, span: TimeSpan, count: int) -> tuple[int, ...]:
    """`count` frames on screen at even moments of `span`; fewer where one frame stays long.

    The first moment is the first frame's own time, so the first frame is always seen.
    """
    if len(available) == 0:
        raise InputError("no frame begins inside the clip; choose a longer one.", reason="no_frame")
    first = int(available[0])
    moments = [first + k * (span.end_pts - first) // count for k in range(count)]
    at = np.searchsorted(available, moments, side="right") - 1
    return tuple(int(pts) for pts in np.unique(available[at]))


def _fit_grid(
    index: StreamIndex, num_frames: int, limits: SamplingLimits, bound_by: list[str]
) -> FrameGrid:
    pairs = (num_frames + 1) // 2
    budget = limits.video_tokens // pairs - limits.overhead_tokens
    budget = _bound(budget, limits.pair_tokens, "pair_tokens", [])
    px = limits.token_px
    pair_area = 2 * px * px
    height, width = resize_grid(
        2,
        index.height,
        index.width,
        token_px=px,
        min_volume=MIN_PAIR_TOKENS * pair_area,
        max_volume=budget * pair_area,
    )
    rows, cols = height // px, width // px
    if rows * cols > budget:  # A strip whose short side cannot shrink: give up its aspect.
        rows, cols = min(rows, budget), max(1, budget // min(rows, budget))
    if rows * cols < (index.height // px) * (index.width // px):
        bound_by.append("pair_tokens" if budget == limits.pair_tokens else "video_tokens_size")
    return FrameGrid(rows, cols, px)
