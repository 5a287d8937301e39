"""The job file: one schema for the file, the command line and the Python API.

Unknown keys are refused with the nearest known one. `schemas/job.schema.json` is generated from
here (`python -m schemas.job`) and a test keeps it true.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from schemas.errors import ConfigError
from schemas.time import clock_to_seconds
from schemas.values import Moment, Name, Options, Size, Tokens, Windows

FieldForm = Literal["string"] | Annotated[list[str], Field(min_length=1)]


class Strict(BaseModel):
    """A section of a file that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Model = TypeVar("Model", bound=Strict)


class QuerySpec(Strict):
    """One question: `find` asks for spans, `ask` for a text or for one of its `options`."""

    id: Name
    find: str | None = Field(None, min_length=1, max_length=2000)
    ask: str | None = Field(None, min_length=1, max_length=4000)
    fields: dict[Name, FieldForm] = Field(default_factory=dict)
    """Extra columns of each found event: `string`, or the list of allowed values."""
    options: Options = ()
    """The answers that an `ask` query may have. They are scored, not decoded, so
    `max_answer_tokens` does not matter."""
    max_answer_tokens: Tokens = 512
    max_think_tokens: Tokens = 4096
    """Longest thought before the answer; only Thinking checkpoints have one."""

    @model_validator(mode="after")
    def _one_kind(self) -> QuerySpec:
        if (self.find is None) == (self.ask is None):
            raise ValueError("a query has either `find` (spans) or `ask` (a text)")
        if self.ask is not None and self.fields:
            raise ValueError("`fields` belong to `find` queries; an `ask` query answers in text")
        if self.find is not None and self.options:
            raise ValueError("`options` belong to `ask` queries; a `find` query has `fields`")
        if taken := {"start", "end"} & set(self.fields):
            raise ValueError(f"field {min(taken)!r} is taken by the span itself; name it otherwise")
        return self


BY_NAME, WHOLE = "by id", "whole"
"""Tags of what may be named, or written out in place; no part of a path in a sentence."""


def form_of(value: object) -> str:
    """Which of the two a value is meant as."""
    return BY_NAME if isinstance(value, str) else WHOLE


QueryChoice = Annotated[
    Annotated[Name, Tag(BY_NAME)] | Annotated[QuerySpec, Tag(WHOLE)], Discriminator(form_of)
]
"""One question on one video: the id of one of the job's, or a whole one."""


class SamplingChange(Strict):
    """Sampling settings of one video; what is left out stays as the job says."""

    fps: float | None = Field(None, gt=0, le=240, allow_inf_nan=False)
    max_frames: int | None = Field(None, ge=1)
    video_tokens: Tokens | None = None
    pair_tokens: int | None = Field(None, ge=1)


class VideoSpec(Strict):
    """One video, file pattern, folder, URL or list of them, and what is special about it."""

    uri: str = Field(min_length=1)
    """A file, folder, pattern or URL; `.txt`, `.csv` and `.parquet` are lists of them."""
    clip: tuple[Moment, Moment] | None = None
    """Start and end on the video's own clock, half-open."""
    queries: tuple[QueryChoice, ...] | None = None
    """Questions on this video instead of the job's: ids of the job's, or whole ones."""
    sampling: SamplingChange = SamplingChange()

    @model_validator(mode="after")
    def _ordered(self) -> VideoSpec:
        if self.clip_s is not None and self.clip_s[0] >= self.clip_s[1]:
            raise ValueError(
                f"clip {list(self.clip or ())} ends before it starts; write [start, end]"
            )
        return self

    @property
    def clip_s(self) -> tuple[Fraction, Fraction] | None:
        if self.clip is None:
            return None
        return clock_to_seconds(self.clip[0]), clock_to_seconds(self.clip[1])


