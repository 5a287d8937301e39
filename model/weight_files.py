"""What is known of a checkpoint's weights without reading them: names, digests, tensor shapes.

A folder's files are hashed and their headers read; the hub tells the same without a download.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from schemas.errors import ConfigError

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One safetensors file."""

    name: str
    sha256: str
    """Digest of its bytes, hex."""
    shapes: Mapping[str, tuple[int, ...]]
    """Shape of every tensor in it."""


def read_weight_files(folder: Path) -> tuple[WeightFile, ...]:
    """The safetensors of a folder, by name. Raises ConfigError where they are not whole.

    Costs one pass over their bytes, once per process.
    """
    files = sorted(folder.glob("*.safetensors"))
    check_names(folder, [path.name for path in files])
    return tuple(WeightFile(path.name, digest_file(path), _read_shapes(path)) for path in files)


def check_names(folder: Path, names: Iterable[str]) -> None:
    """Every file that the folder's index lists must be among `names`, and there must be one."""
    present = set(names)
    if not present:
        pickles = list(folder.glob("*.bin")) + list(folder.glob("*.pt"))
        given = "pickled weights only, which can run code" if pickles else "no weights"
        raise ConfigError(
            f"{folder} holds {given}; *.safetensors are read. Convert or download them."
        )
    index = folder / INDEX
    if not index.is_file():
        return
    listed = {str(name) for name in read_object(index).get("weight_map", {}).values()}
    if missing := sorted(listed - present):
        raise ConfigError(f"{folder} lacks {', '.join(missing)}; finish the download.")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ConfigError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no JSON object; download the checkpoint again.")
    return found


def digest_file(path: Path) -> str:
    """SHA-256 of a file, hex."""
    stat = path.stat()
    return _digest(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _digest(path: Path, mtime_ns: int, size: int) -> str:  # noqa: ARG001 - part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, path.stat().st_size)))
        return {
            name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        raise ConfigError(
            f"{path} is no readable safetensors file; download the checkpoint again."
        ) from None
