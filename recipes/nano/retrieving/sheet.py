"""Step 2: one row under construction, and the names of what its tokens should know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

Encode = Callable[[str], list[int]]

LETTERS, CLOCK, THING, NAMED, SEEN, EARLIER, CHANGED = range(7)
COMING, GOING, NEXT_COMING, NEXT_GOING = range(7, 11)
"""What tokens are asked to know; NAMED: a thing, behind the first layer already. Of the tokens that
watch pairs: things SEEN in the pair and in the one EARLIER (36 × 0 or 1, and whether each head has
seen none: all that a token knows is read by its share, so all should know equally much), CHANGED
(36 that come, 36 that go), and for what is COMING when the same thing had last gone, for what is
GOING when it had come (pieces of times, each 0 or 1). Answers' tokens know the same of what they
look for NEXT.
"""
NOTHING = 0
"""Column that is looked at where no place tells an answer: the prompt's first token."""


@dataclass(slots=True)
class Sheet:
    """One row under construction: a video and questions behind it."""

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    """Pair of each token of the video, −1 before it, −2 − k in question k."""
    labels: dict[int, int] = field(default_factory=dict)
    also: list[tuple[int, int]] = field(default_factory=list)
    """(column, token): tokens that are as right as the label. Left out, the loss is mostly about
    which of two right times was drawn, and a mixture of both, which is a third, costs little."""
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    """(row, column, token) where the places that tell an answer tell different tokens: the one that
    each tells. Read from all of them at once, a third is said."""
    nears: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    """(row, column, token, column, token): what two pairs, one behind the other, would tell a row
    that answers a time, whatever they show: what is read from both is to be one of these."""
    weights: dict[int, float] = field(default_factory=dict)
    looks: list[tuple[int, int, int, list[int]]] = field(default_factory=list)
    """(layer, head, row, columns): where a head should look, at any of them."""
    links: list[tuple[int, bool, int, dict[int, int]]] = field(default_factory=list)
    """(head, whether as key, column, what is not 0): what a head that links events holds; see
    `links.wanted`."""
    gathers: list[tuple[int, bool, int, dict[int, int]]] = field(default_factory=list)
    """The same of a head that gathers; see `gathers.wanted`."""
    befores: list[tuple[int, bool, int, dict[int, int]]] = field(default_factory=list)
    """The same of a head that looks at the pair before; see `befores.wanted`."""
    knows: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    """(column, what, classes): what a token should know before the last layer."""
    exempt: list[tuple[int, list[int]]] = field(default_factory=list)
    """(row, columns): what is not made louder for a row that asks."""
    holds: dict[int, int] = field(default_factory=dict)
    """LETTERS or THING: as loud as these, for each column that holds more than ground."""
    crowds: list[tuple[int, list[int], float]] = field(default_factory=list)
    """(row, columns, n): each column counts n-fold for the row."""
    hidden: list[tuple[int, int | None]] = field(default_factory=list)
    """(column, row): what only that one row sees, if any, and its own pair."""

    def say(self, ids: list[int], at: int, owner: int) -> int:
        """Text from position `at`; returns the next position."""
        self.ids += ids
        self.positions += [(at + k, at + k, at + k) for k in range(len(ids))]
        self.owner += [owner] * len(ids)
        return at + len(ids)
