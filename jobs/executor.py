"""Runs callables over items, and knows nothing about video.

A *tool* is built once per worker (a loaded model, say). A task gets a context: the tool, a way to
stream helper calls a bounded number ahead, and a way to report. The serial executor here is the
debugger's; `dask_executor` has the same face.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from jobs.ahead import ahead

Item = TypeVar("Item")
Result = TypeVar("Result")
Report = dict[str, Any]


class TaskContext(Protocol):
    """What a running task may use."""

    @property
    def tool(self) -> Any:
        """What the executor's `setup` built on this worker."""
        ...

    def stream(
        self, function: Callable[[Item], Result], items: Sequence[Item], lookahead: int
    ) -> Iterator[Result]:
        """`function` over `items` elsewhere, in order, at most `lookahead` finished and unread."""
        ...

    def report(self, message: Report) -> None:
        """Tell whoever started the work how far it is."""
        ...


Task = Callable[[TaskContext, Item], Result]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Item, Result]):
    """How one item ended: a result, or the error that kept it from one."""

    item: Item
    result: Result | None
    error: BaseException | None = None


class WorkerLost(Exception):  # noqa: N818 - what happened to the task, as `Outcome.error`
    """The worker died under a task, each time it was tried."""

    def __init__(self, attempts: int) -> None:
        super().__init__(attempts)
        self.attempts = attempts


class TaskOverdue(Exception):  # noqa: N818
    """A task ran longer than it may, and its worker was killed for it."""

    def __init__(self, limit_s: float) -> None:
        super().__init__(limit_s)
        self.limit_s = limit_s


class Executor(Protocol):
    """Starts tasks and hands back outcomes as they come."""

    def run(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        on_report: Callable[[Report], None],
    ) -> Iterator[Outcome[Item, Result]]: ...

    def describe(self) -> str:
        """Where the work runs, for people."""
        ...

    def close(self) -> None: ...


class SerialContext:
    """A context inside this process: helper calls run in one thread ahead of their reader."""

    def __init__(self, tool: Any, on_report: Callable[[Report], None]) -> None:
        self.tool = tool
        self._on_report = on_report

    def stream(
        self, function: Callable[[Item], Result], items: Sequence[Item], lookahead: int
    ) -> Iterator[Result]:
        return ahead(lambda: map(function, items), lookahead)

    def report(self, message: Report) -> None:
        self._on_report(message)


class SerialExecutor:
    """Everything in this process, one item after the other."""

    def __init__(self, setup: Callable[[], Any]) -> None:
        self._setup = setup

    def run(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        on_report: Callable[[Report], None],
    ) -> Iterator[Outcome[Item, Result]]:
        context = SerialContext(self._setup(), on_report)
        for item in items:
            yield _attempt(task, context, item)

    def describe(self) -> str:
        return "this process"

    def close(self) -> None:
        """Nothing is held."""


def _attempt(task: Task[Item, Result], context: TaskContext, item: Item) -> Outcome[Item, Result]:
    try:
        return Outcome(item, task(context, item))
    except Exception as error:  # noqa: BLE001 - one bad item never stops its neighbours
        return Outcome(item, None, error)
