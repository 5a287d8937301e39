"""Tools and tasks that other processes import."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._poison import hold_interpreter, take_memory
from jobs.executor import TaskContext
from schemas.errors import ConfigError

PAYLOAD_BYTES = 2_000_000


class Tool:
    """Counts how often it was built in its process."""

    built = 0

    def __init__(self) -> None:
        Tool.built += 1
        self.number = Tool.built
        self.process = os.getpid()


def broken_tool() -> Tool:
    raise ConfigError("the model is missing; name another.")


class OffTheLoop:
    """Makes a tool; says no where it is read in the thread that sends a worker's heartbeats."""

    def __reduce__(self) -> tuple[Callable[[], OffTheLoop], tuple[()]]:
        return OffTheLoop.read, ()

    @classmethod
    def read(cls) -> OffTheLoop:
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            raise ConfigError("read in the event loop.")
        return cls()

    def __call__(self) -> Tool:
        return Tool()


def falling_tool(marks: str) -> None:
    """Never gets made: ends its process."""
    leave_mark(marks)
    os.kill(os.getpid(), signal.SIGKILL)


def double(number: int) -> tuple[int, int]:
    return 2 * number, os.getpid()


def payload(number: int) -> npt.NDArray[np.uint8]:
    return np.full(PAYLOAD_BYTES, number, dtype=np.uint8)


def leave_mark(path: str) -> None:
    with Path(path).open("ab") as file:
        file.write(b"x")


def sum_task(context: TaskContext, numbers: Sequence[int]) -> dict[str, Any]:
    """Streams helper calls, reports, and tells where everything ran."""
    if 13 in numbers:
        raise ValueError("thirteen")
    total, processes = 0, set()
    for doubled, process in context.stream(double, list(numbers), lookahead=2):
        total += doubled
        processes.add(process)
        context.report({"total": total})
    return {
        "total": total,
        "tool": context.tool.number,
        "own": os.getpid(),
        "helpers": processes,
    }


def payload_task(context: TaskContext, count: int) -> int:
    return sum(int(array[0]) for array in context.stream(payload, list(range(count)), lookahead=2))


def ahead_task(context: TaskContext, path: str) -> int:
    """The most helper results that were made and not yet read, while reading is slow."""
    most = 0
    for read, _ in enumerate(context.stream(leave_mark, [path] * 12, lookahead=2), start=1):
        time.sleep(0.05)  # Time in which a stream without a bound would run far ahead.
        most = max(most, Path(path).stat().st_size - read)
    return most


def number_mark(call: tuple[str, int]) -> None:
    """Leaves its number, and takes as long as others need to queue up."""
    path, number = call
    with Path(path).open("ab") as file:
        file.write(bytes([number]))
    time.sleep(0.02)


def order_task(context: TaskContext, path: str) -> list[int]:
    """The order in which helper calls ran, many of them waiting at a time."""
    for _ in context.stream(number_mark, [(path, number) for number in range(24)], lookahead=8):
        pass
    return list(Path(path).read_bytes())


def exit_task(_: TaskContext, item: tuple[int, str]) -> int:
    """Number 1 leaves a mark and ends its process."""
    number, path = item
    if number == 1:
        leave_mark(path)
        time.sleep(0.1)  # Until it is known that the task has begun.
        os._exit(9)
    return number


def stuck_task(_: TaskContext, item: tuple[int, str]) -> int:
    """Number 1 leaves a mark and holds its interpreter for ever."""
    number, path = item
    if number == 1:
        leave_mark(path)
        hold_interpreter()
    return number


def swelling_task(_: TaskContext, item: tuple[int, str]) -> int:
    """Number 1 leaves a mark and takes memory until it is stopped."""
    number, path = item
    if number == 1:
        leave_mark(path)
        take_memory()
    return number
