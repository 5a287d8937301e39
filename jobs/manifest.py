"""Job → units of work, each named by content.

key = hash(video bytes, clip, sampling, model settings and digest, code schema), and an answer's key
adds its question: the same key means the same rows, whatever the path, the order or the machine.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jobs import lists, remote
from pipeline.probe import digest_file
from schemas.errors import ConfigError, InputError
from schemas.events import SCHEMA_VERSION
from schemas.job import JobSpec, QuerySpec, SamplingSpec, VideoSpec, queries_of, sampling_of
from schemas.media import VideoSource
from schemas.ports import ModelFacts

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".avi"]
)
"""What is picked up from a folder; a file named outright may have any name."""
_FETCHES = 4
"""Remote files that are copied at the same time."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One video (or clip) of a job: where it is and what is asked of it."""

    source: VideoSource
    queries: tuple[QuerySpec, ...]
    sampling: SamplingSpec
    remote: remote.RemoteFile | None = None
    """What lies behind its URL, if it has one; its copy is the source's path."""
    problem: InputError | None = None
    """Why it cannot be had, found before anything started."""

    def own_job(self, job: JobSpec) -> JobSpec:
        """The job as it is meant for this video."""
        own = {"queries": list(self.queries), "sampling": self.sampling}
        return job.model_copy(update=own)

    def fetched(self, job: JobSpec) -> Wanted:
        """The same with its bytes here. Raises InputError."""
        if self.problem is not None:
            raise self.problem
        if self.remote is not None:
            self.remote.fetch(job.inputs.max_bytes)
        return self


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of resumable work: one video (or clip) with the questions on it."""

    key: str
    """Names video, clip, settings and model by content."""
    wanted: Wanted
    video_id: str
    """Digest of the bytes; empty where they cannot be read."""
    asked: tuple[QuerySpec, ...]
    """The questions that are left to answer, all or some of the video's."""
    problem: InputError | None = None
    """Why it cannot be read, found before anything started."""

    @property
    def source(self) -> VideoSource:
        return self.wanted.source

    @property
    def place(self) -> str:
        """Where it is, clip included: what a later run may replace the rows of."""
        clip = self.source.clip_s
        where = self.source.path if self.wanted.remote is None else self.source.uri
        return where if clip is None else f"{where}#t={clip[0]},{clip[1]}"

    @property
    def answer_keys(self) -> dict[str, str]:
        """What names each of its answers by content, by query id."""
        return {query.id: answer_key(self.key, query) for query in self.wanted.queries}

    @property
    def session_prefix(self) -> str:
        """Begins the names of its saved sessions, whatever the questions are."""
        return _hash(self.video_id, str(self.source.clip_s))[:16] + "-"


def find_videos(job: JobSpec, base: Path | None = None) -> list[Wanted]:
    """Files, folders, patterns, URLs and lists of a job, sorted within each. Nothing is copied yet.

    Relative paths start at `base`, or the working folder. Raises ConfigError: no match.
    """
    base = base or Path.cwd()
    found: list[Wanted] = []
    for video in job.videos:
        for one in _expand(video, base):
            wanted = _want(one, job, base)
            if wanted not in found:
                found.append(wanted)
    return found


def _expand(video: VideoSpec, base: Path) -> Iterator[VideoSpec]:
    """One spec per file that a spec means."""
    if lists.is_list(video.uri):
        for row in lists.read_videos(video.uri, base):
            if lists.is_list(row.uri):
                raise ConfigError(f"list {video.uri} names another list, {row.uri}; join them.")
            # What stands beside the list in the job holds for each row that does not say otherwise.
            said = {name: getattr(row, name) for name in row.model_fields_set}
            yield from _expand(video.model_copy(update=said), base)
        return
    if remote.is_url(video.uri):
        paths = remote.expand(video.uri, VIDEO_SUFFIXES)
    else:
        paths = _expand_local(video.uri, base)
    yield from (video.model_copy(update={"uri": path}) for path in paths)


