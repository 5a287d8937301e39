"""Step 8: parts → commit. The log says which rows exist; readers go through it.

Promises exactly one entry per unit: an entry is created only if its number is free, after its parts
are safe on disk. A crash before the entry leaves an orphan file that no reader sees; the same
command then does the unit again and commits the same rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.parquet import Part, read_tables, sync_folder, write_whole
from schemas.errors import ConfigError, InvariantError


@dataclass(frozen=True, slots=True)
class Entry:
    """One committed unit."""

    key: str
    place: str
    """The video's path as given, with `#t=start,end` where a clip of it is meant."""
    query_ids: tuple[str, ...]
    final: bool
    """False where doing it again may end otherwise: a missing file, a worker that died."""
    replaces: tuple[str, ...]
    """Keys of earlier units whose rows this one takes the place of."""
    parts: tuple[Part, ...]


class CommitLog:
    """`OUT/_log/000001.json …` of one output folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "_log"

    def open_for_writing(self) -> None:
        """Create the folders. Raises ConfigError where that is not possible."""
        try:
            self._log.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output {self.folder} cannot be written ({error.strerror}); choose another folder."
            ) from None

    def entries(self) -> list[Entry]:
        """All entries in order of commit. Raises ConfigError where one cannot be read."""
        return [_read_entry(path) for path in sorted(self._log.glob("[0-9]*.json"))]

    def live(self) -> dict[str, Entry]:
        """Units that count now, by key: committed and not replaced since."""
        units: dict[str, Entry] = {}
        for entry in self.entries():
            for key in entry.replaces:
                units.pop(key, None)
            units[entry.key] = entry
        return units

    def commit(self, entry: Entry) -> None:
        """Add an entry under the next free number. The parts must be on disk already."""
        for part in entry.parts:
            if not (self.folder / part.path).is_file():
                raise InvariantError(f"part {part.path} is committed before it is written.")
        draft = self._log / f".{entry.key[:24]}.{os.getpid()}.tmp"
        write_whole(draft, json.dumps(asdict(entry), indent=1).encode())
        number = len(list(self._log.glob("[0-9]*.json")))
        while True:
            number += 1
            try:
                # A link fails where the name exists: created if absent, whole, atomic.
                (self._log / f"{number:06d}.json").hardlink_to(draft)
                break
            except FileExistsError:
                continue
        draft.unlink()
        sync_folder(self._log)

    def drop_replaced(self) -> None:
        """Remove part files that no live unit names but an earlier entry did."""
        kept = {part.path for entry in self.live().values() for part in entry.parts}
        for entry in self.entries():
            for part in entry.parts:
                if part.path not in kept:
                    (self.folder / part.path).unlink(missing_ok=True)

    def read(self, table: str) -> pa.Table:
        """All live rows of `events`, `requests` or `videos`, in order of commit."""
        parts = _parts_of(self.live().values(), table)
        return read_tables(self.folder, table, [part.path for part in parts])


def _parts_of(entries: Iterable[Entry], table: str) -> list[Part]:
    return [part for entry in entries for part in entry.parts if part.table == table]


def _read_entry(path: Path) -> Entry:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        parts = tuple(Part(**part) for part in data.pop("parts"))
        data["query_ids"], data["replaces"] = tuple(data["query_ids"]), tuple(data["replaces"])
        return Entry(**data, parts=parts)
    except (ValueError, TypeError, KeyError, OSError):
        raise ConfigError(
            f"log entry {path.name} cannot be read; restore it from a backup, or remove the output "
            "folder and run the job again."
        ) from None
