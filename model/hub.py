"""Hub id → a folder, whole or without its weights. Imports no torch.

Promises no pickles, and for a plan no weights either: their shapes come from the files' headers
and their digests from the hub's own records, so that the model has one name before and after the
download. A snapshot that lies whole in the hub's cache is used as it is, without a look-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub

from model.weight_files import WeightFile, check_names, digest_file
from schemas.errors import LongtakeError, ResourceError

T = TypeVar("T")
_SMALL = ("*.json", "*.txt", "*.jinja")
_FILES = (*_SMALL, "*.safetensors")


def cached_folder(name: str) -> Path | None:
    """The snapshot of a hub id in the local cache; None where it is not there or not whole."""
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=list(_FILES), local_files_only=True
            )
        )
        check_names(folder, [path.name for path in folder.glob("*.safetensors")])
    except Exception:  # noqa: BLE001 - whatever is wrong with the cache, the hub has it right
        return None
    is_whole = all((folder / file).is_file() for file in ("config.json", "tokenizer.json"))
    return folder if is_whole else None


def fetch(name: str) -> Path:
    """The folder of a hub id, downloaded as far as it is not here. Raises ResourceError."""
    return _reach(name, lambda: _download(name, _FILES))


def describe(name: str) -> tuple[Path, tuple[WeightFile, ...]]:
    """A folder with everything but the weights, and what the weights are.

    Raises ConfigError where there are none to read, ResourceError where the hub is out of reach.
    """
    return _reach(name, lambda: _describe(name))


def _describe(name: str) -> tuple[Path, tuple[WeightFile, ...]]:
    info = huggingface_hub.model_info(name, files_metadata=True)
    # Subfolders hold other formats of the same weights.
    weights = sorted(
        (
            file
            for file in info.siblings or []
            if file.rfilename.endswith(".safetensors") and "/" not in file.rfilename
        ),
        key=lambda file: file.rfilename,
    )
    # The hub keeps the SHA-256 of large files only; what is not large is fetched and hashed here.
    little = [file.rfilename for file in weights if file.lfs is None]
    folder = _download(name, (*_SMALL, *little), revision=info.sha)
    check_names(folder, [file.rfilename for file in weights])

    def read(file: Any) -> WeightFile:
        found = huggingface_hub.parse_safetensors_file_metadata(
            name, file.rfilename, revision=info.sha
        )
        shapes = {key: tuple(tensor.shape) for key, tensor in found.tensors.items()}
        sha256 = file.lfs.sha256 if file.lfs else digest_file(folder / file.rfilename)
        return WeightFile(file.rfilename, sha256, shapes)

    with ThreadPoolExecutor(max_workers=8) as pool:
        return folder, tuple(pool.map(read, weights))


def _download(name: str, patterns: Iterable[str], revision: str | None = None) -> Path:
    return Path(
        huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=list(patterns))
    )


def _reach(name: str, call: Callable[[], T]) -> T:
    """What `call` gets from the hub; every error of the hub's client ends as one sentence."""
    try:
        return call()
    except LongtakeError:
        raise
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; all end the same
        raise ResourceError(
            f"model {name!r} is neither a folder here nor reachable on the hub "
            f"({type(error).__name__}); check the name and the network, or copy the checkpoint to "
            "a folder and name that."
        ) from None
