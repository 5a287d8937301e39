"""Distances at which pairs look alike. A head of the second layer knows a pair by where it
stands, in numbers that all turn; a long video has a pair at every distance and a lesson hardly any.
A code was taken for one of the same pair because it stood 1,456 positions before. So the worst
distances are computed from the head's own queries and keys, and lessons stand so far apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from recipes.nano.next.batch import Lesson
from recipes.nano.next.decoder import Watched
from recipes.nano.next.shape import FAR, HEAD_DIM
from recipes.nano.next.sheet import NOTHING

EVERY, KEPT, COUNT = 100, 6, 300
"""Steps after which distances are sought again, how many finds are in use at once, and how many
distances each has."""
NEAREST = 10
"""Positions from a pair to the next one, at least."""
WATCHED = (1, 0)
"""Layer and head that joins what one pair shows, or looks at the pair before."""

_MOST_ROWS = 64


@dataclass(slots=True)
class Alike:
    """Distances by the kind of lesson that they were found in, the newest last."""

    found: dict[str, list[tuple[int, list[int]]]] = field(default_factory=dict)
    """(step at which they were found, distances)."""

    def add(self, kind: str, step: int, distances: list[int]) -> None:
        # One more than is in use: lessons are drawn ahead of the find that they come behind.
        self.found[kind] = [*self.found.get(kind, [])[-KEPT:], (step, distances)]

    def is_due(self, kind: str, step: int) -> bool:
        """Whether nothing was found yet since the last step that `EVERY` divides."""
        found = self.found.get(kind)
        return not found or found[-1][0] // EVERY < step // EVERY

    def known(self, kind: str, step: int) -> list[int]:
        """What a lesson of `step` uses: finds before the last step that `EVERY` divides, so that
        what a step learns from does not depend on how far ahead it is drawn."""
        found = self.found.get(kind, [])
        old = [distances for when, distances in found if when // EVERY < step // EVERY]
        return [distance for distances in old[-KEPT:] for distance in distances]


def alike_distances(
    watched: list[Watched], lesson: Lesson, inv_freq: Tensor, count: int = COUNT
) -> list[int]:
    """The `count` distances in positions at which the watched head comes nearest to taking a pair
    that stands so far before for the one it should look at. Rows of answers are left out: they look
    at their question.
    """
    layer, head = WATCHED
    query, key = watched[layer].q, watched[layer].k
    (look,) = (one for one in lesson.looks if (one.layer, one.head) == WATCHED)
    # The prompt's first token stands for nothing.
    of_row, wanted = look.wanted
    columns = torch.full_like(look.of, NOTHING).index_put((of_row,), wanted)
    is_single = of_row.bincount(minlength=len(columns)) == 1
    is_meant = is_single & (columns != NOTHING) & (look.at < lesson.tail)
    rows = is_meant.nonzero()[:_MOST_ROWS, 0]
    if not len(rows):
        return []
    of, at, columns = look.of[rows], look.at[rows], columns[rows]
    own, theirs = query[of, head, at].detach().float(), key[of, head, columns].detach().float()
    # Moved by d positions, the score is a sum of cosines and sines of d.
    half = HEAD_DIM // 2
    a, b = own[:, :half], own[:, half:]
    c, d = theirs[:, :half], theirs[:, half:]
    even, odd = (a * c + b * d).mean(0), (a * d - b * c).mean(0)
    distances = torch.arange(FAR, dtype=torch.float64, device=own.device)
    angles = distances[:, None] * inv_freq.double()
    scores = angles.cos() @ even.double() + angles.sin() @ odd.double()
    scores[:NEAREST] = -torch.inf
    return sorted(scores.topk(count).indices.tolist())
