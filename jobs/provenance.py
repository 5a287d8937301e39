"""Job + checkpoint → Provenance: asks the installation and the checkout what they are."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.audit import job_digest
from pipeline.store import Store
from schemas.errors import ConfigError
from schemas.job import JobSpec, read_job
from schemas.needle import NeedleSpec
from schemas.ports import ModelFacts
from schemas.provenance import Provenance, UnitFacts

JOB_FILE = "job.json"
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


def machine_text() -> str:
    """Operating system and processor family."""
    return f"{platform.system()} {platform.machine()}"


def gather_provenance(
    job: JobSpec | NeedleSpec, facts: ModelFacts, folder: Path, units: Iterable[UnitFacts]
) -> Provenance:
    """Everything that makes the rows of this run."""
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
        machine=machine_text(),
        folder=str(folder),
        started_at=datetime.now(UTC).isoformat(),
        units=tuple(units),
    )


def job_id(job: JobSpec | NeedleSpec) -> str:
    """The job's name with a short digest of everything it says."""
    text = json.dumps(job.model_dump(mode="json"), sort_keys=True)
    return f"{job.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def write_provenance(store: Store, provenance: Provenance) -> None:
    """Put it at OUT/job.json, whole, with its own digest in it."""
    facts = json.loads(json.dumps(asdict(provenance)))
    text = json.dumps({**facts, "sha256": job_digest(facts)}, indent=1) + "\n"
    store.put(JOB_FILE, text.encode())


def read_provenance(store: Store) -> Provenance:
    """What the last run wrote. Raises ConfigError where it cannot be read."""
    try:
        facts = json.loads(store.get(JOB_FILE))
        digest = facts.pop("sha256")
        if digest != job_digest(facts):
            raise ValueError("the digest is another one")
        units = tuple(UnitFacts(**unit) for unit in facts.pop("units"))
        return Provenance(**facts, units=units)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(
            f"{JOB_FILE} of {store} is missing or damaged; run the job's own command again, which "
            "writes it anew."
        ) from None


def job_of(made: Provenance) -> JobSpec:
    """The job of a run, as a job file would say it. Raises ConfigError."""
    if "lengths" in made.job:
        raise ConfigError(
            "this output is a needle evaluation's; run its own `longtake needle` command again, "
            "which asks what is missing or failed."
        )
    return read_job(_said(made.job), where=JOB_FILE)


def _said(value: Any) -> Any:
    """A resolved job without what says nothing: a file could not say an empty list of options."""
    if isinstance(value, dict):
        kept = {name: _said(inner) for name, inner in value.items()}
        return {name: inner for name, inner in kept.items() if inner not in (None, [], {})}
    return [_said(inner) for inner in value] if isinstance(value, list) else value


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
