"""What befell a unit outside its own code, as the error that its rows tell: who acts, and how."""

from __future__ import annotations

from collections.abc import Callable

from jobs.children import CallLost, Cause
from jobs.executor import TaskOverdue, WorkerLost
from schemas.errors import InputError, LongtakeError, TransientError
from schemas.job import ClusterSpec

DECODING = ("decode_failed", "no_frame", "decoder_crashed", "time_limit", "decode_memory")
"""Reasons that tell of a video's pictures and not of the file as a whole."""


def poison_error(uri: str, spec: ClusterSpec, lost: CallLost) -> LongtakeError:
    """A video that takes its decoder down, as the error of that video alone."""
    return _BY_CAUSE[lost.cause](uri, spec, f"tried {lost.attempts} times")


def _crashed(uri: str, _spec: ClusterSpec, tried: str) -> LongtakeError:
    return InputError(
        f"{uri} crashes its decoder ({tried}); convert it, or leave it out.",
        reason="decoder_crashed",
    )


def _too_slow(uri: str, spec: ClusterSpec, tried: str) -> LongtakeError:
    return InputError(
        f"{uri} keeps its decoder busy for more than {spec.decode_limit_s:g} s a chunk ({tried}); "
        "convert it, or raise cluster.decode_limit_s and do it again.",
        reason="time_limit",
    )


def _too_large(uri: str, spec: ClusterSpec, tried: str) -> LongtakeError:
    return InputError(
        f"{uri} takes more than {spec.decode_memory_mib} MiB to decode ({tried}); convert it, or "
        "raise cluster.decode_memory_mib and do it again.",
        reason="decode_memory",
    )


def _killed(uri: str, _spec: ClusterSpec, tried: str) -> LongtakeError:
    return TransientError(
        f"{uri} was not decoded: the system killed its decoder, as it does when memory runs out "
        f"({tried}); run the same command again, with fewer decode workers.",
        reason="decoder_killed",
    )


_BY_CAUSE: dict[Cause, Callable[[str, ClusterSpec, str], LongtakeError]] = {
    "crashed": _crashed,
    "killed": _killed,
    "time_limit": _too_slow,
    "memory": _too_large,
}


def loss_error(uri: str, error: BaseException | None) -> LongtakeError:
    """A unit that came back without rows, as an error of ours."""
    if isinstance(error, LongtakeError):
        return error
    if isinstance(error, TaskOverdue):
        return TransientError(
            f"{uri} was not finished within {error.limit_s:g} s and its worker was ended; raise "
            "cluster.unit_limit_s, or choose a clip of it.",
            reason="unit_time_limit",
        )
    if isinstance(error, WorkerLost):
        return TransientError(
            f"{uri} was not finished: the worker that held it died (tried {error.attempts} times); "
            "run the same command again, with fewer workers if memory was short.",
            reason="worker_died",
        )
    return TransientError(
        f"{uri} was not finished: the worker that held it failed ({type(error).__name__}); run "
        "the same command again, with fewer workers if memory was short.",
        reason="model_failed",
    )
