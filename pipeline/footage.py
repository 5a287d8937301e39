"""Videos of any size and rate → frames of one size at one rate.

Promises the frame on screen at every moment, upright, scaled with its aspect kept and black around
it, a bounded number at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from pipeline.decode import decode_chunk
from pipeline.sampling import clip_span, frames_inside
from schemas.errors import InputError
from schemas.media import RgbArray, StreamIndex
from schemas.plan import Chunk, FrameGrid, PatchPair

BATCH_BYTES = 64 * 1024 * 1024
"""Most pixels that are decoded at once; each batch costs one opening of the file and one seek."""


def batch_frames(width: int, height: int) -> int:
    """How many frames of this size are decoded together."""
    return max(2, BATCH_BYTES // (3 * width * height))


def pts_at_rate(index: StreamIndex, fps: Fraction) -> list[int]:
    """The frame on screen at first + k / fps, for every k before the clip's end; may repeat."""
    span = clip_span(index)
    available = frames_inside(index.frame_pts, span)
    if len(available) == 0:
        raise InputError(
            f"no frame of {index.source.uri} begins inside the clip; choose a longer one.",
            reason="no_frame",
        )
    first, tick = int(available[0]), 1 / (fps * index.time_base)
    count = -((first - span.end_pts) // tick)
    moments = [first + int(k * tick) for k in range(count)]
    shown = available[np.searchsorted(available, moments, side="right") - 1]
    return [int(pts) for pts in shown]


def decode_frames(index: StreamIndex, pts: Sequence[int], width: int, height: int) -> RgbArray:
    """The frames at `pts` (in order, may repeat), stretched to (n, height, width, 3), uint8.

    Holds them all. Raises InputError where none can be decoded.
    """
    even = list(pts) if len(pts) % 2 == 0 else [*pts, pts[-1]]
    pairs = tuple(PatchPair(a, b, "", 0) for a, b in zip(even[::2], even[1::2], strict=True))
    return decode_chunk(index, Chunk(0, pairs), FrameGrid(height, width, 1)).rgb[: len(pts)]


def fit_size(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """The largest (width, height) with the aspect of `size` inside `frame`, at least one pixel."""
    scale = min(Fraction(frame[0], size[0]), Fraction(frame[1], size[1]))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def letterbox(pictures: RgbArray, width: int, height: int) -> RgbArray:
    """Pictures (n, h, w, 3) no larger than the frame, in the middle of black ones of its size."""
    num, tall, wide, _ = pictures.shape
    if (tall, wide) == (height, width):
        return pictures
    framed = np.zeros((num, height, width, 3), dtype=np.uint8)
    top, left = (height - tall) // 2, (width - wide) // 2
    framed[:, top : top + tall, left : left + wide] = pictures
    return framed


def letterboxed_frames(
    index: StreamIndex, pts: Sequence[int], width: int, height: int
) -> Iterator[RgbArray]:
    """The frames at `pts`, one by one, each (height, width, 3), in memory of one batch.

    Raises InputError where the file is damaged throughout a batch; a shorter damage is stood in for
    as `decode` does.
    """
    wide, tall = fit_size((index.width, index.height), (width, height))
    step = batch_frames(width, height)
    for start in range(0, len(pts), step):
        decoded = decode_frames(index, pts[start : start + step], wide, tall)
        yield from letterbox(decoded, width, height)
