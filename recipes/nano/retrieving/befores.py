"""Step 2b: what heads of the second layer that look at the pair before hold in queries and keys.

A token that watches a pair looks at its group's watcher behind the pair before. Left to where it
should look it needed some thousand steps to prefer that one to itself and to those before, and a
lesson's few pairs say little of the thousands in a video. So both are told number by number: which
group, a number each, and in ten that turn a sum of cosines of the distance, highest where the pair
before stands, whatever the frame's size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.codes import class_codes, ground_code, letter_codes
from recipes.nano.retrieving.groups import GROUPS
from recipes.nano.shape import HEAD_DIM

LAYER = 1
HEADS = (0, 2)
GAIN = 4.53
"""Of queries and keys, not learnt."""
NOTHING_AT = GROUPS
"""Stands behind groups for the prompt's first token, at which the first pair's watchers look."""
TOLD = GROUPS + 1

_COSINES = {
    1: (0.034, -2.64),
    2: (0.064, 1.87),
    3: (0.062, 0.94),
    4: (0.025, 0.61),
    5: (0.041, -0.39),
    6: (0.043, -0.65),
    7: (0.042, -0.80),
    8: (0.043, -1.18),
    9: (0.033, -1.18),
    10: (0.110, -1.38),
}
"""Numbers of a head, and of each its share of what scores may add up to, and its phase. Found by
linear programming for pairs of 9 to 24 positions: the watcher before scores 0.05 of it more than
any of its group at another distance up to 36,000 positions, any other watcher and `NOTHING`, which
scores 0.025 more than any watcher of the first pair."""
_GROUP, _NOTHING = 0.159, 0.344
"""Shares of the same: of the right group, and of what every watcher scores less than `NOTHING`."""
_HALF = HEAD_DIM // 2
_GROUPS = [*range(_HALF - GROUPS, _HALF)]
_IS_WATCHER, _IS_NOTHING = HEAD_DIM - 1, HEAD_DIM - 2
"""Numbers that hardly turn: one that all but `NOTHING` lack or have against the query's, and the
rest of the key of `NOTHING`, which is not looked at."""
APART = 8.0
"""Four times what such a token holds at first, which is 2 beside 400 behind the first layer: by
least squares a watcher's group was right in 0.9 of the cases there."""
OTHERS = 0.6
"""Share of length by which keys of other tokens are turned away from watchers' queries."""


def set_apart(embeddings: Tensor, words: list[int]) -> Tensor:
    """(tokens, hidden) with each of `words`, by which groups watch, in a direction of its own: one
    of those that tokens use least of what pictures leave."""
    shown = torch.cat([class_codes(), letter_codes().flatten(0, 1), ground_code()[None]])
    free = torch.linalg.svd(shown).Vh[len(shown) :]
    least = torch.linalg.svd(embeddings @ free.T, full_matrices=False).Vh[-len(words) :] @ free
    out = embeddings.clone()
    out[words] += APART * least
    return out


def wanted(told: Tensor, *, is_key: bool) -> Tensor:
    """(rows, HEAD_DIM) of length 1, in each of `HEADS` alike. `told` (rows, `TOLD`): 1 for the
    group of a watcher, or for `NOTHING`."""
    own = told[:, :GROUPS].float()
    is_nothing = told[:, NOTHING_AT].float()
    watches = 1 - is_nothing
    out = torch.zeros(len(told), HEAD_DIM, device=told.device)
    sizes, phases = torch.tensor(list(_COSINES.values()), device=told.device).T
    numbers = torch.tensor(list(_COSINES), device=told.device)
    turned = torch.zeros_like(phases) if is_key else -phases
    out[:, numbers] = watches[:, None] * sizes.sqrt() * turned.cos()
    out[:, numbers + _HALF] = watches[:, None] * sizes.sqrt() * turned.sin()
    out[:, _GROUPS] = own * _GROUP**0.5
    out[:, _IS_WATCHER] = watches * _NOTHING**0.5 * (-1 if is_key else 1)
    out[:, _IS_NOTHING] = is_nothing
    return F.normalize(out, dim=1)


def turned_away(keys: Tensor) -> Tensor:
    """(rows, HEAD_DIM) of length 1: keys of other tokens, as they are but for what keeps watchers
    from looking at them."""
    out = keys * (1 - OTHERS**2) ** 0.5
    out[..., _IS_WATCHER] = -OTHERS
    return F.normalize(out, dim=-1)
