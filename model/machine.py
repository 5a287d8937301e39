"""How many bytes a process may still plan with on this machine. Imports no torch.

Promises the smaller of what the system has and what the process's container allows: inside a
container the system's own figure is the host's. Costs a few small files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class _Names:
    """One generation of control groups: its folder under the root, and its files."""

    mount: str
    limit: str
    used: str
    cache: str
    """The line of memory.stat that counts file cache the kernel gives back at once."""


_V2 = _Names("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file")
_V1 = _Names(
    "sys/fs/cgroup/memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
)


def available_bytes() -> int:
    """Bytes of main memory that this process may still take, container limits included."""
    free = psutil.virtual_memory().available
    return max(0, min([free, *container_rooms()]))


def container_rooms(root: Path = Path("/")) -> list[int]:
    """What each control group around this process still allows, in bytes; empty: no limit.

    `root` is the file system's root, which a test replaces.
    """
    rooms = [_room(folder, names) for folder, names in _groups(root)]
    return [room for room in rooms if room is not None]


def _groups(root: Path) -> Iterator[tuple[Path, _Names]]:
    """The process's memory groups with all their parents: each may set a limit."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            names = _V2
        elif "memory" in controllers.split(","):
            names = _V1
        else:
            continue
        mount = root / names.mount
        own = mount / path.lstrip("/")
        # A path from outside the container does not exist here; the mount itself still does.
        yield from ((at, names) for at in (own, *own.parents) if at.is_relative_to(mount))


def _room(folder: Path, names: _Names) -> int | None:
    """Limit minus use, file cache that can be given back not counted as used."""
    limit, used = _read(folder / names.limit).strip(), _read(folder / names.used).strip()
    if not (limit.isdecimal() and used.isdecimal()):
        return None  # `max`, or no such group
    return int(limit) - int(used) + _cache(folder, names)


def _cache(folder: Path, names: _Names) -> int:
    for line in _read(folder / "memory.stat").splitlines():
        name, _, count = line.partition(" ")
        if name == names.cache and count.isdecimal():
            return int(count)
    return 0


def _read(path: Path) -> str:
    """A small file's text; empty where the system has no such file."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
