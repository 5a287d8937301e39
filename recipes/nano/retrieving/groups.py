"""Step 2b: which of the tokens that watch a pair looks at a thing, and by which head."""

from __future__ import annotations

from functools import cache

from recipes.nano.codes import CLASSES
from recipes.nano.shape import HEADS

GROUPS = 5
"""As many watchers as there are tokens between two pairs that are always there: what ends a pair,
and of the next one's time the opening, the point, the word and what begins its pictures."""


WATCHERS = ("<|vision_end|>", "<", ".", " seconds>", "<|vision_start|>")
"""By group."""


def group_of(thing: int) -> int:
    """Things that share colour or shape are hardly ever of one group."""
    return (thing // 6 + thing % 6) % GROUPS


@cache
def part_of(thing: int) -> int:
    """The head of the first layer by which its group's watcher looks at it, one of at most two."""
    own = [other for other in range(len(CLASSES)) if group_of(other) == group_of(thing)]
    return own.index(thing) % HEADS
