"""The plan of one video: integers only, made before a pixel is decoded.

sampling → `SamplingPlan` → plan → `VideoPlan` (patch pairs grouped into chunks).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from schemas.errors import InvariantError
from schemas.time import TimeSpan, pts_to_seconds, timestamp_text


@dataclass(frozen=True, slots=True)
class FrameGrid:
    """Frame size as the model sees it: `rows` × `cols` merged tokens per patch pair."""

    rows: int
    cols: int
    token_px: int
    """Side of the square that one merged token covers, in pixels (patch size × merge size)."""

    @property
    def height(self) -> int:
        return self.rows * self.token_px

    @property
    def width(self) -> int:
        return self.cols * self.token_px

    @property
    def tokens(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Which frames are looked at, and at what size."""

    span: TimeSpan
    """The part of the video that was asked for, clipped to what the file holds."""
    frame_pts: tuple[int, ...]
    """Chosen frames by pts, strictly increasing."""
    grid: FrameGrid
    asked_fps: Fraction
    bound_by: tuple[str, ...]
    """Which settings reduced fps or frame size: `source_fps`, `max_frames`, `video_tokens`, …"""

    def __post_init__(self) -> None:
        if not self.frame_pts or list(self.frame_pts) != sorted(set(self.frame_pts)):
            raise InvariantError("sampled frames must be strictly increasing and not empty.")
        if not (self.span.holds(self.frame_pts[0]) and self.span.holds(self.frame_pts[-1])):
            raise InvariantError("a sampled frame lies outside its span.")

    @property
    def num_frames(self) -> int:
        return len(self.frame_pts)

    @property
    def step_s(self) -> float:
        """Mean time between sampled frames, in seconds: the uncertainty of every emitted time."""
        return float(self.span.duration_s) / self.num_frames

    @property
    def effective_fps(self) -> float:
        return self.num_frames / float(self.span.duration_s)


@dataclass(frozen=True, slots=True)
class PatchPair:
    """Two sampled frames, one temporal patch; the same frame twice at an odd tail."""

    first_pts: int
    last_pts: int
    text: str
    """Timestamp text that comes before the pair's tokens."""
    num_tokens: int
    """Text, delimiters and visual tokens together."""

    @staticmethod
    def middle_seconds(first_pts: int, last_pts: int, time_base: Fraction) -> Fraction:
        return pts_to_seconds(first_pts + last_pts, time_base) / 2

    @staticmethod
    def text_of(first_pts: int, last_pts: int, time_base: Fraction) -> str:
        return timestamp_text(PatchPair.middle_seconds(first_pts, last_pts, time_base))


@dataclass(frozen=True, slots=True)
class Chunk:
    """A prefill unit: consecutive whole patch pairs, decoded, encoded and prefilled together."""

    index: int
    pairs: tuple[PatchPair, ...]

    @property
    def num_tokens(self) -> int:
        return sum(pair.num_tokens for pair in self.pairs)

    @property
    def frame_pts(self) -> tuple[int, ...]:
        return tuple(pts for pair in self.pairs for pts in (pair.first_pts, pair.last_pts))


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Predicted bytes of one session; `total_bytes` is what the machine must have."""

    weight_bytes: int
    kv_bytes: int
    chunk_bytes: int
    """Activations, features and pixels of the largest chunk."""
    waiting_bytes: int = 0
    """Frames of the chunks that are decoded and wait for the model."""

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.chunk_bytes + self.waiting_bytes


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """Everything about one video's pass that can be known without decoding."""

    sampling: SamplingPlan
    chunks: tuple[Chunk, ...]
    prefix_tokens: int
    """Prompt text before the first patch pair."""
    question_tokens: int
    """All questions together with the longest answers they may give."""
    memory: MemoryNeed
    frame_bytes: int
    """Decoded frames of the largest chunk, uint8."""

    def __post_init__(self) -> None:
        planned = [pair.first_pts for chunk in self.chunks for pair in chunk.pairs]
        if planned != list(self.sampling.frame_pts[::2]):
            raise InvariantError("chunks must cover the sampled frames once, in order.")

    @property
    def num_pairs(self) -> int:
        return sum(len(chunk.pairs) for chunk in self.chunks)

    @property
    def video_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    @property
    def total_tokens(self) -> int:
        return self.prefix_tokens + self.video_tokens + self.question_tokens
