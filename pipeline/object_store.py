"""An output in an object store (S3, GCS, Azure): whole objects, and one conditional PUT to commit.

Promises what the folder does: an object is whole or absent by nature, and `put_new` is one request
with `If-None-Match: *`, which the store itself decides. No rename, no lock service.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

from pipeline.store import Step, Stored, pass_by
from schemas.errors import ConfigError

T = TypeVar("T")


def open_url(url: str) -> ObjectStore:
    """The store behind a URL; credentials come from the environment. Raises ConfigError."""
    try:
        return ObjectStore(obstore.store.from_url(url), url.rstrip("/"))
    except (BaseError, ValueError) as error:
        raise ConfigError(
            f"output {url} cannot be opened ({_first_line(error)}); check the address."
        ) from None


class ObjectStore:
    """One prefix of a bucket."""

    poll_s = 5.0

    def __init__(self, store: Any, url: str, at_step: Step = pass_by) -> None:
        self._store = store
        self._url = url
        self._at_step = at_step

    def __str__(self) -> str:
        return self._url

    def prepare(self) -> None:
        """A prefix needs no making; that it can be written shows at the first commit."""

    def put(self, path: str, data: bytes) -> None:
        self._write(lambda: obstore.put(self._store, path, data))

    def put_new(self, path: str, data: bytes) -> bool:
        try:
            self._write(lambda: obstore.put(self._store, path, data, mode="create"))
        except FileExistsError:
            # A request that was repeated after a lost reply meets its own object.
            return self.get(path) == data
        self._at_step("entry_linked")
        return True

    def get(self, path: str) -> bytes:
        try:
            return bytes(obstore.get(self._store, path).bytes())
        except (NotFoundError, FileNotFoundError):
            raise FileNotFoundError(path) from None
        except BaseError as error:
            raise OSError(_first_line(error)) from None

    def has(self, path: str) -> bool:
        try:
            obstore.head(self._store, path)
        except (NotFoundError, FileNotFoundError):
            return False
        return True

    def files(self, folder: str) -> list[Stored]:
        listed = obstore.list_with_delimiter(self._store, f"{folder}/" if folder else None)
        return sorted(
            (
                Stored(str(meta["path"]), int(meta["size"]), meta["last_modified"].timestamp())
                for meta in listed["objects"]
            ),
            key=lambda file: file.path,
        )

    def delete(self, path: str) -> None:
        try:
            obstore.delete(self._store, path)
        except (NotFoundError, FileNotFoundError):
            return

    def _write(self, request: Callable[[], T]) -> T:
        try:
            return request()
        except (AlreadyExistsError, FileExistsError):
            raise FileExistsError from None
        except (BaseError, OSError) as error:
            raise ConfigError(
                f"output {self} cannot be written ({_first_line(error)}); check the bucket and the "
                "credentials, then run the same command again."
            ) from None


def _first_line(error: Exception) -> str:
    """What the client library says, without the debug text below it."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
