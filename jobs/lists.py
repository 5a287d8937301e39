"""A list of videos (text, CSV or Parquet) → video specs, as if they stood in the job file.

Promises that a list cannot say anything a job file could not: each row goes through the same
schema, and a mistake is named with its line.
"""

from __future__ import annotations

import difflib
import io
import json
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from jobs import remote
from schemas.errors import ConfigError
from schemas.job import VideoSpec, read_video

LIST_SUFFIXES = frozenset([".txt", ".csv", ".parquet"])
_SAMPLING = ("fps", "max_frames", "video_tokens", "pair_tokens")
COLUMNS = ("uri", "clip_start", "clip_end", "queries", *_SAMPLING)
"""Columns of a CSV or Parquet list; one that begins with `_` is nobody's and is ignored."""


def is_list(uri: str) -> bool:
    """Whether a name means a list of videos instead of a video."""
    return PurePosixPath(uri.partition("?")[0]).suffix.lower() in LIST_SUFFIXES


def read_videos(uri: str, base: Path) -> list[VideoSpec]:
    """The videos of a list. Relative paths in it start at its own folder. Raises ConfigError."""
    data, folder = _read(uri, base)
    suffix = PurePosixPath(uri.partition("?")[0]).suffix.lower()
    try:
        rows = _lines(data) if suffix == ".txt" else _table(uri, data, suffix)
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"list {uri} cannot be read ({type(error).__name__}); write it again as "
            f"{suffix.removeprefix('.')}."
        ) from None
    videos = [read_video(_spec(row, where), where=where) for where, row in _named(uri, rows)]
    if not videos:
        raise ConfigError(f"list {uri} names no video; write one to a line.")
    return [_placed(video, folder) for video in videos]


def _read(uri: str, base: Path) -> tuple[bytes, str]:
    """The list's bytes, and what its relative paths start from."""
    if remote.is_url(uri):
        return remote.read_list(uri), uri.rpartition("/")[0] + "/"
    path = base / uri
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"list {uri} cannot be read ({error.strerror}); check the path."
        ) from None
    folder = str(Path(uri).parent)
    return data, "" if folder == "." else folder + "/"


def _placed(video: VideoSpec, folder: str) -> VideoSpec:
    if remote.is_url(video.uri) or Path(video.uri).is_absolute():
        return video
    return video.model_copy(update={"uri": folder + video.uri})


def _lines(data: bytes) -> list[tuple[int, dict[str, Any]]]:
    """One video to a line; blank lines and those that begin with `#` say nothing."""
    lines = enumerate(data.decode("utf-8-sig").splitlines(), start=1)
    return [
        (number, {"uri": line.strip()})
        for number, line in lines
        if line.strip() and not line.lstrip().startswith("#")
    ]


def _table(uri: str, data: bytes, suffix: str) -> list[tuple[int, dict[str, Any]]]:
    source = io.BytesIO(data)
    is_csv = suffix == ".csv"
    frame = pl.read_csv(source, infer_schema=False) if is_csv else pl.read_parquet(source)
    for column in frame.columns:
        if column not in COLUMNS and not column.startswith("_"):
            near = difflib.get_close_matches(column, COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known columns: {', '.join(COLUMNS)}."
            raise ConfigError(
                f"list {uri} has an unknown column {column!r}; {hint} (A leading `_` has a column "
                "ignored.)"
            )
    # Line 1 of a CSV is its header.
    return list(enumerate(frame.iter_rows(named=True), start=2 if is_csv else 1))


def _named(uri: str, rows: list[tuple[int, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    word = "row" if uri.lower().endswith(".parquet") else "line"
    return [(f"{uri} {word} {number}", row) for number, row in rows]


def _spec(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row as a mapping of the job file; empty cells say nothing."""
    given = {name: value for name, value in row.items() if value not in (None, "")}
    spec: dict[str, Any] = {"uri": given["uri"]} if "uri" in given else {}
    ends = [given.get("clip_start"), given.get("clip_end")]
    if any(end is not None for end in ends):
        if None in ends:
            raise ConfigError(f"{where}: a clip has both clip_start and clip_end.")
        spec["clip"] = ends
    if "queries" in given:
        spec["queries"] = _queries(given["queries"], where)
    if sampling := {name: _number(given[name]) for name in _SAMPLING if name in given}:
        spec["sampling"] = sampling
    return spec


def _number(value: Any) -> Any:
    """CSV cells are texts; what is no plain number is left for the schema to read or refuse."""
    try:
        return int(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _queries(cell: Any, where: str) -> list[Any]:
    """Ids with `;` between them, or a JSON list of ids and whole queries."""
    if not isinstance(cell, str):
        return list(cell)
    if not cell.lstrip().startswith("["):
        return [name.strip() for name in cell.split(";") if name.strip()]
    try:
        queries = json.loads(cell)
    except ValueError:
        raise ConfigError(
            f"{where}: queries is no JSON list; write ids with `;` between them, or JSON."
        ) from None
    return list(queries)
