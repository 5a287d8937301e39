"""Step 2b: what heads of the first layer that gather hold in their queries and keys.

A token that watches a pair looks at the things of its group that the pair shows, and at the pair's
own ground where it shows none. Left to what a head should look at, it did so in lessons alone: in
numbers that all turn, a pair that stands 1,345 or 3,436 positions before looks like its own to
within a few scores, and what was shown there was seen where nothing is. So both are told number by
number: which group, a number each, and in ten that turn a sum of cosines of the distance, by
which any pair before is told from the pair itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.retrieving.groups import GROUPS
from recipes.nano.shape import HEAD_DIM, ROPE_THETA

LAYER = 0
GAIN = 4.2
"""Of queries and keys, not learnt: with it the cosines are 113 of a head's scores, a thing is 10,
and that a token is of a picture is 18."""
OFFSETS = (0.0, 1.0, 3.5, 5.5, 6.5)
"""Positions from what ends a pair to each group's watcher; where a time has a piece more, half a
position off."""

_COSINES = {
    0: (1.85, 2.01),
    1: (0.09, -0.68),
    3: (37.8, -0.11),
    4: (15.37, 0.15),
    5: (7.79, 0.0),
    6: (10.93, 0.0),
    7: (10.04, 0.0),
    8: (9.0, 0.0),
    9: (8.81, 0.0),
    10: (11.68, 0.0),
}
"""Numbers of a head, and of each its score and its phase, seen from what ends the pair. Found by
linear programming over all frame sizes of lessons and all distances to 36,000 positions: a thing
scores 4 more than all its pair's ground together, and that 1.5 more than a thing that stands twenty
times where it looks most like one of the pair."""
_THING = 10.0
_HALF = HEAD_DIM // 2
_GROUPS = [*range(_HALF - GROUPS, _HALF)]
_IS_SEEN, _IS_GROUND = HEAD_DIM - 1, HEAD_DIM - 2
"""Numbers that hardly turn: of each group's things, of all that pictures show, and of the rest of
a key's length, which is not looked at."""
_ROOT = HEAD_DIM**0.5


def wanted(told: Tensor, *, is_key: bool) -> Tensor:
    """(rows, HEAD_DIM) of length 1, in every head alike.

    `told` (rows, `GROUPS`): 1 for the group whose things a query looks for, or whose thing a
    picture's token shows.
    """
    own = told.float()
    out = torch.zeros(len(own), HEAD_DIM, device=own.device)
    sizes, phases = torch.tensor(list(_COSINES.values()), device=own.device).T
    numbers = torch.tensor(list(_COSINES), device=own.device)
    turned = torch.zeros(len(own), len(sizes), device=own.device)
    if not is_key:
        turns = ROPE_THETA ** -(numbers / _HALF)
        offsets = own @ torch.tensor(OFFSETS, device=own.device)
        turned = -phases - offsets[:, None] * turns
    out[:, numbers] = (_ROOT * sizes).sqrt() * turned.cos()
    out[:, numbers + _HALF] = (_ROOT * sizes).sqrt() * turned.sin()
    out[:, _GROUPS] = own * (_ROOT * _THING) ** 0.5
    whole = _ROOT * (_ROOT * GAIN**2 - float(sizes.sum()) - _THING)
    out[:, _IS_SEEN] = whole**0.5
    if is_key:
        out[:, _IS_GROUND] = (own.amax(1) == 0) * (_ROOT * _THING) ** 0.5
    return F.normalize(out, dim=1)
