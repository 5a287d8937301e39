"""Step 3: how far events lie apart, rewritten in the heads that link them.

Lessons told these heads a sum of cosines (`links.COSINES`) that rises here and there: from 7,700
to 8,900 positions by 3.5, where scores are off by 1, so that in a long video an event before the
last was linked. `distances` found a better one behind training. All watchers hold the cosines
alike, each in two numbers of a head, so another sum is a product of these.
"""

from __future__ import annotations

import math

from torch import Tensor

from recipes.nano.retrieving import links
from recipes.nano.shape import HEAD_DIM, HEADS

COSINES = {
    5: (0.59, -1.39),
    6: (0.92, -0.11),
    7: (1.75, 0.44),
    8: (6.96, 1.27),
    9: (24.71, 0.98),
    10: (24.48, 0.84),
    11: (21.28, 1.04),
    12: (18.99, 1.98),
}
"""As `links.COSINES`. They fall by 80 from 50 to 14,000 positions, but hardly from 6,000 to 7,600,
and rise by 29 from 14,600 to 20,000, where links are rare; where scores are off by 1, 2 or 4,
another event scores more than the last one in 0.3, 1.3 or 5.7 % of the links in drawn videos."""
_HALF = HEAD_DIM // 2


def relinked(decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """A decoder's weights by name, (out, in) of projections, with `COSINES` in place of
    `links.COSINES`: as long as before within a head, and louder by what is beside it."""
    out, louder = dict(decoder), _total(COSINES) / _total(links.COSINES)
    for part in "qk":
        prefix = f"layers.{links.LAYER}.self_attn.{part}_"
        rows = decoder[f"{prefix}proj.weight"].float().unflatten(0, (HEADS, HEAD_DIM))
        gains = decoder[f"{prefix}norm.weight"].float().clone()
        turned = rows.clone()
        for number, (size, phase) in COSINES.items():
            source = number if number in links.COSINES else max(links.COSINES)
            own_size, own_phase = links.COSINES[source]
            ratio = math.sqrt(size / own_size / louder)
            angle = phase - own_phase if part == "q" else 0.0
            cos, sin = ratio * math.cos(angle), ratio * math.sin(angle)
            x, y = rows[:, source], rows[:, source + _HALF]
            turned[:, number] = cos * x - sin * y
            turned[:, number + _HALF] = sin * x + cos * y
            gains[[number, number + _HALF]] *= math.sqrt(louder)
        out[f"{prefix}proj.weight"] = turned.flatten(0, 1)
        out[f"{prefix}norm.weight"] = gains
    return out


def _total(cosines: dict[int, tuple[float, float]]) -> float:
    return sum(size for size, _ in cosines.values())
