"""Longtake's public face: the few names that a notebook needs.

import longtake
rows = longtake.find("a red circle", ["lecture.mp4"], output="out/red")   # polars data frame
longtake.run("job.yaml")
longtake.read("out/red", "requests")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
from rich.console import Console

from jobs.cli import load_job, query_id
from jobs.run_batch import BatchSummary
from jobs.session import run_job
from jobs.show import EventFilter, open_output, read_frame, select_events
from schemas.errors import (
    ConfigError,
    InputError,
    InvariantError,
    LongtakeError,
    ResourceError,
    TransientError,
)
from schemas.job import JobSpec, read_job

__all__ = [
    "BatchSummary",
    "ConfigError",
    "InputError",
    "InvariantError",
    "JobSpec",
    "LongtakeError",
    "ResourceError",
    "TransientError",
    "find",
    "read",
    "run",
]


def find(
    text: str,
    videos: Sequence[str],
    *,
    output: str = "out/find",
    model: str = "nano",
    executor: str = "serial",
) -> pl.DataFrame:
    """Events of `text` in `videos` as a data frame; their Parquet stays in `output`.

    Raises LongtakeError. Runs in this process; `executor="dask"` starts the embedded cluster, which
    a script must then guard with `if __name__ == "__main__"`.
    """
    job = read_job(
        {
            "name": "find",
            "videos": list(videos),
            "queries": [{"id": query_id(text), "find": text}],
            "model": {"name": model},
            "cluster": {"executor": executor},
            "output": output,
        },
        where="find",
    )
    run_job(job, _quiet())
    return select_events(open_output(output), EventFilter(query=query_id(text)))


def run(job: str | Path | JobSpec) -> BatchSummary:
    """Do a job, or what is left of it. Raises LongtakeError."""
    return run_job(job if isinstance(job, JobSpec) else load_job(str(job)), _quiet())


def read(output: str, table: str = "events") -> pl.DataFrame:
    """One table of an output folder: `events`, `requests` or `videos`; live rows only."""
    return read_frame(open_output(output), table)


def _quiet() -> Console:
    return Console(quiet=True)
