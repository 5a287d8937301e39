"""Where answers meet the model: numbered forks of one filled session, run side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """Tokens to append to one lane, and how many of its last positions are read."""

    lane: int
    ids: list[int]
    read: int = 1


class Lanes(Protocol):
    """Forks of one filled session, by number; each is one answer in the making."""

    def fork(self, capacity: int, lane: int | None = None) -> int:
        """A new lane of up to `capacity` tokens behind the session, or behind `lane`, which must
        not grow while its forks are in use."""
        ...

    def run(self, steps: Sequence[Step]) -> list[Tensor]:
        """Append each step's ids to its lane in one forward; for each step (read, vocabulary)
        float32 logits behind its last `read` tokens."""
        ...

    def drop(self, lane: int) -> None:
        """Free a lane."""
        ...