class ModelSpec(Strict):
    """Which checkpoint, and how it is run."""

    name: str = "nano"
    """`nano` (bundled), a checkpoint folder, or a hub id such as Qwen/Qwen3-VL-8B-Instruct."""
    context: Tokens | None = None
    """Longest sequence; None: what the checkpoint is made for. More than that turns on YaRN."""
    yarn: float | None = Field(None, gt=1, le=4, allow_inf_nan=False)
    """YaRN factor; None: off within the checkpoint's own length, 2 up to twice that, else 3."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    kv_cache: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """What keys and values are kept in; auto: what the layers compute in."""
    prefill_chunk: Tokens = 8192


class SamplingSpec(Strict):
    """How densely and how large a video is seen. None: the checkpoint's advice, else 2 fps and 768
    tokens per patch pair."""

    fps: float | None = Field(None, gt=0, le=240, allow_inf_nan=False)
    max_frames: int = Field(2048, ge=1)
    """Most frames of one context."""
    video_tokens: Tokens | None = None
    """Most tokens of one context's video, timestamps included; None: what the context leaves."""
    pair_tokens: int | None = Field(None, ge=1)
    """Most visual tokens per patch pair."""
    windows: Windows = 1
    """Contexts that a video is read in, neighbours sharing frames. 1: a single one, and fps and
    frame size shrink to fit it; auto: as many as the asked fps and frame size need."""
    window_overlap_s: float = Field(10.0, ge=0, le=86_400, allow_inf_nan=False)
    """Seconds that neighbouring windows share, rounded up to whole patch pairs, one at least."""


class ClusterSpec(Strict):
    """Where the work runs: an embedded Dask cluster on this machine, one that runs already, or this
    process alone."""

    executor: Literal["dask", "serial"] = "dask"
    scheduler: str | None = Field(None, min_length=1)
    """Address of a running scheduler, whose workers are used; None: an embedded cluster."""
    insecure: bool = False
    """Allow a scheduler on another machine without TLS."""
    decode_workers: int = Field(2, ge=1, le=64)
    """Chunks that the embedded cluster decodes at once, each in one thread of a process of its own.
    """
    model_workers: int = Field(1, ge=1, le=64)
    lookahead_chunks: int = Field(2, ge=1, le=64)
    """Decoded chunks that may wait for the model, per video."""
    snapshot_minutes: float | None = Field(10.0, ge=0, allow_inf_nan=False)
    """Work on one video that may be lost when its worker dies: a session is saved so often, in the
    output's `_sessions`, and dropped when the video is done. None: never."""
    keep_sessions: bool = False
    """Keep whole sessions in `_sessions`, so that questions that come later need no prefill."""
    decode_limit_s: float = Field(600, gt=0, allow_inf_nan=False)
    """Longest time for the probe, or for one chunk, of a video; its decoder is killed then."""
    decode_memory_mib: int = Field(4096, ge=256)
    """Most memory of a decoder; it is killed when it takes more."""
    unit_limit_s: float = Field(86_400, gt=0, allow_inf_nan=False)
    """Longest time for one video; the model worker that reads it is killed then."""
    wait_s: float = Field(120, ge=0, allow_inf_nan=False)
    """How long a scheduler that was lost, or the last worker of a kind, is waited for."""

    @model_validator(mode="after")
    def _one_place(self) -> ClusterSpec:
        if self.executor == "serial" and self.scheduler is not None:
            raise ValueError("`executor: serial` uses no `scheduler`; leave one of them out")
        return self


