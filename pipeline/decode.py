"""Step 4: Chunk → FrameBatch.

Promises the planned frames, upright and resized, in bounded memory: frames are converted only when
they are wanted, and a chunk can be decoded on its own in any process. Costs one seek per chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import av
import av.container
import av.video.stream
import numpy as np
from PIL import Image

from pipeline.probe import open_stream, open_video
from schemas.errors import InputError, InvariantError
from schemas.media import FrameBatch, RgbArray, StreamIndex
from schemas.plan import Chunk, FrameGrid

STAND_IN_S = 2
"""How much older a decoded frame may be than a damaged one that it stands in for, in seconds."""
# Frames that a decoder may hold back; a seek closer than this is slower than decoding on.
_SEEK_AHEAD_FRAMES = 32


class _Reader:
    """Frames in presentation order from one open video, with as few seeks as needed."""

    def __init__(
        self, container: av.container.InputContainer, index: StreamIndex, *, may_seek: bool
    ) -> None:
        self._container = container
        self._index = index
        self._stream = open_stream(container, index.source)
        self._may_seek = may_seek
        self._frames = _decode(self._container, self._stream)
        self._shown: av.VideoFrame | None = None
        self._next: av.VideoFrame | None = None
        if not may_seek:
            self._next = next(self._frames, None)

    def frame_at(self, pts: int) -> av.VideoFrame | None:
        """The frame on screen at `pts`: the last that begins at or before it; None: none does."""
        if self._may_seek and self._must_seek(pts):
            self._seek(pts)
        while self._next is not None and (self._next.pts or 0) <= pts:
            self._shown, self._next = self._next, next(self._frames, None)
        return self._shown

    def _must_seek(self, pts: int) -> bool:
        if self._shown is None or self._shown.pts is None:
            return True
        frames = self._index.frame_pts
        at, keyframe = np.searchsorted(frames, [self._shown.pts, self._keyframe(pts, 0)])
        return bool(keyframe > at + _SEEK_AHEAD_FRAMES)

    def _keyframe(self, pts: int, back: int) -> int:
        keys = self._index.keyframe_pts
        return int(keys[max(0, int(np.searchsorted(keys, pts, side="right")) - 1 - back)])

    def _seek(self, pts: int) -> None:
        # A container without an index may land late; then one keyframe earlier.
        for back in (0, 1):
            self._container.seek(self._keyframe(pts, back), stream=self._stream, backward=True)
            self._frames = _decode(self._container, self._stream)
            self._shown, self._next = None, next(self._frames, None)
            if self._next is not None and (self._next.pts or 0) <= pts:
                return


def _decode(
    container: av.container.InputContainer, stream: av.video.stream.VideoStream
) -> Iterator[av.VideoFrame]:
    """Holds no reader: frames go as soon as theirs does, not when garbage is collected."""
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            continue  # A damaged packet; the frames it held are missed and counted.
        for frame in decoded:
            if isinstance(frame, av.VideoFrame) and frame.pts is not None:
                yield frame


def decode_chunk(index: StreamIndex, chunk: Chunk, grid: FrameGrid) -> FrameBatch:
    """Decode the frames of one chunk. Raises InputError where none of them can be had."""
    # A file whose index lies is read from its beginning: slow, but it ends well.
    for may_seek in (True, False):
        with open_video(index.source) as container:
            reader = _Reader(container, index, may_seek=may_seek)
            if reader.frame_at(chunk.frame_pts[0]) is not None or not may_seek:
                return _read_batch(reader, index, chunk, grid)
    raise InvariantError("the second way of reading always returns or raises.")


def _read_batch(reader: _Reader, index: StreamIndex, chunk: Chunk, grid: FrameGrid) -> FrameBatch:
    wanted = chunk.frame_pts
    rgb = np.zeros((len(wanted), grid.height, grid.width, 3), dtype=np.uint8)
    num_corrupt = num_shown = 0
    for i, pts in enumerate(wanted):
        if i and pts == wanted[i - 1]:
            rgb[i] = rgb[i - 1]
            continue
        shown = reader.frame_at(pts)
        num_corrupt += shown is None or shown.pts != pts or shown.is_corrupt
        if shown is not None and (pts - (shown.pts or 0)) * index.time_base <= STAND_IN_S:
            rgb[i] = to_rgb(shown, index.rotation, grid)
            num_shown += 1
    if num_shown == 0:
        raise InputError(
            f"{index.source.uri} cannot be decoded from {float(wanted[0] * index.time_base):.1f} s "
            "on; the file is damaged there. Copy it again, or choose a clip before it.",
            reason="decode_failed",
        )
    return FrameBatch(chunk.index, wanted, rgb, num_corrupt)


def narrow(index: StreamIndex, chunk: Chunk) -> StreamIndex:
    """The same video, knowing only the frames one chunk needs: small enough to send anywhere."""
    keys, pts = index.keyframe_pts, index.frame_pts
    first_key = max(0, int(np.searchsorted(keys, chunk.frame_pts[0], side="right")) - 3)
    low = np.searchsorted(pts, keys[first_key])
    high = np.searchsorted(pts, chunk.frame_pts[-1], side="right")
    inside = keys[(keys >= keys[first_key]) & (keys <= chunk.frame_pts[-1])]
    return replace(index, frame_pts=pts[low:high].copy(), keyframe_pts=inside)


def to_rgb(frame: av.VideoFrame, rotation: int, grid: FrameGrid) -> RgbArray:
    """One frame upright, in RGB, at the plan's size: (height, width, 3), uint8.

    Bicubic with antialiasing on uint8, the released processors' way of resizing.
    """
    # Decoders run side by side, one thread each; left alone, every frame starts a thread per core.
    array = frame.to_ndarray(format="rgb24", threads=1)
    # Turns are clockwise, rot90 is not.
    upright = np.rot90(array, k=-(rotation // 90)) if rotation else array
    if upright.shape[:2] == (grid.height, grid.width):
        return np.ascontiguousarray(upright)
    image = Image.fromarray(np.ascontiguousarray(upright))
    return np.asarray(image.resize((grid.width, grid.height), Image.Resampling.BICUBIC))
