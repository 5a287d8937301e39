"""Pictures drawn in a process of their own, ahead of the training: drawing takes as long as
learning from what is drawn.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np
import torch

T = TypeVar("T")
DEPTH = 4
"""Steps that are drawn and wait."""


class DrawnAhead(Generic[T]):
    """What `draw` makes for each step, from a generator that depends on seed and step alone."""

    def __init__(self, draw: Callable[[np.random.Generator], T], seed: int, steps: int) -> None:
        self._draw, self._seed, self._steps = draw, seed, steps
        self._waiting: dict[int, Future[T]] = {}
        # Spawned: a fork would share the training's threads, locked as they happen to be.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, _begin)

    def __enter__(self) -> DrawnAhead[T]:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def step(self, number: int) -> T:
        """What is drawn for a step; steps are asked for in order."""
        for ahead in range(number, min(self._steps, number + DEPTH)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(_drawn, self._draw, self._seed, ahead)
        return self._waiting.pop(number).result()


def _begin() -> None:
    torch.set_num_threads(1)
    # Ctrl-C is for the training, which ends the step at hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _drawn(draw: Callable[[np.random.Generator], T], seed: int, step: int) -> T:
    return draw(np.random.default_rng((seed, step)))
