"""Answers in the making, side by side: one forward a round for all of them.

An answer is written as a generator: it yields what it wants to look at and is sent what was seen,
so its own code reads as if it were alone. A finished one leaves and makes room for the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from model.lanes import Lanes, Step
from model.memory import MAX_READS
from schemas.ports import MAX_TOGETHER


@dataclass(frozen=True, slots=True)
class Look:
    """Tokens to run on a lane, and what to see behind them."""

    step: Step
    allowed: bytes | None = None
    """One bit per token, lowest first: what may come next. None: anything."""
    given: tuple[tuple[int, int], ...] = ()
    """(position among those read, token) pairs to be scored. Where there are none, the likeliest
    token behind the last position is chosen."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One token, with its natural-log probability among what was allowed."""

    token: int
    logprob: float


T = TypeVar("T")
Making = Generator[list[Look], list[list[Seen]], T]
"""An answer in the making: yields looks, is sent what each of them saw, returns the answer."""


def run_together(lanes: Lanes, makings: Iterable[Making[T]]) -> list[T]:
    """Run all to their ends, at most `MAX_TOGETHER` at once; the answers in the order given."""
    waiting, group = deque(enumerate(makings)), _Group[T]()
    try:
        while waiting or group.asking:
            while waiting and len(group.asking) < MAX_TOGETHER:
                number, making = waiting.popleft()
                group.go_on(number, making)
            numbers = group.first_to_fit()
            seen = iter(_see(lanes, [look for n in numbers for look in group.asking[n][1]]))
            for number in numbers:
                making, looks = group.asking.pop(number)
                group.go_on(number, making, [next(seen) for _ in looks])
    finally:
        for making, _ in group.asking.values():
            making.close()  # frees its lanes
    return [group.made[number] for number in sorted(group.made)]


class _Group(Generic[T]):
    """The answers that are being made, those that wait longest first, and those that are done."""

    def __init__(self) -> None:
        self.asking: dict[int, tuple[Making[T], list[Look]]] = {}
        self.made: dict[int, T] = {}

    def go_on(self, number: int, making: Making[T], seen: list[list[Seen]] | None = None) -> None:
        """Start an answer, or tell it what it saw."""
        try:
            looks = next(making) if seen is None else making.send(seen)
        except StopIteration as stop:
            self.made[number] = stop.value
        else:
            self.asking[number] = (making, looks)

    def first_to_fit(self) -> list[int]:
        """Whose looks go into this round: in order of waiting, within `MAX_READS`."""
        numbers: list[int] = []
        reads = 0
        for number, (_, looks) in self.asking.items():
            wanted = sum(look.step.read for look in looks)
            if not numbers or reads + wanted <= MAX_READS:
                numbers.append(number)
                reads += wanted
        return numbers


def _see(lanes: Lanes, looks: Sequence[Look]) -> list[list[Seen]]:
    """Run all looks in one forward and read them with one softmax."""
    if not looks:
        return []
    logits = torch.cat(lanes.run([look.step for look in looks]))
    if any(look.allowed is not None for look in looks):
        logits = logits.masked_fill(~_allowed(looks, logits), -torch.inf)
    # Probabilities among what the grammar allows: how sure the model is of this answer rather
    # than of another one that could have been given here.
    scores = torch.log_softmax(logits, dim=-1)
    likeliest: list[int] = scores.argmax(dim=-1).tolist()
    cells: list[list[tuple[int, int]]] = []
    start = 0
    for look in looks:
        last = start + look.step.read - 1
        given = [(start + position, token) for position, token in look.given]
        cells.append(given or [(last, likeliest[last])])
        start = last + 1
    rows, tokens = zip(*(cell for own in cells for cell in own), strict=True)
    values = iter(scores[list(rows), list(tokens)].tolist())
    return [[Seen(token, next(values)) for _, token in own] for own in cells]


def _allowed(looks: Sequence[Look], logits: Tensor) -> Tensor:
    """(rows, vocabulary) bool: what may come behind each position that is read."""
    count, vocab = logits.shape
    mask = np.ones((count, vocab), dtype=bool)
    row = -1
    for look in looks:
        row += look.step.read
        if look.allowed is not None:
            words = np.frombuffer(look.allowed, dtype=np.uint8)
            mask[row] = np.unpackbits(words, count=vocab, bitorder="little")
    return torch.from_numpy(mask).to(logits.device)
