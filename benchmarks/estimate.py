"""What `plan --calibrate` says of the sample job against what the job then takes, and a plan that
has learnt from it: seconds, tokens and bytes of Parquet."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from rich.console import Console

from benchmarks._claim import claim
from jobs.cli import load_job
from jobs.plan_job import JobPlan, plan_job
from jobs.session import run_job
from jobs.show import open_output, plan_total
from sample_media.generate import HERE
from schemas.job import JobSpec


def sample_job(output: Path) -> JobSpec:
    job = load_job(str(HERE / "demo.yaml"))
    # The paths of the file are those of the checkout.
    videos = [
        video.model_copy(update={"uri": str(HERE.parent / video.uri)}) for video in job.videos
    ]
    return job.model_copy(update={"videos": videos, "output": str(output)})


def seconds_of(job: JobSpec) -> float:
    started = time.perf_counter()
    run_job(job, Console(quiet=True))
    return time.perf_counter() - started


def expected_s(planned: JobPlan) -> float:
    print(plan_total(planned.videos, planned.estimate))
    if planned.estimate is None:
        raise SystemExit("nothing was learnt")
    return planned.estimate.seconds


def off(expected: float, taken: float) -> float:
    """How far apart, as a share of what it took."""
    return abs(expected - taken) / taken


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = sample_job(Path(folder) / "first")
        planned = plan_job(job, calibrated=True)
        expected = expected_s(planned)
        taken = seconds_of(job)
        print(f"expected {expected:.1f} s, took {taken:.1f} s")
        log = open_output(job.output)
        entries = log.state().entries
        size = sum(path.stat().st_size for path in Path(job.output).glob("*/*.parquet"))
        planned_size = sum(plan["output_bytes"] for plan in planned.videos)
        planned_tokens = sum(plan["total_tokens"] for plan in planned.videos)
        tokens = sum(entry.tokens for entry in entries)
        print(
            f"{planned_tokens} tokens planned, {tokens} read; {planned_size} bytes, {size} written"
        )
        learnt = plan_job(job)
        again = expected_s(learnt)
        repeated = seconds_of(sample_job(Path(folder) / "second"))
        print(f"after it, expected {again:.1f} s, took {repeated:.1f} s")
    claim("estimate_after_calibration", off(expected, taken), 0.25, at_most=True)
    claim("estimate_after_a_run", off(again, repeated), 0.25, at_most=True)
    claim("tokens_off", abs(planned_tokens - tokens), 0, at_most=True)
    claim("parquet_bytes_off", off(planned_size, size), 0.10, at_most=True)


if __name__ == "__main__":
    main()
