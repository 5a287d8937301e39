"""What made a set of rows: settings, model, versions, commit. Written to OUT/job.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Provenance:
    """Enough to run the same job again and expect the same rows."""

    job: dict[str, Any]
    """The resolved job, defaults filled in."""
    job_id: str
    model_id: str
    model_digest: str
    yarn_factor: float | None
    """Factor by which the model's positions were stretched, if they were."""
    longtake_version: str
    commit: str
    """Commit of the code, empty where it does not run from a checkout."""
    is_dirty: bool
    """The checkout had changes that no commit holds."""
    library_versions: dict[str, str]
    python: str
    machine: str
