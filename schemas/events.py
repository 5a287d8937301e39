"""The rows that come out: event, request and video, as frozen types and as Arrow schemas.

Field metadata carries the unit; schema metadata carries the version. Analysts read these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import pyarrow as pa

SCHEMA_VERSION = "2"


class RequestStatus(StrEnum):
    """How one question on one video ended. "Nothing happened" is not "not processed"."""

    FOUND = "found"
    NO_EVENT = "no_event"
    ANSWERED = "answered"
    TRUNCATED = "truncated"
    PARSE_FAILED = "parse_failed"
    DECODE_FAILED = "decode_failed"
    INPUT_FAILED = "input_failed"
    REFUSED = "refused"
    MODEL_FAILED = "model_failed"

    @property
    def is_done(self) -> bool:
        return self in (RequestStatus.FOUND, RequestStatus.NO_EVENT, RequestStatus.ANSWERED)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, in ticks of the video's own clock."""

    query_id: str
    label: str
    attributes: tuple[tuple[str, str], ...]
    start_pts: int
    """A frame that was really sampled: the first that shows the event."""
    end_pts: int
    """A frame that was really sampled: the first that no longer shows it, or the last one seen."""
    time_base: Fraction
    uncertainty_s: float
    confidence: float
    evidence_pts: tuple[int, ...]
    """Sampled frames inside the span, at most eight, evenly spread."""
    window_index: int = 0
    """Window of the video that saw it, the first of them where several did."""
    merged_from: tuple[str, ...] = ()
    """What several windows saw of it, as `window:start_pts..end_pts`; else empty."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One (video, question): always written, whatever happened."""

    query_id: str
    status: RequestStatus
    num_events: int
    num_dropped: int
    """Events that the model gave and the parser refused (outside the clip, empty, out of order)."""
    answer: str
    """What the model said, as it said it; for `ask` queries the answer's text."""
    reason: str
    """Closed error word, empty when done."""
    message: str
    """One sentence for people, empty when done."""
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class VideoRow:
    """What was seen of one video: probe, sampling and plan facts, and every fallback."""

    container: str
    codec: str
    width: int
    height: int
    rotation: int
    size_bytes: int
    start_s: float
    end_s: float
    num_frames: int
    mean_fps: float
    sampled_frames: int
    effective_fps: float
    step_s: float
    frame_width: int
    frame_height: int
    pair_tokens: int
    total_tokens: int
    num_windows: int
    """Contexts it was read in, one after the other."""
    num_chunks: int
    num_corrupt: int
    bound_by: tuple[str, ...]
    notes: tuple[str, ...]
    predicted_bytes: int


@dataclass(frozen=True, slots=True)
class NeedleRow:
    """One question of a needle evaluation, with what is true and how the answer fares."""

    query_id: str
    haystack: int
    length: str
    """As the evaluation names it: `32k`, `600 frames`, `10 minutes`."""
    total_tokens: int
    """Prompt, video, question and room for the answer."""
    sampled_frames: int
    clip_s: float
    step_s: float
    depth: float | None
    """Cell of the grid, 0 to 1; None where no needle is in."""
    placed_depth: float | None
    """Where it really is: its start over the last start that the clip allows."""
    needle: str
    """Kind or name of the needle that is asked for."""
    num_needles: int
    """Needles in this haystack, each a distractor to the others."""
    control: str
    """Empty, or `no_needle`, `other_needle` (another one is in), `scrambled` (the question is)."""
    question: str
    """`what` or `when`."""
    asked: str
    expected: str
    answer: str
    status: str
    is_correct: bool
    """Whether the answer is what is expected; of a `scrambled` row, what the true question's is."""
    needle_frames: int
    """Sampled frames that show it; 0: nobody could have seen it."""
    truth_start_s: float | None
    truth_end_s: float | None
    truth_start_pts: int | None
    truth_end_pts: int | None
    time_base_num: int
    time_base_den: int
    said_start_s: float | None
    said_end_s: float | None
    offset_s: float | None
    """From the needle to what was said, signed; 0 while it shows. None where no time was said."""
    iou: float | None
    """Temporal IoU of what was said; a single time stands for its patch pair."""


@dataclass(frozen=True, slots=True)
class VideoResult:
    """All rows of one video under one set of questions: what a unit of work returns."""

    video_id: str
    video_uri: str
    video: VideoRow | None
    requests: tuple[RequestRow, ...]
    events: tuple[Event, ...]
    prompts: tuple[tuple[str, str], ...] = ()
    """(query id, SHA-256 of the exact prompt text); empty where no prompt was made."""
    window_tokens: tuple[int, ...] = ()
    """Tokens of each window's session, questions included."""
    work_s: float = 0.0
    """Seconds that the model worker spent on it."""
    needles: tuple[NeedleRow, ...] = ()
    """What a needle evaluation made of the answers; of other jobs, none."""


def _field(name: str, kind: pa.DataType, unit: str = "", *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit} if unit else None)


