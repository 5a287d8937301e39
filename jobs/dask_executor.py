"""The same executor on a Dask cluster. The client decides what runs where and how often
(`placement`); the scheduler only carries it out, so that it may die and come back.

Model workers hold the tool and run tasks; decode workers run the helper calls that tasks stream.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distributed.protocol import pickle

from jobs.children import Limits
from jobs.cluster import DECODE, MODEL, Cluster
from jobs.crew import Crew
from jobs.dask_context import BEGUN, Answer, Ticket, get_ready, run_task
from jobs.executor import Item, Outcome, Report, Result, Task, TaskOverdue, WorkerLost
from jobs.likeness import installation
from jobs.placement import Placement, Run
from schemas.errors import LongtakeError, ResourceError

PREFLIGHT_S = 30.0
"""Longest wait for a worker of each role before anything starts."""
CONNECT_S = 10.0
"""Longest wait for a scheduler to answer, the first time."""
LOOK_EVERY_S = 0.5
"""How often the client asks which workers there are."""
_KILL_S = 20
_NOT_THE_TASK = ("KilledWorker", "Unwanted", "FutureCancelledError", "CancelledError")
"""Errors that tell of the workers around a task and not of the task."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what is missing or slow is waited for, in seconds."""

    back_s: float = 120.0
    """For a scheduler that was lost, and for the last worker of a role."""
    task_s: float = 86_400.0
    """For one task, before its worker is killed."""


