"""Are two processes alike? What an installation is, and the sentence that says where two differ."""

from __future__ import annotations

import functools
import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

from jobs.provenance import library_versions, longtake_version

_PACKAGES = ("schemas", "pipeline", "model", "jobs")


@functools.cache
def installation() -> dict[str, str]:
    """Everything installed here that can change a row: Python, our code, the libraries."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "longtake": f"{longtake_version()} (code {_code_digest()})",
        **library_versions(),
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """`torch 2.12 instead of 2.13, …`; empty where both are alike."""
    names = sorted(set(ours) | set(theirs))
    return ", ".join(
        f"{name} {theirs.get(name, 'missing')} instead of {ours.get(name, 'none')}"
        for name in names
        if theirs.get(name) != ours.get(name)
    )


def _code_digest() -> str:
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
