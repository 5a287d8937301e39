"""Job → units of work, each named by content.

key = hash(video bytes, clip, sampling, questions, model digest, code schema): the same key means
the same rows, whatever the path, the order or the machine.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.probe import digest_file
from schemas.errors import ConfigError, InputError
from schemas.events import SCHEMA_VERSION
from schemas.job import JobSpec, VideoSpec
from schemas.media import VideoSource
from schemas.ports import ModelFacts

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".mkv", ".webm", ".ts", ".mts", ".m2ts", ".avi"]
)
"""What is picked up from a folder; a file named outright may have any name."""
_SCHEMES = ("http://", "https://", "s3://", "gs://", "az://", "rtsp://", "ftp://")


@dataclass(frozen=True, slots=True)
class Unit:
    """One piece of resumable work: one video (or clip) with all questions of the job."""

    key: str
    source: VideoSource
    video_id: str
    """Digest of the bytes; empty where they cannot be read."""
    problem: InputError | None = None
    """Why it cannot be read, found before anything started."""

    @property
    def place(self) -> str:
        """Where it is, clip included: what a later run of another job may replace."""
        clip = self.source.clip_s
        return self.source.uri if clip is None else f"{self.source.uri}#t={clip[0]},{clip[1]}"

    @property
    def session_prefix(self) -> str:
        """Begins the names of its saved sessions, whatever the questions are."""
        return _hash(self.video_id, str(self.source.clip_s))[:16] + "-"


@dataclass(frozen=True, slots=True)
class Manifest:
    units: tuple[Unit, ...]
    twins: tuple[tuple[str, str], ...]
    """(left out, answered in its place): the same bytes under two paths."""


def find_sources(videos: Iterable[VideoSpec]) -> list[VideoSource]:
    """Files, folders and patterns as sources, sorted within each. Raises ConfigError: no match."""
    sources: list[VideoSource] = []
    for video in videos:
        for path in _expand(video.uri):
            source = VideoSource(path, str(Path(path).absolute()), video.clip_s)
            if source not in sources:
                sources.append(source)
    return sources


def _expand(uri: str) -> list[str]:
    if uri.startswith(_SCHEMES):
        raise ConfigError(
            f"{uri} is remote; local files, folders and patterns are read. Copy it here first."
        )
    path = Path(uri)
    if path.is_dir():
        found = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES)
        if not found:
            raise ConfigError(
                f"{uri} is a directory without videos; name a folder that holds some."
            )
        return found
    if path.exists() or not glob.has_magic(uri):
        return [uri]  # A missing file becomes a row of its own.
    # Patterns may be absolute, which Path.glob refuses.
    names = glob.glob(uri, recursive=True)  # noqa: PTH207
    found = sorted(name for name in names if Path(name).is_file())
    if not found:
        raise ConfigError(f"no file matches {uri!r}; check the pattern and the working folder.")
    return found


def build_manifest(job: JobSpec, facts: ModelFacts) -> Manifest:
    """Name every unit. Costs one pass over each file's bytes."""
    common = unit_settings(job, facts)
    units: dict[str, Unit] = {}
    twins = []
    for source in find_sources(job.videos):
        unit = _build_unit(source, common)
        if unit.key in units:
            twins.append((source.uri, units[unit.key].source.uri))
        else:
            units[unit.key] = unit
    return Manifest(tuple(units.values()), tuple(twins))


def _build_unit(source: VideoSource, common: str) -> Unit:
    try:
        video_id = digest_file(source)
    except InputError as error:
        return Unit(_hash("unreadable", source.uri, common), source, "", error)
    clip = "" if source.clip_s is None else f"{source.clip_s[0]}..{source.clip_s[1]}"
    return Unit(_hash(video_id, clip, common), source, video_id)


def unit_settings(job: JobSpec, facts: ModelFacts) -> str:
    """Everything besides the bytes that decides a unit's rows, as canonical text."""
    return json.dumps(
        {
            "sampling": job.sampling.model_dump(mode="json"),
            "queries": [query.model_dump(mode="json") for query in job.queries],
            "model": job.model.model_dump(mode="json", exclude={"name"}),
            "model_digest": facts.digest,
            "schema": SCHEMA_VERSION,
        },
        sort_keys=True,
    )


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