class LimitsSpec(Strict):
    """What a job may cost; one that would cost more does not start. None: no limit."""

    max_tokens: Tokens | None = None
    """Tokens of all videos that are left to read, questions included."""
    max_hours: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Hours of video that are left to read."""


class InputsSpec(Strict):
    """How videos behind a URL come here."""

    cache: str = Field("~/.cache/longtake/videos", min_length=1)
    """Folder for the copies; every worker must see it."""
    max_bytes: Size = 100 * 1024**3
    """Largest single video that is copied."""


class JobSpec(Strict):
    """A whole batch: videos, queries, model, sampling, output."""

    name: Name = "job"
    videos: Annotated[list[VideoSpec], Field(min_length=1)]
    queries: Annotated[list[QuerySpec], Field(min_length=1)]
    model: ModelSpec = ModelSpec()
    sampling: SamplingSpec = SamplingSpec()
    cluster: ClusterSpec = ClusterSpec()
    limits: LimitsSpec = LimitsSpec()
    inputs: InputsSpec = InputsSpec()
    output: str = Field("out/longtake", min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _short_videos(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("videos"), list):
            videos = [{"uri": v} if isinstance(v, str) else v for v in data["videos"]]
            return {**data, "videos": videos}
        return data

    @model_validator(mode="after")
    def _unique_ids(self) -> JobSpec:
        ids = [query.id for query in self.queries]
        if twice := {i for i in ids if ids.count(i) > 1}:
            raise ValueError(f"query id {min(twice)!r} is used twice; ids name the answers")
        for video in self.videos:
            queries_of(video, self.queries)
        return self


def queries_of(video: VideoSpec, queries: Sequence[QuerySpec]) -> tuple[QuerySpec, ...]:
    """The questions on one video: its own where it has some. Raises ValueError: unknown id."""
    if video.queries is None:
        return tuple(queries)
    if not video.queries:
        raise ValueError(f"{video.uri} has an empty list of queries; name some, or leave it out")
    known = {query.id: query for query in queries}
    chosen: dict[str, QuerySpec] = {}
    for query in video.queries:
        if isinstance(query, str) and query not in known:
            near = difflib.get_close_matches(query, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the job has {sorted(known)}"
            raise ValueError(f"{video.uri} asks for query {query!r}, which is none; {hint}")
        one = known[query] if isinstance(query, str) else query
        if one.id in chosen:
            raise ValueError(f"{video.uri} asks query {one.id!r} twice; ids name the answers")
        chosen[one.id] = one
    return tuple(chosen.values())


def sampling_of(video: VideoSpec, sampling: SamplingSpec) -> SamplingSpec:
    """The job's sampling with what one video changes."""
    changes = video.sampling.model_dump(exclude_none=True)
    return sampling.model_copy(update=changes)


def read_video(data: object, *, where: str) -> VideoSpec:
    """Validate one row of a list. Raises ConfigError: one sentence per mistake."""
    return read_as(VideoSpec, data, where)


def read_limits(data: object, *, where: str) -> LimitsSpec:
    """Validate limits that come from elsewhere than a job file. Raises ConfigError."""
    return read_as(LimitsSpec, data, where)


def read_as(model: type[Model], data: object, where: str) -> Model:
    """Validate. Raises ConfigError: one sentence per mistake, with the nearest known key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_sentence(dict(item), where, model) for item in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def read_job(data: object, *, where: str) -> JobSpec:
    """Validate a job. Raises ConfigError: one sentence per mistake, with the nearest known key."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where} holds no job; a job is a mapping with `videos` and `queries`.")
    return read_as(JobSpec, data, where)


def _sentence(item: dict[str, Any], where: str, root: type[BaseModel]) -> str:
    # Which of two forms a value was tried as is no part of its path.
    loc = [str(part) for part in item["loc"] if part not in (BY_NAME, WHOLE)]
    path = ".".join(loc)
    if item["type"] == "extra_forbidden":
        known = _known_keys(loc[:-1], root)
        near = difflib.get_close_matches(loc[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(known))}."
        return f"{where}: unknown key `{path}`; {hint}"
    if item["type"] == "missing":
        return f"{where}: `{path}` is missing."
    message = str(item["msg"]).removeprefix("Value error, ")
    given = "" if item["type"] == "value_error" else f" (given {item['input']!r})"
    return f"{where}: {f'`{path}`: ' if path else ''}{message}{given}."


def _known_keys(loc: list[str], root: type[BaseModel]) -> list[str]:
    """The keys that a section may have; `loc` is the way to it from `root`."""
    at = root
    for part in loc:
        field = at.model_fields.get(part)
        inner = None if field is None else _section(field.annotation)
        at = inner or at
    return list(at.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, or holds many of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    parts = (_section(part) for part in get_args(annotation))
    return next((part for part in parts if part is not None), None)


SCHEMA_FILE = Path(__file__).with_name("job.schema.json")


def json_schema() -> str:
    """The job file's JSON Schema as committed text."""
    return json.dumps(JobSpec.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(json_schema(), encoding="utf-8")
