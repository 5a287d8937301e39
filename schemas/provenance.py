"""What made a set of rows: settings, model, versions, commit. Written to OUT/job.json.

The job's units are in it, so that `status` and `retry` need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class UnitFacts:
    """One video of a job, as it stood when the run began."""

    uri: str
    place: str
    answers: dict[str, str]
    """What names each answer by content, by query id."""
    seconds: float
    """Length of the video by its header where it was still to be read, else 0."""


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
    folder: str
    """Working folder, where relative paths of the job start."""
    started_at: str
    """When the last run began: UTC, ISO 8601."""
    units: tuple[UnitFacts, ...]
