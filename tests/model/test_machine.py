"""Free memory as the container sees it, on made-up trees of control groups."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from model import machine
from model.machine import available_bytes, container_rooms

V2 = Path("sys/fs/cgroup")
V1 = V2 / "memory"


def tree(root: Path, groups: str, files: dict[Path, str]) -> Path:
    """A file system that holds these groups and files."""
    for path, text in {Path("proc/self/cgroup"): groups, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root


def group(folder: Path, limit: str, used: int, cache: int = 0) -> dict[Path, str]:
    """A version 2 group."""
    stat = f"anon 5\nfile {cache + 7}\ninactive_file {cache}\nactive_file 7"
    return {
        folder / "memory.max": limit,
        folder / "memory.current": str(used),
        folder / "memory.stat": stat,
    }


def test_the_own_group_and_its_parents_count(tmp_path: Path) -> None:
    files = group(V2 / "a/b", "1000", 700, cache=50) | group(V2 / "a", "2000", 1900)
    assert container_rooms(tree(tmp_path, "0::/a/b", files)) == [350, 100]


def test_a_group_without_a_limit_allows_everything(tmp_path: Path) -> None:
    files = group(V2 / "a", "max", 700) | group(V2, "900", 200)
    assert container_rooms(tree(tmp_path, "0::/a", files)) == [700]


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    files = group(V2, "1000", 400)
    assert container_rooms(tree(tmp_path / "own", "0::/", files)) == [600]
    # Without a name space of its own the path is the host's, which is not mounted here.
    assert container_rooms(tree(tmp_path / "host", "0::/docker/f00", files)) == [600]


def test_version_1(tmp_path: Path) -> None:
    files = {
        V1 / "box/memory.limit_in_bytes": "1000",
        V1 / "box/memory.usage_in_bytes": "900",
        V1 / "box/memory.stat": "inactive_file 1\ntotal_inactive_file 300",
        V1 / "memory.limit_in_bytes": "9223372036854771712",
        V1 / "memory.usage_in_bytes": "0",
    }
    root = tree(tmp_path, "5:cpu,cpuacct:/box\n4:memory:/box\n0::/", files)
    assert container_rooms(root) == [400, 9223372036854771712]


@pytest.mark.parametrize("groups", ["", "0::/a", "nonsense", "4:cpu:/a"])
def test_a_machine_without_limits(tmp_path: Path, groups: str) -> None:
    assert container_rooms(tree(tmp_path, groups, {})) == []


def test_no_such_files_at_all(tmp_path: Path) -> None:
    assert container_rooms(tmp_path) == []


@pytest.mark.parametrize(
    ("rooms", "expected"), [([], 500), ([900], 500), ([90, 70], 70), ([-5], 0)]
)
def test_the_tightest_limit_decides(
    monkeypatch: pytest.MonkeyPatch, rooms: list[int], expected: int
) -> None:
    memory = psutil.virtual_memory()._replace(available=500)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(machine, "container_rooms", lambda: rooms)
    assert available_bytes() == expected
