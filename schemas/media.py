"""What a probe knows of a video, and what a decoder hands on.

Probe → `StreamIndex` → (sampling, plan) → decode → `FrameBatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from schemas.errors import InvariantError
from schemas.time import TimeSpan

PtsArray = npt.NDArray[np.int64]
RgbArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class VideoSource:
    """One video as the job names it: where it is and which part of it is meant."""

    uri: str
    """Path as the user gave it."""
    path: str
    """Absolute local path that the decoder opens."""
    clip_s: tuple[Fraction, Fraction] | None = None
    """Wanted part in seconds of the video's own clock, half-open; None for all of it."""


@dataclass(frozen=True, slots=True, eq=False)
class StreamIndex:
    """Facts of the first video stream, read from packets; no frame has been decoded."""

    source: VideoSource
    video_id: str
    """SHA-256 of the file's bytes, hex: the video's name by content."""
    size_bytes: int
    container: str
    codec: str
    width: int
    """Width as shown, in pixels: after rotation and with square pixels."""
    height: int
    rotation: int
    """Clockwise turn the file asks for, in degrees: 0, 90, 180 or 270."""
    time_base: Fraction
    frame_pts: PtsArray
    """Presentation times of all frames, strictly increasing, read-only."""
    keyframe_pts: PtsArray
    """Times at which decoding can start, a subset of `frame_pts`."""
    end_pts: int
    """Where the last frame stops being shown."""
    declared_duration_s: float | None
    """Duration from the header; None where it has none."""
    notes: tuple[str, ...]
    """What had to be repaired or is missing, for people and for the `videos` table."""

    def __post_init__(self) -> None:
        if len(self.frame_pts) == 0 or (np.diff(self.frame_pts) <= 0).any():
            raise InvariantError("frame_pts must be strictly increasing and not empty.")
        if self.end_pts <= int(self.frame_pts[-1]):
            raise InvariantError("end_pts must lie after the last frame.")
        self.frame_pts.setflags(write=False)
        self.keyframe_pts.setflags(write=False)

    @property
    def span(self) -> TimeSpan:
        return TimeSpan(int(self.frame_pts[0]), self.end_pts, self.time_base)

    @property
    def num_frames(self) -> int:
        return len(self.frame_pts)

    @property
    def mean_fps(self) -> float:
        return self.num_frames / float(self.span.duration_s)


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """The frames of one chunk: whole patch pairs, resized, in time order."""

    chunk_index: int
    frame_pts: tuple[int, ...]
    """As planned; an odd tail repeats its last frame, so the length is even."""
    rgb: RgbArray
    """(frames, height, width, 3), uint8, already at the plan's frame size."""
    num_corrupt: int
    """Frames that could not be decoded: a neighbour stands in for them, or black."""

    def __post_init__(self) -> None:
        if len(self.frame_pts) % 2 or len(self.frame_pts) != self.rgb.shape[0]:
            raise InvariantError("a frame batch holds whole patch pairs, one pts per frame.")
        if self.rgb.ndim != 4 or self.rgb.shape[3] != 3:
            raise InvariantError("frames are (n, height, width, 3).")
