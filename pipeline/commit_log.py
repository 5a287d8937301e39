"""Step 8: the commit log says which rows exist; readers go through it.

Promises one order of commits for all writers: an entry is created only if the number after the last
known one is free, so whoever commits has seen everything before. The last entry of a place is what
counts of it. Costs one small file per commit; files that were read once are not read again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.entries import Entry, Part, entry_bytes, entry_path, read_entry, void
from pipeline.parquet import decode_part, join_tables, part_fault
from pipeline.store import Step, Store, pass_by
from schemas.errors import ConfigError, InvariantError

LAST = "_log/last"
"""The highest number that was given: how a cut end of the log is found. A hint, not a commit."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class LogState:
    """The log as it was read."""

    entries: tuple[Entry, ...]
    """Whole entries in order of commit."""
    lost: tuple[int, ...]
    """Numbers whose entry is missing, or is not what was written."""

    @property
    def last(self) -> int:
        """The highest number in use; 0 where there is none."""
        return max(self.entries[-1].number if self.entries else 0, *self.lost, 0)

    @property
    def live(self) -> dict[str, Entry]:
        """What counts now, by place."""
        places: dict[str, Entry] = {}
        for entry in self.entries:
            places.pop(entry.place, None)  # Order of commit, not of first commit.
            if entry.place:
                places[entry.place] = entry
        return places


class CommitLog:
    """`OUT/_log/000001.json …` of one output."""

    def __init__(self, store: Store, at_step: Step = pass_by) -> None:
        self.store = store
        self.at_step = at_step
        """Told `parts_written` and `replaced_dropped`; the store tells the steps between."""
        self._known: dict[int, Entry | None] = {}
        self._is_listed = False

    def begin(self) -> None:
        """Make the output ready for commits. Raises ConfigError where that is not possible."""
        self.store.prepare()
        pointer = self.pointer()
        if pointer is None and self.store.put_new(LAST, _pointer_bytes(0)):
            pointer = 0
        # Whoever was killed behind a commit has not written it down; nor has whoever lost the file.
        if pointer is None or pointer < self.state().last:
            self._remember(self.state().last)

    def state(self) -> LogState:
        """The log as it is now; damage is named in it, not raised."""
        self._list_once()
        last = max(self._known, default=0)
        while self._read(last + 1):
            last += 1
        for number in range(1, last + 1):
            # A lost entry may have been given up by another client meanwhile.
            if self._known.get(number) is None:
                self._read(number)
        found = {number: self._known.get(number) for number in range(1, last + 1)}
        whole = tuple(entry for entry in found.values() if entry is not None)
        return LogState(whole, tuple(number for number, entry in found.items() if entry is None))

    def whole_state(self) -> LogState:
        """The log for readers. Raises ConfigError where an entry is lost."""
        state = self.state()
        if state.lost:
            raise ConfigError(
                f"log entry {entry_path(state.lost[0])} of {self.store} is damaged or missing, so "
                "rows may be missing too; run the job's own command again, which mends it, or see "
                f"`longtake verify {self.store}`."
            )
        return state

    def append(self, entry: Entry, expected_last: int) -> Entry | None:
        """Commit under the number after `expected_last`; None where another client took it.

        Raises InvariantError where a part is not there yet.
        """
        for part in entry.parts:
            if not self.store.has(part.path):
                raise InvariantError(f"part {part.path} is committed before it is written.")
        numbered = replace(entry, number=expected_last + 1)
        if not self.store.put_new(entry_path(numbered.number), entry_bytes(numbered)):
            return None
        self._known[numbered.number] = numbered
        self._remember(numbered.number)
        return numbered

    def forget_lost(self, numbers: tuple[int, ...]) -> None:
        """Give lost numbers to entries that stand for nothing, what is left of them kept beside."""
        for number in numbers:
            path = entry_path(number)
            try:
                damaged = self.store.get(path)
            except OSError:
                self.store.put_new(path, entry_bytes(void(number)))
            else:
                if read_entry(number, damaged) is None:
                    name = hashlib.sha256(damaged).hexdigest()[:8]
                    self.store.put(f"_log/damaged/{number:06d}-{name}", damaged)
                    self.store.put(path, entry_bytes(void(number)))
            self._read(number)
        self._remember(max(self._known))

    def read(self, table: str) -> pa.Table:
        """All rows that count of `events`, `requests` or `videos`, in order of commit."""
        for tries_left in reversed(range(_TRIES)):
            entries = self.whole_state().live.values()
            parts = [part for entry in entries for part in entry.parts if part.table == table]
            try:
                return join_tables(table, [self.read_part(part) for part in parts])
            except ConfigError:
                # A part may have been replaced since the log was read: then the log says so now.
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    def read_part(self, part: Part) -> pa.Table:
        """The rows of one part. Raises ConfigError where its bytes are not what was written."""
        try:
            data = self.store.get(part.path)
            fault = part_fault(part, data)
        except OSError as error:
            fault = f"cannot be read ({error.strerror or error})"
        if fault is not None:
            raise ConfigError(
                f"{part.path} of {self.store} {fault}; run the job's own command again, which does "
                f"its video again, or see `longtake verify {self.store}`."
            )
        return decode_part(part, data)

    def _list_once(self) -> None:
        if self._is_listed:
            return
        for file in self.store.files("_log"):
            if file.name.endswith(".json") and file.name[:-5].isdigit():
                self._read(int(file.name[:-5]))
        if pointer := self.pointer():
            self._known.setdefault(pointer, None)
        self._is_listed = True

    def _read(self, number: int) -> bool:
        """Read one entry; False where there is none."""
        try:
            data = self.store.get(entry_path(number))
        except FileNotFoundError:
            return False
        except OSError:
            data = b""
        self._known[number] = read_entry(number, data)
        return True

    def _remember(self, number: int) -> None:
        self.store.put(LAST, _pointer_bytes(number))

    def pointer(self) -> int | None:
        """The number in `LAST`; None where it is missing or damaged."""
        try:
            data = self.store.get(LAST)
            number = int(data.split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return number if data == _pointer_bytes(number) else None


def _pointer_bytes(number: int) -> bytes:
    text = f"{number:06d}"
    return f"{text} {_check(text)}\n".encode()


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
