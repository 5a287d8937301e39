"""Which unit runs on which worker, and how often: the client's side of a batch, as plain state.

Promises that a worker holds one unit at a time, so that when it dies the one to blame is known;
that a unit is given up after `attempts` lost workers; that suspects go last, behind neighbours.
Knows no cluster and no clock: both are told.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt at one item on one worker."""

    id: int
    number: int
    """Which item, by its place in the batch."""
    worker: str
    attempt: int
    had_pass: bool
    """A worker was lost before this item had begun on it: that excuse is used up."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    attempt: int = 1
    had_pass: bool = False


class Placement:
    """The items of one batch that wait and that run."""

    def __init__(self, count: int, *, attempts: int = 2) -> None:
        self._attempts = attempts
        self._ids = itertools.count()
        self._waiting = deque(_Waiting(number) for number in range(count))
        self._running: dict[int, Run] = {}
        self._begun_s: dict[int, float] = {}
        """When the running items that have begun did so, on the caller's clock."""

    @property
    def is_done(self) -> bool:
        return not self._waiting and not self._running

    @property
    def running(self) -> tuple[Run, ...]:
        return tuple(self._running.values())

    def start(self, workers: Collection[str]) -> list[Run]:
        """Give the next item to each worker that has none."""
        busy = {run.worker for run in self._running.values()}
        started = []
        for worker in sorted(set(workers) - busy):
            if not self._waiting:
                break
            item = self._waiting.popleft()
            run = Run(next(self._ids), item.number, worker, item.attempt, item.had_pass)
            self._running[run.id] = run
            started.append(run)
        return started

    def begin(self, run_id: int, now_s: float) -> None:
        """The worker says that it has begun; it may have been busy with another client's work."""
        if run_id in self._running:
            self._begun_s[run_id] = now_s

    def end(self, run_id: int) -> Run | None:
        """A run came to its end; None where it was taken back before."""
        self._begun_s.pop(run_id, None)
        return self._running.pop(run_id, None)

    def worker_died(self, run: Run) -> bool:
        """Try the item again: last of all where it may be to blame, next where it had not begun.

        False: no attempt is left. An item that ends its worker before it can say that it has begun
        looks innocent, so that counts once only.
        """
        had_begun = run.id in self._begun_s
        self.end(run.id)
        if not had_begun and not run.had_pass:
            self._waiting.appendleft(_Waiting(run.number, run.attempt, had_pass=True))
            return True
        if run.attempt >= self._attempts:
            return False
        self._waiting.append(_Waiting(run.number, run.attempt + 1, run.had_pass))
        return True

    def take_back_all(self) -> None:
        """All runs were lost with the scheduler: they are next, their attempts as they were."""
        for run in sorted(self._running.values(), key=lambda run: run.id, reverse=True):
            self._waiting.appendleft(_Waiting(run.number, run.attempt, run.had_pass))
        self._running.clear()
        self._begun_s.clear()

    def lost(self, workers: Collection[str]) -> list[Run]:
        """Runs whose worker is not among `workers` any more."""
        return [run for run in self._running.values() if run.worker not in workers]

    def overdue(self, now_s: float, limit_s: float) -> list[Run]:
        """Runs that began longer ago than the limit."""
        return [
            self._running[i] for i, begun_s in self._begun_s.items() if now_s - begun_s > limit_s
        ]
