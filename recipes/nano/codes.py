"""The meeting point of seeing and finding: one fixed vector for each thing.

The vision tower learns to put a thing's vector where the thing is; the decoder begins on such
vectors without pictures ("frames in words"): both learn at the same time and fit when they meet.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pipeline.lettering import ALPHABET, CODE_LENGTH
from pipeline.scenes import COLOURS, SHAPES
from recipes.nano.shape import HIDDEN

CLASSES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]

# What is cached is shared: it is read and never written to.
CODE_NORM = 2.0
GROUND_NORM = 3.0
LETTER_NORM = 1.5


@cache
def class_codes() -> Tensor:
    """(classes, hidden): orthogonal rows of length CODE_NORM."""
    generator = torch.Generator().manual_seed(36)
    square = torch.randn(HIDDEN, HIDDEN, generator=generator)
    codes: Tensor = torch.linalg.qr(square).Q[: len(CLASSES)] * CODE_NORM
    return codes


@cache
def ground_code() -> Tensor:
    """(hidden,): what every visual token holds beside its thing. Without it the decoder's first
    norm would blow the noise of an empty token up to the size of a thing."""
    generator = torch.Generator().manual_seed(36)
    square = torch.randn(HIDDEN, HIDDEN, generator=generator)
    codes: Tensor = torch.linalg.qr(square).Q[len(CLASSES)] * GROUND_NORM
    return codes


@cache
def letter_codes() -> Tensor:
    """(slots, letters, hidden): orthogonal to things, ground and each other, of length LETTER_NORM.

    A code on screen is the sum of its letters' vectors, each in its slot.
    """
    generator = torch.Generator().manual_seed(36)
    square = torch.randn(HIDDEN, HIDDEN, generator=generator)
    count = CODE_LENGTH * len(ALPHABET)
    rows: Tensor = torch.linalg.qr(square).Q[len(CLASSES) + 1 :][:count] * LETTER_NORM
    return rows.reshape(CODE_LENGTH, len(ALPHABET), HIDDEN)
