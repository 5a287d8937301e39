"""Lanes of a model that wants to say what it was told to, whatever it is fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.lanes import Step
from tests.model.tiny import VOCAB, small_tokenizer


def encode(text: str) -> list[int]:
    return list(small_tokenizer().encode(text, add_special_tokens=False).ids)


@dataclass
class Lane:
    """What one lane wants, behind `num_prompt` tokens, and what it was fed."""

    num_prompt: int
    wanted: list[int]
    capacity: int
    fed: list[int] = field(default_factory=list)
    forks: int = 0


class ScriptedLanes:
    """Each lane behind the session follows the next script: (tokens of its prompt, wanted ids).

    A fork of a lane goes on where that lane stands. Strength of a wish: e^5 against each rival.
    """

    def __init__(self, *scripts: tuple[int, list[int]]) -> None:
        self._scripts = iter(scripts)
        self.lanes: dict[int, Lane] = {}
        self.rounds: list[list[Step]] = []
        """Steps of every forward."""
        self.alive: list[int] = []
        """How many lanes there were at every forward."""
        self.all: list[Lane] = []

    def fork(self, capacity: int, lane: int | None = None) -> int:
        if lane is None:
            made = Lane(*next(self._scripts), capacity)
        else:
            above = self.lanes[lane]
            above.forks += 1
            made = Lane(above.num_prompt - len(above.fed), above.wanted, capacity)
        self.all.append(made)
        self.lanes[len(self.all)] = made
        return len(self.all)

    def run(self, steps: Sequence[Step]) -> list[Tensor]:
        assert steps, "a forward without tokens"
        assert len({step.lane for step in steps}) == len(steps), "one step a lane"
        self.rounds.append(list(steps))
        self.alive.append(len(self.lanes))
        return [self._run(step) for step in steps]

    def _run(self, step: Step) -> Tensor:
        lane = self.lanes[step.lane]
        assert not lane.forks, "it grew behind its forks"
        lane.fed += step.ids
        assert 0 < step.read <= len(step.ids)
        assert len(lane.fed) <= lane.capacity
        logits = torch.zeros(step.read, VOCAB)
        for row in range(step.read):
            said = len(lane.fed) - step.read + row + 1 - lane.num_prompt
            if 0 <= said < len(lane.wanted):
                logits[row, lane.wanted[said]] = 5.0
        return logits

    def drop(self, lane: int) -> None:
        del self.lanes[lane]
