"""Step 2b: what heads that link events hold in their queries and keys.

A coming is linked to the last going of the same thing, and a going to the last coming, each by the
head of the thing's part of its group (`groups.part_of`): one head for all would follow one of two
that change at once. Both are told number by number: the thing in numbers that hardly turn, a number
each, and in five that turn a sum of cosines of the distance, by which the last of several events is
told from those before it. Left to what a head should look at, these cosines are not found by
training, and unlearnt.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.codes import CLASSES
from recipes.nano.shape import HEAD_DIM

LAYER = 2
GAIN = 4.63
"""Of queries and keys, not learnt: with it a thing is 95 of a head's scores, the cosines are 65,
and to look at nothing is 45."""
NOTHING_AT, WATCHES_AT = len(CLASSES), len(CLASSES) + 1
"""Stand behind things for what is looked at where there is no earlier event, the prompt's first
token, and for tokens that watch pairs."""
TOLD = len(CLASSES) + 2

COSINES = {
    5: (1.04, -1.42),
    6: (1.99, -0.23),
    7: (4.24, 0.40),
    8: (8.89, 0.86),
    9: (18.88, 0.52),
    10: (29.87, 1.35),
}
"""Numbers of a head, and of each its score and its phase, as lessons tell them; `relink` puts a
better sum in their place. They fall by 73 from 50 to 12,000 positions, and where scores are off by
1, 2 or 4, another event scores more than the last one in 0.8, 1.5 or 5.2 % of the links in drawn
videos."""
_THING, _NOTHING = 95.0, 45.0
_HALF = HEAD_DIM // 2
_SLOW = [*range(_HALF - 19, _HALF), *range(HEAD_DIM - 19, HEAD_DIM)]
"""Numbers that turn by less than a quarter of a radian over 32K tokens: one for each thing, one for
nothing, and one for keys that are not looked at."""
_ROOT = HEAD_DIM**0.5


def wanted(told: Tensor, *, is_key: bool) -> Tensor:
    """(rows, HEAD_DIM) of length 1, in every head alike.

    `told` (rows, `TOLD`): of a query 1 for a thing that comes and −1 for one that goes, of a key
    the opposite, as a projection of a difference has it: so a query scores where the same thing did
    the opposite.
    """
    shown, is_nothing = told[:, :NOTHING_AT].float(), told[:, NOTHING_AT, None].float()
    watches, is_event = told[:, WATCHES_AT, None].float(), shown.abs().amax(1, keepdim=True)
    out = torch.zeros(len(told), HEAD_DIM, device=told.device)
    out[:, _SLOW[:NOTHING_AT]] = shown * (_ROOT * _THING) ** 0.5
    sizes, phases = torch.tensor(list(COSINES.values()), device=told.device).T
    numbers = torch.tensor(list(COSINES), device=told.device)
    turned = torch.zeros_like(phases) if is_key else phases
    out[:, numbers] = watches * (_ROOT * sizes).sqrt() * turned.cos()
    out[:, numbers + _HALF] = watches * (_ROOT * sizes).sqrt() * turned.sin()
    # The rest of a query's length looks at nothing; that of a key is not looked at.
    whole = (_ROOT * GAIN) ** 2
    event_rest = (_ROOT * _NOTHING) ** 2 / whole
    other_rest = whole - watches * _ROOT * sizes.sum()
    rest = (is_event * event_rest + (1 - is_event) * other_rest).sqrt()
    out[:, _SLOW[NOTHING_AT]] = (rest * (is_nothing if is_key else 1 - is_nothing))[:, 0]
    out[:, _SLOW[NOTHING_AT + 1]] = (rest * (1 - is_nothing) * is_key)[:, 0]
    return F.normalize(out, dim=1)
