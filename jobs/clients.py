"""Who else works on an output: leases with a heartbeat, and the word to stop.

A lease is a hint and no lock: whoever ignores it does work twice, and the commit log still takes
one commit per answer. It lets a second client leave alone what the first has in flight, and
`cancel` find whom to ask.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType

import psutil

from pipeline.store import Store

FOLDER = "_log/clients"
BEAT_S = 5.0
DEAD_AFTER_S = 45.0
"""A client of another machine whose heartbeat is older than this is taken for dead."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One running client, as it describes itself."""

    name: str
    host: str
    boot: float
    """When its machine started: a process id means nothing after that."""
    pid: int
    born: float
    """When its process started, seconds since 1970."""
    since: float
    units: tuple[str, ...]
    """Keys of the units it is doing."""

    @property
    def title(self) -> str:
        return f"process {self.pid} on {self.host}"


class Client:
    """This run: holds a lease while it is entered. `on_cancel` is called once, from a thread."""

    def __init__(self, store: Store, on_cancel: Callable[[], None]) -> None:
        self._store = store
        self._on_cancel = on_cancel
        me = psutil.Process()
        self.lease = Lease(
            uuid.uuid4().hex[:12],
            platform.node(),
            psutil.boot_time(),
            os.getpid(),
            me.create_time(),
            time.time(),
            (),
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name="lease", daemon=True)

    def __enter__(self) -> Client:
        self._beat()
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        for suffix in ("json", "beat", "cancel"):
            self._store.delete(_file(self.lease.name, suffix))

    def hold(self, units: Iterable[str]) -> None:
        """Say which units this client does from here on."""
        facts = {**asdict(self.lease), "units": tuple(units)}
        self.lease = Lease(**facts)
        self._write()

    def elders(self) -> list[Lease]:
        """Other clients that live and were here first: they do not wait for this one."""
        mine = (self.lease.since, self.lease.name)
        return [lease for lease in running(self._store) if (lease.since, lease.name) < mine]

    def _write(self) -> None:
        data = json.dumps(asdict(self.lease)).encode()
        self._store.put(_file(self.lease.name, "json"), data)

    def _beat(self) -> None:
        self._store.put(_file(self.lease.name, "beat"), b"")

    def _live(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._store.poll_s):
            # A hint that cannot be given stops no work.
            with suppress(Exception):
                if self._store.has(_file(self.lease.name, "cancel")):
                    self._store.delete(_file(self.lease.name, "cancel"))
                    self._on_cancel()
                if time.monotonic() - last >= BEAT_S:
                    self._beat()
                    last = time.monotonic()


def running(store: Store) -> list[Lease]:
    """Clients that live, oldest first."""
    files = {file.name: file for file in store.files(FOLDER)}
    now = max([time.time(), *(file.modified_s for file in files.values())])
    found = []
    for name in files:
        if not name.endswith(".json"):
            continue
        lease = _read(store, name)
        beat = files.get(name.replace(".json", ".beat"))
        if lease is not None and _lives(lease, now, beat.modified_s if beat else 0.0):
            found.append(lease)
    return sorted(found, key=lambda lease: (lease.since, lease.name))


def ask_to_stop(store: Store) -> list[Lease]:
    """Ask every running client to stop; returns whom. Leases of the dead are removed."""
    asked = running(store)
    for lease in asked:
        store.put(_file(lease.name, "cancel"), b"")
    return asked


def sweep(store: Store) -> None:
    """Remove the leases of clients that died."""
    alive = {lease.name for lease in running(store)}
    for file in store.files(FOLDER):
        if file.name.partition(".")[0] not in alive and not file.is_draft:
            store.delete(file.path)


def _file(name: str, suffix: str) -> str:
    return f"{FOLDER}/{name}.{suffix}"


def _read(store: Store, name: str) -> Lease | None:
    try:
        facts = json.loads(store.get(f"{FOLDER}/{name}"))
        return Lease(**{**facts, "units": tuple(facts["units"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _lives(lease: Lease, now_s: float, beat_s: float) -> bool:
    if lease.host == platform.node() and abs(lease.boot - psutil.boot_time()) < 2:
        try:
            process = psutil.Process(lease.pid)
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            return not is_dead and abs(process.create_time() - lease.born) < 2
        except psutil.Error:
            return False
    # The newest file tells the time on the clock of whoever keeps them, if that runs ahead.
    return now_s - beat_s < DEAD_AFTER_S
