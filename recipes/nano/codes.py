"""The meeting point of seeing and finding: one fixed vector for each thing.

The vision tower learns to put a thing's vector where the thing is; the decoder begins on such
vectors without pictures ("frames in words"), so both learn at the same time and fit when they meet.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recipes.nano.episodes import FeatureCast
from recipes.nano.pictures import CAST_SIZE, CLASSES, GRID_ODDS, GRIDS
from recipes.nano.shape import DEEPSTACK, HIDDEN

CODE_NORM = 2.0


def class_codes() -> Tensor:
    """(classes, hidden): orthogonal rows of length CODE_NORM."""
    generator = torch.Generator().manual_seed(36)
    square = torch.randn(HIDDEN, HIDDEN, generator=generator)
    rows: Tensor = torch.linalg.qr(square).Q[: len(CLASSES)]
    return rows * CODE_NORM


def worded_cast(seed: int, variants: int) -> FeatureCast:
    """A cast whose pictures are vectors with noise: what a perfect tower might give."""
    rng = np.random.default_rng((17, seed))
    codes = class_codes()
    classes = tuple(int(c) for c in rng.choice(len(CLASSES), CAST_SIZE, replace=False))
    if rng.uniform() < 0.5:  # Neighbours that share a colour or a shape.
        base = int(rng.integers(6))
        row = rng.choice(6, CAST_SIZE, replace=False)
        classes = tuple(int(base * 6 + c if seed % 2 else c * 6 + base) for c in row)
    grid = GRIDS[int(rng.choice(len(GRIDS), p=GRID_ODDS))]
    tokens = grid[0] * grid[1]
    subsets = 1 << CAST_SIZE
    main = torch.from_numpy(rng.normal(0, 0.12, (subsets, variants, tokens, HIDDEN))).float()
    for subset in range(subsets):
        for variant in range(variants):
            places = rng.permutation(tokens)[:CAST_SIZE]
            for member, place in enumerate(places):
                if subset >> member & 1:
                    main[subset, variant, place] += codes[classes[member]] * rng.uniform(0.6, 1.2)
                    near = int(rng.integers(tokens))
                    main[subset, variant, near] += codes[classes[member]] * rng.uniform(0, 0.5)
    return classes, grid, [main.half()] + [torch.zeros_like(main).half() for _ in DEEPSTACK]
