"""Videos behind a URL → copies in a local folder, named by what the server says they are.

Promises that a decoder only ever opens a local file: a URL is copied whole, within a size limit,
and a copy is used again as long as the server's own tag of the file (ETag, or time and size) stays.
The copy's SHA-256 is kept beside it: what is committed already is not fetched again to be named.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import stamina

from pipeline.store import FolderStore
from schemas.errors import ConfigError, InputError, LongtakeError
from schemas.job import InputsSpec

T = TypeVar("T")
SCHEMES = ("http", "https", "s3", "gs", "az", "memory")
_CLOUD = ("s3", "gs", "az")
_MARKS = ("etag", "contentmd5", "digest", "md5", "version", "lastmodified", "mtime", "created")
_BLOCK_BYTES = 8 * 1024**2
_ATTEMPTS = 4
_LIST_BYTES = 64 * 1024**2
"""Longest list of videos that is read from a URL."""
_EXTRA = {"http": "http", "https": "http", "s3": "cloud", "gs": "cloud", "az": "cloud"}


def is_url(uri: str) -> bool:
    """Whether a name is a URL; anything with `://` is, known or not."""
    return "://" in uri


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file behind a URL as the server described it, and where its copy lies or will lie."""

    url: str
    size: int | None
    copy: Path

    @property
    def _note(self) -> Path:
        return self.copy.with_suffix(".json")

    def sha256(self) -> str | None:
        """Digest of the bytes, where they were here before; None where they never were."""
        try:
            digest = json.loads(self._note.read_text(encoding="utf-8"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return str(digest)

    def fetch(self, max_bytes: int) -> str:
        """Copy the file unless it is here, and return its SHA-256. Raises InputError."""
        known = self.sha256()
        if known is not None and self.copy.is_file() and self._has_size():
            return known
        if self.size is not None and self.size > max_bytes:
            raise _too_large(self.url, max_bytes)
        digest = _reach(self.url, lambda: _copy(self.url, self.copy, max_bytes))
        note = json.dumps({"url": self.url, "sha256": digest}).encode()
        FolderStore(self._note.parent).put(self._note.name, note)
        return digest

    def _has_size(self) -> bool:
        return self.size is None or self.copy.stat().st_size == self.size


def look_up(url: str, inputs: InputsSpec) -> RemoteFile:
    """Ask the server what the file is; nothing is copied. Raises ConfigError or InputError."""
    filesystem, path = _open(url)
    info = _reach(url, lambda: filesystem.info(path))
    tag = _reach(url, lambda: _tag(url, info))
    name = hashlib.sha256(f"{url}\0{tag}".encode()).hexdigest()[:32]
    size = info.get("size")
    folder = Path(inputs.cache).expanduser()
    return RemoteFile(url, size, folder / (name + PurePosixPath(urlsplit(url).path).suffix))


def _tag(url: str, info: Mapping[str, Any]) -> str:
    """What changes when the bytes do, by the server's own word; never twice the same where it has
    none."""
    said = {name.lower().replace("_", ""): value for name, value in info.items()}
    marks = [f"{name}={said[name]}" for name in _MARKS if said.get(name)]
    if not marks and url.startswith("http"):
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310 - http(s) only
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
            marks = [str(reply.headers["Last-Modified"] or "")]
    return "|".join([str(info.get("size")), *marks]) if any(marks) else uuid.uuid4().hex


def expand(url: str, suffixes: frozenset[str]) -> list[str]:
    """The files that a URL means: itself, the matches of its `*`, or the videos of a folder whose
    name ends in `/`. Raises ConfigError where there are none."""
    if "*" not in url and not url.endswith("/"):
        return [url]
    filesystem, path = _open(url)
    try:
        if "*" in url:
            found = _reach(url, lambda: filesystem.glob(path))
        else:
            listed = _reach(url, lambda: filesystem.ls(path, detail=False))
            found = [name for name in listed if PurePosixPath(name).suffix.lower() in suffixes]
    except InputError as error:
        raise ConfigError(error.message) from None
    if not found:
        raise ConfigError(f"no video matches {url!r}; check the address.")
    return sorted(str(filesystem.unstrip_protocol(name)) for name in found)


def read_list(url: str) -> bytes:
    """The bytes of a list of videos. Raises ConfigError."""
    filesystem, path = _open(url)

    def read() -> bytes:
        with filesystem.open(path, "rb") as file:
            data: bytes = file.read(_LIST_BYTES + 1)
        return data

    try:
        data = _reach(url, read)
    except InputError as error:
        raise ConfigError(error.message) from None
    if len(data) > _LIST_BYTES:
        raise ConfigError(f"list {url} is larger than {_LIST_BYTES >> 20} MiB; split it.")
    return data


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it. Raises ConfigError for what is not read."""
    scheme = url.partition("://")[0].lower()
    # `::` chains one file system behind another, which would open any scheme.
    if scheme not in SCHEMES or "::" in url:
        raise ConfigError(
            f"{url} is of no kind that is read; give a file, or a URL of "
            f"{', '.join(f'{name}://' for name in SCHEMES[:-1])}."
        )
    if scheme in _CLOUD and importlib.util.find_spec("obstore") is not None:
        importlib.import_module("obstore.fsspec").register(list(_CLOUD))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError:
        extra = _EXTRA.get(scheme, "cloud")
        raise ConfigError(
            f"{url} needs a package that is not installed: pip install 'longtake[{extra}]'."
        ) from None
    except Exception as error:  # noqa: BLE001 - any library's own error about the address
        raise ConfigError(
            f"{url} cannot be opened ({type(error).__name__}); check the address."
        ) from None
    return filesystem, path


def _copy(url: str, target: Path, max_bytes: int) -> str:
    """Stream the bytes to `target`, whole or not at all; returns their SHA-256."""
    filesystem, path = _open(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    digest, size = hashlib.sha256(), 0
    try:
        with filesystem.open(path, "rb") as source, draft.open("wb") as copy:
            while block := source.read(_BLOCK_BYTES):
                size += len(block)
                if size > max_bytes:
                    raise _too_large(url, max_bytes)
                digest.update(block)
                copy.write(block)
            copy.flush()
            os.fsync(copy.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return digest.hexdigest()


def _too_large(url: str, max_bytes: int) -> InputError:
    return InputError(
        f"{url} is larger than inputs.max_bytes ({max_bytes} bytes); raise it, or cut the video.",
        reason="too_large",
    )


def _reach(url: str, ask: Callable[[], T]) -> T:
    """The one border to remote file systems: passing errors are tried again, all leave as ours."""
    try:
        for attempt in stamina.retry_context(on=_may_pass, attempts=_ATTEMPTS, timeout=120):
            with attempt:
                return ask()
    except LongtakeError:
        raise
    except Exception as error:  # noqa: BLE001 - every client library has errors of its own
        raise _refusal(url, _cause(error)) from None
    raise AssertionError("a retried call returns or raises")


def _cause(error: BaseException) -> BaseException:
    """What really happened: some file systems call every failure a missing file."""
    while isinstance(error, FileNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _refusal(url: str, error: BaseException) -> InputError:
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return InputError(f"{url} does not exist; check the address.", reason="missing_file")
    if isinstance(error, PermissionError) or status in (401, 403):
        return InputError(f"{url} may not be read; check the credentials.", reason="denied")
    return InputError(
        f"{url} could not be read in {_ATTEMPTS} attempts ({type(error).__name__}); run the same "
        "command again when it can be reached.",
        reason="unreachable",
    )


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: not for what is not there, not allowed or not ours."""
    cause = _cause(error)
    if isinstance(cause, (LongtakeError, FileNotFoundError, PermissionError, NotADirectoryError)):
        return False
    status = getattr(cause, "status", None)
    return not (isinstance(status, int) and 400 <= status < 500 and status not in (408, 429))
