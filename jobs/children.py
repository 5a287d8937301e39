"""Calls that may crash, hang or eat memory, each in a child process that can be killed.

Promises that nothing a call does reaches its caller: a crash, a loop that never lets go of the
interpreter or a memory bomb costs the child alone, and the caller gets `CallLost`. Costs one idle
process per caller, 0.4 s to start one, and a copy of each result through a socket.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal, TypeVar

import psutil

Item = TypeVar("Item")
Result = TypeVar("Result")
Cause = Literal["crashed", "killed", "time_limit", "memory"]

WATCH_EVERY_S = 0.05
"""How often a running call is looked at; what a memory bomb takes between two looks is kept in
bounds by the child's own address space."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call may take."""

    wall_s: float = 600.0
    memory_bytes: int = 4 * 1024**3
    attempts: int = 2
    """Children that a call may lose before it is given up."""


START_S = 120.0
"""Longest time from a call to its beginning: the child's start and its imports."""


class CallLost(Exception):  # noqa: N818 - nothing is wrong with the caller
    """A call took its child with it, every time it was tried."""

    def __init__(self, cause: Cause, attempts: int) -> None:
        super().__init__(cause, attempts)
        self.cause = cause
        self.attempts = attempts


class Unwanted(Exception):  # noqa: N818
    """Nobody waits for the result any more."""


class Child:
    """One child process, started when it is first needed and again after it was lost."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Connection | None = None

    def call(
        self,
        function: Callable[[Item], Result],
        item: Item,
        limits: Limits,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> Result:
        """`function(item)` in the child; its own exceptions are raised here. Raises CallLost, or
        Unwanted as soon as `is_wanted` says no."""
        for attempt in range(1, limits.attempts + 1):
            cause, answer = self._try(function, item, limits, is_wanted)
            if cause is None:
                result: Result = _unpacked(answer)
                return result
            self.close()
            if attempt == limits.attempts:
                raise CallLost(cause, attempt)
        raise ValueError(f"limits.attempts is {limits.attempts}; a call is tried once or more.")

    def warm(self, module: str) -> None:
        """Start a process where there is none, with a module imported, and do not wait for it."""
        if self._process is None:
            self._process, self._line = _start(module)

    def close(self) -> None:
        """Kill the child, and whatever it started."""
        if self._process is None or self._line is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._line.close()
        self._process = self._line = None

    def _try(
        self,
        function: Callable[[Item], Result],
        item: Item,
        limits: Limits,
        is_wanted: Callable[[], bool],
    ) -> tuple[Cause | None, Any]:
        process, line = self._ready()
        try:
            line.send((function, item, limits.memory_bytes))
            # The child says when it has begun: imports are not the call's time.
            for wall_s in (START_S, limits.wall_s):
                if cause := self._watch(process, line, replace(limits, wall_s=wall_s), is_wanted):
                    return cause, None
                kind, value = line.recv()
        except (EOFError, OSError):
            # Killed from outside, as the system does when memory runs out, or by its own fault.
            return ("killed" if process.wait() == -signal.SIGKILL else "crashed"), None
        return ("memory" if kind == "memory" else None), (kind, value)

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        line: Connection,
        limits: Limits,
        is_wanted: Callable[[], bool],
    ) -> Cause | None:
        """Wait for an answer; the limit that was passed, if one was."""
        deadline = time.monotonic() + limits.wall_s
        while not line.poll(WATCH_EVERY_S):
            if time.monotonic() > deadline:
                return "time_limit"
            if _resident_bytes(process.pid) > limits.memory_bytes:
                return "memory"
            if not is_wanted():
                self.close()
                raise Unwanted
        return None

    def _ready(self) -> tuple[subprocess.Popen[bytes], Connection]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # Lost between two calls: no call is to blame.
        if self._process is None or self._line is None:
            self._process, self._line = _start()
        return self._process, self._line


def _unpacked(answer: tuple[str, Any]) -> Any:
    kind, value = answer
    if kind == "error":
        raise value
    return value


@contextlib.contextmanager
def one_child() -> Iterator[Child]:
    """A child for the length of a block."""
    child = Child()
    try:
        yield child
    finally:
        child.close()


def _start(module: str = "jobs.child") -> tuple[subprocess.Popen[bytes], Connection]:
    ours, theirs = socket.socketpair()
    with theirs:
        # The same modules as here, whatever put them in reach.
        code = (
            f"import sys; sys.path[:] = {sys.path!r}\n"
            f"import {module}\n"
            f"from jobs.child import serve; serve({theirs.fileno()}, {os.getpid()})"
        )
        process = subprocess.Popen(  # noqa: S603 - our own module in our own interpreter
            [sys.executable, "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A group of its own: Ctrl-C is for the parent, and a kill takes grandchildren too.
            start_new_session=True,
        )
    return process, Connection(ours.detach())


def _resident_bytes(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0  # Gone: the socket says so.
