"""The name of an output → where it is kept: a folder, or an object store if it is a URL."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from pipeline.store import FolderStore, Store
from schemas.errors import ConfigError

SCHEMES = ("s3", "gs", "az")


def open_store(output: str) -> Store:
    """Where an output is kept. Raises ConfigError for a URL that none can be at."""
    scheme, is_url, _ = output.partition("://")
    if not is_url:
        return FolderStore(Path(output))
    if scheme not in SCHEMES:
        raise ConfigError(
            f"output {output} is of no kind that can be written; give a folder, or a URL of "
            f"{', '.join(f'{name}://' for name in SCHEMES)}."
        )
    if importlib.util.find_spec("obstore") is None:
        raise ConfigError(
            f"output {output} needs a package that is not installed: pip install 'longtake[cloud]'."
        )
    store: Store = importlib.import_module("pipeline.object_store").open_url(output)
    return store