class DaskExecutor:
    """Tasks on the workers of a cluster, one on each model worker at a time."""

    def __init__(
        self,
        make_tool: Callable[[], Any],
        cluster: Cluster,
        *,
        limits: Limits | None = None,
        patience: Patience | None = None,
        on_notice: Callable[[str], None] = lambda _sentence: None,
    ) -> None:
        self._cluster = cluster
        self._patience = patience or Patience()
        self._on_notice = on_notice
        maker = pickle.dumps(make_tool)
        self._ticket = Ticket(
            tool_name=hashlib.sha256(maker).hexdigest(),
            maker=maker,
            installation=installation(),
            limits=limits or Limits(),
            topic=f"longtake-{uuid.uuid4().hex}",
        )
        self._news: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        """Things that other threads found out, to be done in the caller's."""
        try:
            self._client = cluster.connect(CONNECT_S)
            self._gather_crew(PREFLIGHT_S)
            self._check_refusals()
        except BaseException:
            self.close()
            raise

    @property
    def client(self) -> Any:
        return self._client

    def describe(self) -> str:
        return self._cluster.describe(self._client)

    def close(self) -> None:
        if (client := getattr(self, "_client", None)) is not None:
            _leave(client)
        self._cluster.close()

    def run(
        self,
        task: Task[Item, Result],
        items: Sequence[Item],
        on_report: Callable[[Report], None],
    ) -> Iterator[Outcome[Item, Result]]:
        batch = _Batch(task, items, Placement(len(items)), on_report)
        self._listen(batch)
        self._crew.whole_s = time.monotonic()
        next_look_s = 0.0
        try:
            while not batch.places.is_done:
                if time.monotonic() >= next_look_s:
                    yield from self._look(batch)
                    next_look_s = time.monotonic() + LOOK_EVERY_S
                self._start(batch)
                ended = self._wait_for_news(batch, next_look_s)
                # The next task is on its way before the caller writes down this one's rows.
                self._start(batch)
                yield from ended
        finally:
            self._drop(batch, batch.places.running)

    def _listen(self, batch: _Batch) -> None:
        def on_event(event: tuple[float, Report]) -> None:
            _, report = event
            if BEGUN in report:
                self._news.put(lambda: batch.places.begin(report[BEGUN], time.monotonic()))
            else:
                batch.on_report(report)

        self._client.subscribe_topic(self._ticket.topic, on_event)

    def _start(self, batch: _Batch) -> None:
        for run in batch.places.start(self._crew.with_role(MODEL)):
            future = self._client.submit(
                run_task,
                batch.task,
                batch.items[run.number],
                replace(self._ticket, decoders=tuple(self._crew.with_role(DECODE))),
                run.id,
                key=f"longtake-task-{uuid.uuid4().hex}",
                pure=False,
                # To this worker and no other: a scheduler would try it elsewhere without telling.
                workers=[run.worker],
                allow_other_workers=False,
                resources={MODEL: 1},
            )
            batch.futures[run.id] = future
            future.add_done_callback(partial(self._on_done, batch, run))

    def _on_done(self, batch: _Batch, run: Run, _future: Any) -> None:
        self._news.put(lambda: batch.ended.append(run))

    def _hear_news(self, within_s: float) -> None:
        """Do what other threads found out: wait for the first of it, then take all there is."""
        with contextlib.suppress(queue.Empty):
            self._news.get(timeout=max(0.0, within_s))()
            while True:
                self._news.get_nowait()()

    def _wait_for_news(self, batch: _Batch, until_s: float) -> list[Outcome[Any, Any]]:
        self._hear_news(until_s - time.monotonic())
        outcomes = []
        while batch.ended:
            run = batch.ended.pop()
            if run.id in batch.futures and (outcome := self._collect(batch, run)):
                outcomes.append(outcome)
        return outcomes

    def _collect(self, batch: _Batch, run: Run) -> Outcome[Any, Any] | None:
        """A finished run's outcome; None where it is tried again or its end is not known yet."""
        future = batch.futures[run.id]
        if future.status not in ("finished", "error"):
            return None  # Its worker or the scheduler is gone; the next look tells which.
        error = future.exception() if future.status == "error" else None
        if type(error).__name__ in _NOT_THE_TASK:
            return self._worker_died(batch, run)
        try:
            result = None if error is not None else future.result(timeout=LOOK_EVERY_S)
        except Exception:  # noqa: BLE001 - the result died with its worker, or is late: look again
            return None
        batch.places.end(run.id)
        batch.futures.pop(run.id).release()
        return Outcome(batch.items[run.number], result, error)

    def _worker_died(self, batch: _Batch, run: Run) -> Outcome[Any, Any] | None:
        self._drop(batch, [run])
        if batch.places.worker_died(run):
            return None
        return Outcome(batch.items[run.number], None, WorkerLost(run.attempt))

    def _drop(self, batch: _Batch, runs: Sequence[Run]) -> None:
        """Let the cluster forget what is no longer waited for."""
        futures = [batch.futures.pop(run.id) for run in runs if run.id in batch.futures]
        if futures and self._client.status == "running":
            self._client.cancel(futures)

    def _look(self, batch: _Batch) -> Iterator[Outcome[Any, Any]]:
        """See who is there; take back, give up or kill what must be."""
        self._hear_news(0)
        lost = any(future.cancelled() for future in batch.futures.values())
        if lost or not self._see_crew():
            self._come_back(batch)
        for run in batch.places.lost(set(self._crew.ready)):
            if outcome := self._worker_died(batch, run):
                yield outcome
        for run in batch.places.overdue(time.monotonic(), self._patience.task_s):
            batch.places.end(run.id)
            self._drop(batch, [run])
            self._kill(run.worker)
            yield Outcome(batch.items[run.number], None, TaskOverdue(self._patience.task_s))
        # Callbacks come once; a result that was lost and made again has no other way to say so.
        batch.ended += [r for r in batch.places.running if batch.futures[r.id].done()]
        self._crew.check(self._patience.back_s)

    def _see_crew(self) -> bool:
        """Bring the crew up to date and greet newcomers. False: the scheduler is lost."""
        if self._client.status != "running":
            return False
        try:
            # Asked directly: what the client keeps is written over by a refresh that names nobody.
            known = self._client.sync(self._client.scheduler.identity, n_workers=-1)
        except (OSError, TimeoutError, ValueError):
            return False
        if self._client.status != "running":
            return False
        present = set(known["workers"])
        self._crew.keep(present)
        for worker in self._crew.unknown(present):
            self._crew.asked.add(worker)
            _aside(self._ask, self._client, worker)
        return True

    def _ask(self, client: Any, worker: str) -> None:
        """In a thread: a model may take minutes to load."""
        lost_s = None
        while worker in self._crew.asked and client.status == "running":
            try:
                answer = client.run(get_ready, self._ticket, workers=[worker])[worker]
            except OSError as error:
                # It died, which a look will tell, or only the line did.
                lost_s = lost_s or time.monotonic()
                if time.monotonic() - lost_s < PREFLIGHT_S:
                    time.sleep(LOOK_EVERY_S)
                    continue
                answer = Answer(
                    frozenset(),
                    f"the scheduler knows the worker {worker} and cannot reach it "
                    f"({type(error).__name__}); start it with an address that is open to it.",
                )
            except Exception as error:  # noqa: BLE001 - it cannot even read the call
                answer = Answer(
                    frozenset(),
                    f"the worker {worker} did not understand what it was asked "
                    f"({type(error).__name__}); start it with `longtake worker` of this version.",
                )
            self._news.put(partial(self._hear, worker, answer))
            return

    def _hear(self, worker: str, answer: Answer) -> None:
        if worker not in self._crew.asked:
            return  # It is gone, or the scheduler that knew it is.
        self._crew.asked.discard(worker)
        if answer.problem:
            self._crew.refused[worker] = answer
            self._on_notice(answer.problem)
        else:
            self._crew.ready[worker] = answer.roles

    def _kill(self, worker: str) -> None:
        """End a worker's process, whatever it is doing; its nanny starts another."""
        self._crew.condemned.add(worker)
        _aside(self._client.restart_workers, [worker], _KILL_S, False)

    def _gather_crew(self, within_s: float) -> None:
        """Wait until there is a worker of each role, and every one there has answered.

        Raises ResourceError where some role has none in time.
        """
        self._crew = Crew()
        while self._see_crew():
            self._hear_news(0.1)
            self._crew.check(within_s)
            if self._crew.asked:
                continue
            if not self._crew.missing:
                break
            self._check_refusals()

    def _check_refusals(self) -> None:
        """Before the start every worker must be alike; later ones are only left out."""
        for answer in self._crew.refused.values():
            if answer.error is not None:
                raise answer.error
            raise ResourceError(answer.problem, reason="unlike_worker")

    def _come_back(self, batch: _Batch) -> None:
        """The scheduler is lost: find it again, and give every running item to a worker anew."""
        batch.places.take_back_all()
        batch.futures.clear()
        self._on_notice("The scheduler is lost; waiting for it to come back.")
        deadline_s = time.monotonic() + self._patience.back_s
        while True:
            _leave(self._client)
            try:
                left_s = max(LOOK_EVERY_S, deadline_s - time.monotonic())
                self._client = self._cluster.connect(min(CONNECT_S, left_s))
                self._gather_crew(max(PREFLIGHT_S, deadline_s - time.monotonic()))
            except ResourceError:
                if not self._cluster.can_return or time.monotonic() > deadline_s:
                    raise
                time.sleep(LOOK_EVERY_S)
            else:
                break
        self._listen(batch)


@dataclass(slots=True)
class _Batch:
    """One call of `run`."""

    task: Task[Any, Any]
    items: Sequence[Any]
    places: Placement
    on_report: Callable[[Report], None]
    futures: dict[int, Any] = field(default_factory=dict)
    """By run id."""
    ended: list[Run] = field(default_factory=list)


def _aside(function: Callable[..., Any], *arguments: Any) -> None:
    """Call it in a thread that nobody waits for, not even the end of the process."""

    def work() -> None:
        with contextlib.suppress(OSError, TimeoutError, RuntimeError):
            function(*arguments)

    threading.Thread(target=work, name="longtake-aside", daemon=True).start()


def _leave(client: Any) -> None:
    with contextlib.suppress(OSError, TimeoutError, LongtakeError):
        client.close(timeout=2)
