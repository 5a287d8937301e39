"""Where an output lies: a handful of verbs that a folder and an object store can both keep.

Promises that a file is whole or absent, and that `put_new` lets exactly one of many writers win.
The folder's way: temporary name, fsync, rename or link, fsync of the folder.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from schemas.errors import ConfigError

Step = Callable[[str], None]
"""Told the name of each step of a commit as it is reached; tests stop a process there."""


def pass_by(_: str) -> None:
    """The step that stops nothing."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One file of an output."""

    path: str
    """Relative to the output, with `/`."""
    size: int
    modified_s: float
    """On the clock of whoever keeps the files, seconds since 1970."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def is_draft(self) -> bool:
        """Half-written, or left by a writer that died."""
        return self.name.startswith(".") and self.name.endswith(".tmp")


class Store(Protocol):
    """Files by relative path."""

    poll_s: float
    """How often it may be asked whether something changed."""

    def __str__(self) -> str:
        """The output as the user named it."""
        ...

    def prepare(self) -> None:
        """Make it ready for writing. Raises ConfigError where that is not possible."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write a whole file; one that is there is replaced."""
        ...

    def put_new(self, path: str, data: bytes) -> bool:
        """Write a whole file; False, and nothing changed, where the name is taken."""
        ...

    def get(self, path: str) -> bytes:
        """All bytes. Raises FileNotFoundError, or OSError where they cannot be read."""
        ...

    def has(self, path: str) -> bool: ...

    def files(self, folder: str) -> list[Stored]:
        """Files directly in `folder` (empty: the output itself), sorted by name, drafts too; none
        where it is missing."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; one that is gone already is no error."""
        ...


class FolderStore:
    """A folder of this machine, or of a file system that it shares."""

    poll_s = 0.5

    def __init__(self, folder: Path, at_step: Step = pass_by) -> None:
        self.folder = folder
        self._at_step = at_step

    def __str__(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refusal(self, error) from None

    def put(self, path: str, data: bytes) -> None:
        target = self.folder / path
        try:
            draft = _draft(target, data)
            self._at_step("file_drafted")
            draft.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise _refusal(self, error) from error

    def put_new(self, path: str, data: bytes) -> bool:
        target = self.folder / path
        try:
            draft = _draft(target, data)
            self._at_step("entry_drafted")
            # A link fails where the name exists: created if absent, whole, atomic.
            is_ours = _link(draft, target)
            if is_ours:
                sync_folder(target.parent)
                self._at_step("entry_linked")
            draft.unlink()
            self._at_step("draft_removed")
        except OSError as error:
            raise _refusal(self, error) from error
        return is_ours

    def get(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def has(self, path: str) -> bool:
        return (self.folder / path).is_file()

    def files(self, folder: str) -> list[Stored]:
        try:
            entries = sorted(os.scandir(self.folder / folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []
        found = []
        for entry in entries:
            try:
                if entry.is_file():
                    facts = entry.stat()
                    path = f"{folder}/{entry.name}".removeprefix("/")
                    found.append(Stored(path, facts.st_size, facts.st_mtime))
            except FileNotFoundError:
                continue  # Another client removed it just now.
        return found

    def delete(self, path: str) -> None:
        (self.folder / path).unlink(missing_ok=True)


def _draft(target: Path, data: bytes) -> Path:
    """The bytes beside their place, safe on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps half-written files out of `*.parquet`.
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}.tmp")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return draft


def _link(draft: Path, target: Path) -> bool:
    try:
        target.hardlink_to(draft)
    except FileExistsError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Make renames and links inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refusal(store: Store, error: OSError) -> ConfigError:
    return ConfigError(
        f"output {store} cannot be written ({error.strerror or error}); make room there or check "
        "its permissions, or choose another folder; then run the same command again."
    )