def _want(video: VideoSpec, job: JobSpec, base: Path) -> Wanted:
    try:
        queries = queries_of(video, job.queries)
    except ValueError as error:  # A list may name a query that the job lacks.
        raise ConfigError(f"{error}.") from None
    sampling = sampling_of(video, job.sampling)
    if not remote.is_url(video.uri):
        path = str((base / video.uri).absolute())
        return Wanted(VideoSource(video.uri, path, video.clip_s), queries, sampling)
    try:
        file = remote.look_up(video.uri, job.inputs)
    except InputError as error:
        source = VideoSource(video.uri, video.uri, video.clip_s)
        return Wanted(source, queries, sampling, problem=error)
    return Wanted(VideoSource(video.uri, str(file.copy), video.clip_s), queries, sampling, file)


def _expand_local(uri: str, base: Path) -> list[str]:
    path = base / uri
    if path.is_dir():
        folder = Path(uri)
        names = (p.name for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        found = sorted(str(folder / name) for name in names)
        if not found:
            raise ConfigError(
                f"{uri} is a directory without videos; name a folder that holds some."
            )
        return found
    if path.exists() or not glob.has_magic(uri):
        return [uri]  # A missing file becomes a row of its own.
    # Patterns may be absolute, which Path.glob refuses.
    matches = glob.glob(uri, root_dir=base, recursive=True)  # noqa: PTH207
    found = sorted(name for name in matches if (base / name).is_file())
    if not found:
        raise ConfigError(f"no file matches {uri!r}; check the pattern and the working folder.")
    return found


def build_units(job: JobSpec, facts: ModelFacts, base: Path | None = None) -> tuple[Unit, ...]:
    """Name every unit. Costs one pass over each file's bytes; a URL seen before costs a request."""
    found = find_videos(job, base)
    with ThreadPoolExecutor(_FETCHES) as pool:
        units = tuple(pool.map(lambda wanted: _build_unit(wanted, job, facts), found))
    _refuse_clashes(units)
    return units


def _refuse_clashes(units: Iterable[Unit]) -> None:
    """One place has one set of rows. Raises ConfigError."""
    places = Counter(unit.place for unit in units)
    for unit in units:
        if places[unit.place] > 1:
            raise ConfigError(
                f"{unit.source.uri} is given twice with other questions or sampling; give it once "
                "with all questions, or each time another clip of it."
            )


def _build_unit(wanted: Wanted, job: JobSpec, facts: ModelFacts) -> Unit:
    common = unit_settings(job, wanted.sampling, facts)
    try:
        video_id = _digest(wanted, job)
    except InputError as error:
        key = _hash("unreadable", wanted.source.path, str(wanted.source.clip_s), common)
        return Unit(key, wanted, "", wanted.queries, error)
    clip = wanted.source.clip_s
    where = "" if clip is None else f"{clip[0]}..{clip[1]}"
    return Unit(_hash(video_id, where, common), wanted, video_id, wanted.queries)


def _digest(wanted: Wanted, job: JobSpec) -> str:
    if wanted.problem is not None:
        raise wanted.problem
    if wanted.remote is None:
        return digest_file(wanted.source)
    return wanted.remote.sha256() or wanted.remote.fetch(job.inputs.max_bytes)


def unit_settings(job: JobSpec, sampling: SamplingSpec, facts: ModelFacts) -> str:
    """Everything besides bytes and questions that decides a unit's rows, as canonical text."""
    return json.dumps(
        {
            "sampling": sampling.model_dump(mode="json"),
            "model": job.model.model_dump(mode="json", exclude={"name"}),
            "model_digest": facts.digest,
            "schema": SCHEMA_VERSION,
        },
        sort_keys=True,
    )


def answer_key(unit_key: str, query: QuerySpec) -> str:
    """Names one (video, question) by content, hex."""
    return _hash(unit_key, json.dumps(query.model_dump(mode="json"), sort_keys=True))


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
