"""What is learnt from is drawn in processes of their own, ahead of the training: drawing takes
about as long as learning from what is drawn.
"""

from __future__ import annotations

import gc
import io
import multiprocessing
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Drawn = TypeVar("Drawn")
DEPTH, MOST = 4, 64
"""Steps that are drawn and wait, for each process and in all."""


class DrawnAhead(Generic[Drawn]):
    """What `draw` makes of each step, from a generator that depends on seed and step alone."""

    def __init__(
        self,
        draw: Callable[[np.random.Generator, int], Drawn],
        seed: int,
        steps: int,
        workers: int = 1,
    ) -> None:
        self._seed, self._steps = seed, steps
        self._depth = min(MOST, DEPTH * workers)
        self._waiting: dict[int, Future[bytes]] = {}
        # Spawned: a fork would share the training's threads, locked as they happen to be.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _begin, (draw,))

    def __enter__(self) -> DrawnAhead[Drawn]:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def step(self, number: int) -> Drawn:
        """What is drawn for a step; steps are asked for in order."""
        for ahead in range(number, min(self._steps, number + self._depth)):
            if ahead not in self._waiting:
                self._waiting[ahead] = self._pool.submit(_drawn, self._seed, ahead)
        drawn: Drawn = pickle.loads(self._waiting.pop(number).result())
        return drawn


_draw: Callable[[np.random.Generator, int], Any]


def _begin(draw: Callable[[np.random.Generator, int], Any]) -> None:
    global _draw
    _draw = draw
    torch.set_num_threads(1)
    # A lesson is millions of small parts: looked through for rings again and again, it took three
    # times as long. What a draw leaves is looked through once, behind it.
    gc.freeze()
    gc.disable()
    # Ctrl-C is for the training, which ends the step at hand.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _drawn(seed: int, step: int) -> bytes:
    packed = io.BytesIO()
    _Pickler(packed, 5).dump(_draw(np.random.default_rng((seed, step)), step))
    gc.collect()
    return packed.getvalue()


class _Pickler(pickle.Pickler):
    """Tensors as arrays in one message: left to itself each of a lesson's hundred tensors opens a
    file and a connection."""

    def reducer_override(self, part: Any) -> Any:
        if isinstance(part, Tensor):
            return torch.from_numpy, (part.numpy(),)
        return NotImplemented
