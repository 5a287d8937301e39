"""One worker of a cluster: a nanny around a process, for as long as there is a scheduler.

Promises to outlive its scheduler for a while: when the scheduler goes, the worker's process is
ended, so that nothing of a lost job holds memory, and a new one starts when the scheduler is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dask
from distributed import Nanny
from distributed.comm.core import connect
from distributed.core import Status
from distributed.security import Security

from jobs.cluster import (
    CONFIG,
    DECODE,
    MODEL,
    checked_address,
    is_loopback,
    nanny_options,
    quieten,
)
from schemas.errors import ConfigError, ResourceError

Role = Literal["model", "decode", "both"]
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How `longtake worker` was asked to start."""

    address: str
    role: Role = "both"
    decoders: int = 1
    """Chunks decoded at once, each in a process of its own; a model worker has none."""
    threads: int = 1
    """Threads of the model's arithmetic."""
    memory_limit: str = "0"
    """Of the worker's process, as Dask reads it (`16GiB`, `auto`); 0: none."""
    host: str | None = None
    """Address to listen on; None: loopback beside a loopback scheduler, else the one towards it."""
    name: str | None = None
    insecure: bool = False
    wait_s: float = 300.0
    """How long a missing scheduler is waited for."""


def serve(settings: WorkerSettings, say: Callable[[str], None]) -> None:
    """Work until the scheduler is gone for good or the process is told to stop.

    Raises ConfigError on an unsafe address, ResourceError when no scheduler comes in time.
    """
    quieten()
    address = checked_address(settings.address, insecure=settings.insecure)
    host = _listen_host(settings, address)
    with dask.config.set(CONFIG):
        asyncio.run(_serve(settings, address, host, say))


def resources_of(settings: WorkerSettings) -> dict[str, int]:
    """What the scheduler may count on."""
    model = {} if settings.role == "decode" else {MODEL: 1}
    decode = {} if settings.role == "model" else {DECODE: settings.decoders}
    return model | decode


def _listen_host(settings: WorkerSettings, address: str) -> str | None:
    beside = is_loopback(address.split("://")[1].rpartition(":")[0])
    host = settings.host or ("127.0.0.1" if beside else None)
    encrypted = address.startswith("tls://")
    if host is not None and not is_loopback(host) and not (encrypted or settings.insecure):
        raise ConfigError(
            f"--host {host} can be reached from other machines, and {address} is not encrypted; "
            "use a tls:// address, or --insecure on a network you trust."
        )
    return host


async def _serve(
    settings: WorkerSettings, address: str, host: str | None, say: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    while not stop.is_set():
        await _await_scheduler(address, settings.wait_s, stop)
        if stop.is_set():
            return
        nanny = Nanny(address, **_options(settings, host))
        try:
            await nanny
            say(f"worker {nanny.worker_address} ({settings.role}) at {address}")
            await _until_over(nanny, stop)
        except (OSError, TimeoutError, RuntimeError):
            say(f"the worker did not start; trying {address} again")
            await asyncio.sleep(_LOOK_EVERY_S)
        finally:
            # A worker that is deep in arithmetic does not hear a polite request.
            with contextlib.suppress(OSError, TimeoutError, asyncio.TimeoutError):
                await nanny.close(timeout=2)
        if not stop.is_set():
            say(f"the scheduler at {address} is gone; waiting for it")


def _options(settings: WorkerSettings, host: str | None) -> dict[str, Any]:
    options = nanny_options(
        resources_of(settings),
        maths_threads=settings.threads,
        memory_limit=0 if settings.memory_limit == "0" else settings.memory_limit,
    )
    return options | {
        "host": host,
        "name": settings.name,
        "silence_logs": logging.CRITICAL,
        "death_timeout": 30,
    }


async def _until_over(nanny: Nanny, stop: asyncio.Event) -> None:
    """Until told to stop, or the worker has left a scheduler that it lost."""
    while nanny.status is Status.running and not stop.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), _LOOK_EVERY_S)


async def _await_scheduler(address: str, wait_s: float, stop: asyncio.Event) -> None:
    deadline_s = time.monotonic() + wait_s
    arguments = Security().get_connection_args("worker")
    while not stop.is_set():
        try:
            left_s = max(_LOOK_EVERY_S, deadline_s - time.monotonic())
            comm = await connect(address, timeout=min(5, left_s), **arguments)
        except (OSError, TimeoutError):
            if time.monotonic() > deadline_s:
                raise ResourceError(
                    f"no scheduler answers at {address} after {wait_s:.0f} s; start one with "
                    "`dask scheduler --host HOST --port PORT`.",
                    reason="no_scheduler",
                ) from None
            await asyncio.sleep(_LOOK_EVERY_S)
        else:
            await comm.close()
            return
