"""Job + checkpoint → Provenance: asks the installation and the checkout what they are."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from pipeline.parquet import write_whole
from schemas.job import JobSpec
from schemas.ports import ModelFacts
from schemas.provenance import Provenance

LIBRARIES = [
    "torch",
    "transformers",
    "av",
    "numpy",
    "pillow",
    "pyarrow",
    "polars",
    "dask",
    "distributed",
    "llguidance",
]


def library_versions() -> dict[str, str]:
    """Installed version of each library that can change a row."""
    return {name: metadata.version(name) for name in LIBRARIES}


def longtake_version() -> str:
    return metadata.version("longtake")


def gather_provenance(job: JobSpec, facts: ModelFacts) -> Provenance:
    """Everything that made the rows of this run."""
    resolved = job.model_dump(mode="json")
    commit, is_dirty = _checkout()
    return Provenance(
        job=resolved,
        job_id=job_id(job),
        model_id=facts.name,
        model_digest=facts.digest,
        yarn_factor=facts.yarn_factor,
        longtake_version=longtake_version(),
        commit=commit,
        is_dirty=is_dirty,
        library_versions=library_versions(),
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
    )


def job_id(job: JobSpec) -> str:
    """The job's name with a short digest of everything it says."""
    text = json.dumps(job.model_dump(mode="json"), sort_keys=True)
    return f"{job.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Put it at OUT/job.json, whole."""
    write_whole(folder / "job.json", (json.dumps(asdict(provenance), indent=1) + "\n").encode())


def _checkout() -> tuple[str, bool]:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return "", False
    commit = _git(root, "rev-parse", "HEAD")
    return commit, bool(_git(root, "status", "--porcelain"))


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command on our own folder
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()
