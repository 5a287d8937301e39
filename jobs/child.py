"""The other end of `children`: takes calls from a socket, one after the other, until it is closed.

Promises to die with its parent and to stay inside the memory that a call was given.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import psutil

from schemas.errors import LongtakeError

_PR_SET_PDEATHSIG = 1
_THREAD_BYTES = 128 * 1024**2
"""Address space that a thread's stack and heap may reserve and never touch."""


def serve(handle: int, parent: int) -> None:
    """Answer calls on socket `handle` until the parent closes it."""
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(handle) as line, contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, item, memory_bytes = line.recv()
            line.send(("begun", None))
            line.send(_answer(function, item, memory_bytes))


def _answer(function: Callable[[Any], Any], item: Any, memory_bytes: int) -> tuple[str, Any]:
    try:
        with _bounded(memory_bytes):
            return "result", function(item)
    except MemoryError:
        return "memory", None
    except LongtakeError as error:
        return "error", error
    except Exception as error:  # noqa: BLE001 - its text may hold addresses, its class may not pickle
        return "error", RuntimeError(f"{type(error).__name__} in {function!r}")


@contextlib.contextmanager
def _bounded(memory_bytes: int) -> Iterator[None]:
    """No more address space than `memory_bytes` beside what is there and what threads reserve."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    threads = _THREAD_BYTES * (os.cpu_count() or 1)
    room = psutil.Process().memory_info().vms + memory_bytes + threads
    if soft != resource.RLIM_INFINITY:
        room = min(room, soft)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _die_with(parent: int) -> None:
    """Ask the kernel for a kill when the parent goes; elsewhere the closed socket ends an idle
    child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