def _schema(table: str, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(
        fields, metadata={"longtake.table": table, "longtake.schema_version": SCHEMA_VERSION}
    )


_STRING, _INT, _FLOAT = pa.string(), pa.int64(), pa.float64()


def _list(kind: pa.DataType) -> pa.DataType:
    # Parquet calls a list's item `element`; the same name keeps both schemas equal.
    return pa.list_(pa.field("element", kind, nullable=False))


_WHO = [
    _field("job_id", _STRING),
    _field("unit_key", _STRING),
    _field("video_id", _STRING, "sha256 of the file"),
    _field("video_uri", _STRING),
]
_MADE = [
    _field("model_id", _STRING),
    _field("model_digest", _STRING),
    _field("schema_version", _STRING),
    _field("created_at", pa.timestamp("us", tz="UTC"), "UTC"),
]

EVENTS = _schema(
    "events",
    [
        _field("event_id", _STRING),
        *_WHO,
        _field("query_id", _STRING),
        _field("kind", _STRING),
        _field("label", _STRING),
        _field("description", _STRING, nullable=True),
        _field("attributes", pa.map_(_STRING, _STRING)),
        _field("start_s", _FLOAT, "s"),
        _field("end_s", _FLOAT, "s"),
        _field("start_pts", _INT, "tick"),
        _field("end_pts", _INT, "tick"),
        _field("time_base_num", _INT, "s"),
        _field("time_base_den", _INT, "tick"),
        _field("start_tc", _STRING, "hh:mm:ss.mmm"),
        _field("end_tc", _STRING, "hh:mm:ss.mmm"),
        _field("uncertainty_s", _FLOAT, "s"),
        _field("confidence", _FLOAT, "probability"),
        _field("evidence_pts", _list(_INT), "tick"),
        _field("window_index", pa.int32()),
        _field("merged_from", _list(_STRING)),
        _field("prompt_sha256", _STRING),
        *_MADE,
    ],
)
REQUESTS = _schema(
    "requests",
    [
        *_WHO,
        _field("query_id", _STRING),
        _field("status", _STRING),
        _field("num_events", _INT),
        _field("num_dropped", _INT),
        _field("answer", _STRING),
        _field("reason", _STRING),
        _field("message", _STRING),
        _field("answer_tokens", _INT, "token"),
        _field("prompt_sha256", _STRING),
        *_MADE,
    ],
)
VIDEOS = _schema(
    "videos",
    [
        *_WHO,
        _field("container", _STRING),
        _field("codec", _STRING),
        _field("width", _INT, "px"),
        _field("height", _INT, "px"),
        _field("rotation", _INT, "degree clockwise"),
        _field("size_bytes", _INT, "byte"),
        _field("start_s", _FLOAT, "s"),
        _field("end_s", _FLOAT, "s"),
        _field("num_frames", _INT),
        _field("mean_fps", _FLOAT, "1/s"),
        _field("sampled_frames", _INT),
        _field("effective_fps", _FLOAT, "1/s"),
        _field("step_s", _FLOAT, "s"),
        _field("frame_width", _INT, "px"),
        _field("frame_height", _INT, "px"),
        _field("pair_tokens", _INT, "token"),
        _field("total_tokens", _INT, "token"),
        _field("num_windows", _INT),
        _field("num_chunks", _INT),
        _field("num_corrupt", _INT, "frame"),
        _field("bound_by", _list(_STRING)),
        _field("notes", _list(_STRING)),
        _field("predicted_bytes", _INT, "byte"),
        *_MADE,
    ],
)
NEEDLES = _schema(
    "needles",
    [
        *_WHO,
        _field("query_id", _STRING),
        _field("haystack", pa.int32()),
        _field("length", _STRING),
        _field("total_tokens", _INT, "token"),
        _field("sampled_frames", _INT),
        _field("clip_s", _FLOAT, "s"),
        _field("step_s", _FLOAT, "s"),
        _field("depth", _FLOAT, "share of the clip", nullable=True),
        _field("placed_depth", _FLOAT, "share of the clip", nullable=True),
        _field("needle", _STRING),
        _field("num_needles", pa.int32()),
        _field("control", _STRING),
        _field("question", _STRING),
        _field("asked", _STRING),
        _field("expected", _STRING),
        _field("answer", _STRING),
        _field("status", _STRING),
        _field("is_correct", pa.bool_()),
        _field("needle_frames", _INT, "sampled frames that show it"),
        _field("truth_start_s", _FLOAT, "s", nullable=True),
        _field("truth_end_s", _FLOAT, "s", nullable=True),
        _field("truth_start_pts", _INT, "tick", nullable=True),
        _field("truth_end_pts", _INT, "tick", nullable=True),
        _field("time_base_num", _INT, "s"),
        _field("time_base_den", _INT, "tick"),
        _field("said_start_s", _FLOAT, "s", nullable=True),
        _field("said_end_s", _FLOAT, "s", nullable=True),
        _field("offset_s", _FLOAT, "s", nullable=True),
        _field("iou", _FLOAT, "share", nullable=True),
        *_MADE,
    ],
)
TABLES: dict[str, pa.Schema] = {
    "events": EVENTS,
    "requests": REQUESTS,
    "videos": VIDEOS,
    "needles": NEEDLES,
}
