"""What is left of a job against what it may cost, before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from jobs.manifest import Unit
from jobs.start import careful_probe
from pipeline.windows import plan_windows
from schemas.errors import ConfigError, LongtakeError
from schemas.job import JobSpec
from schemas.media import StreamIndex, VideoSource
from schemas.ports import ModelFacts, PromptCounter


def check_limits(
    job: JobSpec,
    pending: Sequence[Unit],
    seconds: Mapping[str, float],
    facts: ModelFacts,
    counter: PromptCounter,
) -> None:
    """Refuse to start what would cost more than the job allows. Raises ConfigError.

    `seconds` is the length of each pending video, by unit key. A limit on tokens costs a probe of
    every pending video.
    """
    limits = job.limits
    readable = [unit for unit in pending if unit.problem is None]
    if limits.max_hours is not None:
        hours = sum(seconds[unit.key] for unit in readable) / 3600
        if hours > limits.max_hours:
            raise ConfigError(
                f"{len(readable)} videos of {hours:.2f} hours are left to read and "
                f"limits.max_hours is {limits.max_hours:g}; raise it, or name fewer videos."
            )
    if limits.max_tokens is not None:
        with careful_probe(job.cluster) as probe:
            tokens = sum(count_tokens(unit, job, facts, counter, probe) for unit in readable)
        if tokens > limits.max_tokens:
            raise ConfigError(
                f"{len(readable)} videos of {tokens:,} tokens are left to read and "
                f"limits.max_tokens is {limits.max_tokens:,}; raise it, lower sampling.fps, or "
                "name fewer videos."
            )


def count_tokens(
    unit: Unit,
    job: JobSpec,
    facts: ModelFacts,
    counter: PromptCounter,
    probe: Callable[[VideoSource, str], StreamIndex],
) -> int:
    """Tokens of a unit's session with its questions; 0 where it cannot be planned and so is not
    read."""
    try:
        index = probe(unit.source, unit.video_id)
        windows = plan_windows(index, unit.wanted.own_job(job), facts, counter)
        return sum(window.plan.total_tokens for window in windows)
    except LongtakeError:
        return 0
