"""What runs inside a Dask worker: the tool, a running task's context, and its helper calls.

A worker keeps the tool it used last, so that the next job on the same cluster finds it warm. Helper
calls run in child processes (`children`); results go from worker to worker, and the scheduler sees
their names only.
"""

from __future__ import annotations

import asyncio
import platform
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Worker, get_client, get_worker, wait
from distributed.protocol import pickle
from distributed.utils import sync

from jobs.children import CallLost, Child, Limits, Unwanted
from jobs.cluster import DECODE, MODEL
from jobs.executor import Item, Report, Result, Task
from jobs.likeness import differences, installation
from schemas.errors import LongtakeError, ResourceError

LOOK_EVERY_S = 1.0
"""How often a task that waits asks whether it is still wanted."""
BEGUN = "longtake-begun"
"""A report with this key says that a run has begun, for the executor alone."""
_IDLE: list[Child] = []
"""Children that no thread uses now; there are never more than calls run at once."""
_TOOLS: dict[str, Any] = {}
_TOOLS_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a worker is told with every task of one batch."""

    tool_name: str
    maker: bytes
    """What makes the tool, pickled: reading it imports the engine, minutes on a cold disk. Where
    Dask read it, heartbeats would wait for that; decode workers never read it."""
    installation: dict[str, str]
    """The client's own; a worker that differs takes no work."""
    limits: Limits
    topic: str
    """Where reports of this batch go."""
    decoders: tuple[str, ...] = ()
    """Workers that helper calls go to."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker says of itself when it is asked to get ready."""

    roles: frozenset[str]
    problem: str = ""
    """Why it takes no work, as a sentence; empty where it is ready."""
    error: LongtakeError | None = None
    """What building the tool raised."""


async def get_ready(ticket: Ticket, dask_worker: Worker) -> Answer:
    """Compare this worker with the client and build its tool, in a thread: heartbeats go on."""
    roles = frozenset(dask_worker.state.total_resources) & {MODEL, DECODE}
    try:
        if other := differences(ticket.installation, installation()):
            where = f"the worker {dask_worker.address} on {platform.node()}"
            return Answer(roles, f"{where} has {other}; install the same there.")
        if MODEL in roles:
            await asyncio.to_thread(_tool, ticket)
    except LongtakeError as error:
        return Answer(roles, error.message, error)
    except Exception as error:  # noqa: BLE001 - any failure to get ready ends here
        where = f"the worker {dask_worker.address} could not get ready"
        return Answer(
            roles,
            f"{where} ({type(error).__name__}: {error}); run `longtake doctor` there to see what "
            "that machine has.",
        )
    return Answer(roles)


def _tool(ticket: Ticket) -> Any:
    with _TOOLS_LOCK:
        if ticket.tool_name not in _TOOLS:
            _TOOLS.clear()  # One model in memory; a task that runs with another one keeps its own.
            _TOOLS[ticket.tool_name] = pickle.loads(ticket.maker)()
        return _TOOLS[ticket.tool_name]


def run_task(task: Task[Item, Result], item: Item, ticket: Ticket, run_id: int) -> Result:
    """One task on a model worker."""
    context = DaskContext(ticket)
    context.report_at_once({BEGUN: run_id})
    return task(context, item)


def run_helper(function: Callable[[Item], Result], item: Item, ticket: Ticket) -> Result:
    """One helper call on a decode worker, in a child of it. Raises CallLost."""
    if other := differences(ticket.installation, installation()):
        raise ResourceError(f"a decode worker on {platform.node()} has {other}.")
    try:
        child = _IDLE.pop()
    except IndexError:
        child = Child()
    try:
        result = child.call(function, item, ticket.limits, _Wanted())
    except CallLost:
        # Neighbours take the children that are warm meanwhile.
        child.warm(function.__module__)
        _IDLE.insert(0, child)
        raise
    except BaseException:
        _IDLE.append(child)
        raise
    _IDLE.append(child)
    return result


class _Wanted:
    """Is this thread's task still wanted? False once it was cancelled or the worker is closing."""

    def __init__(self) -> None:
        self._worker = get_worker()
        self._key = self._worker.get_current_task()

    def __call__(self) -> bool:
        state = self._worker.state.tasks.get(self._key)
        is_open = self._worker.status.name in ("running", "paused", "closing_gracefully")
        return is_open and state is not None and state.state in ("executing", "long-running")


class DaskContext:
    """A context inside a model worker."""

    def __init__(self, ticket: Ticket) -> None:
        self._ticket = ticket
        self._worker = get_worker()
        self._is_wanted = _Wanted()

    @property
    def tool(self) -> Any:
        return _tool(self._ticket)

    def stream(
        self, function: Callable[[Item], Result], items: Sequence[Item], lookahead: int
    ) -> Iterator[Result]:
        client = get_client()
        waiting: deque[Any] = deque()
        rest = iter(items)
        try:
            while True:
                # One more than the look-ahead: the one being read no longer waits.
                while len(waiting) <= lookahead and (item := next(rest, _END)) is not _END:
                    waiting.append(self._submit(client, function, item))
                if not waiting:
                    return
                future = waiting.popleft()
                result = self._result(future)
                future.release()
                yield result
        finally:
            client.cancel(list(waiting))

    def _submit(self, client: Any, function: Callable[[Item], Result], item: Any) -> Any:
        return client.submit(
            run_helper,
            function,
            item,
            self._ticket,
            key=f"longtake-helper-{uuid.uuid4().hex}",
            pure=False,
            # First come, first served: calls of one task are all alike to Dask otherwise, and the
            # one that is waited for would often be run last.
            priority=-time.time(),
            resources={DECODE: 1},
            workers=list(self._ticket.decoders) or None,
            # Where all of them are gone, one that came later will do.
            allow_other_workers=bool(self._ticket.decoders),
        )

    def _result(self, future: Any) -> Any:
        while not future.done():
            if not self._is_wanted():
                raise Unwanted
            try:
                wait([future], timeout=LOOK_EVERY_S)
            except TimeoutError:
                continue
        return future.result()

    def report_at_once(self, message: Report) -> None:
        """Report, and go on when the scheduler has it: what follows may never let go of Python."""
        scheduler = self._worker.scheduler
        sync(self._worker.loop, scheduler.log_event, topic=self._ticket.topic, msg=message)

    def report(self, message: Report) -> None:
        if not self._is_wanted():
            raise Unwanted
        self._worker.log_event(self._ticket.topic, message)


_END: Any = object()
