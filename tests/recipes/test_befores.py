"""What heads that look at the pair before hold, and how their watchers are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.nano.codes import class_codes, ground_code, letter_codes
from recipes.nano.retrieving import befores
from recipes.nano.retrieving.groups import GROUPS
from recipes.nano.shape import HEAD_DIM, HIDDEN, ROPE_THETA

HALF = HEAD_DIM // 2
FARTHEST = 36_000
GROUP = st.integers(0, GROUPS - 1)
PITCH = st.integers(9, 24)
"""Positions from one pair to the next: of frames of 2 × 2 to 12 × 12, with times of any length."""


def held(at: int, *, is_key: bool) -> Tensor:
    """(HEAD_DIM,) with gains."""
    told = torch.zeros(1, befores.TOLD)
    told[0, at] = 1
    return HEAD_DIM**0.5 * befores.GAIN * befores.wanted(told, is_key=is_key)[0]


def score(group: int, key: Tensor, distance: int) -> float:
    query = held(group, is_key=False)
    q, k = (torch.complex(own[:HALF], own[HALF:]).to(torch.complex128) for own in (query, key))
    turns = ROPE_THETA ** -(torch.arange(HALF, dtype=torch.float64) / HALF)
    turned = q * k.conj() * torch.polar(torch.ones_like(turns), distance * turns)
    return float(turned.real.sum()) / HEAD_DIM**0.5


@given(GROUP, PITCH, st.integers(0, FARTHEST), GROUP)
def test_the_pair_before_stands_out(group: int, pitch: int, far: int, other: int) -> None:
    before = score(group, held(group, is_key=True), pitch)
    assert before > score(group, held(group, is_key=True), 0) + 7
    assert before > score(group, held(group, is_key=True), int(1.75 * pitch) + 1 + far) + 7
    assert before > score(group, held(befores.NOTHING_AT, is_key=True), far) + 7
    if other != group:
        assert before > score(group, held(other, is_key=True), 1 + far) + 7


@given(GROUP, GROUP, st.integers(0, FARTHEST))
def test_watchers_of_the_first_pair_look_at_nothing(group: int, other: int, far: int) -> None:
    nothing = score(group, held(befores.NOTHING_AT, is_key=True), far)
    assert nothing > score(group, held(group, is_key=True), 0) + 3
    if other != group:
        assert all(nothing > score(group, held(other, is_key=True), d) + 3 for d in range(1, 10))


@given(GROUP, PITCH, st.integers(0, 1 << 31))
def test_other_tokens_are_not_looked_at(group: int, pitch: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.nn.functional.normalize(torch.randn(8, HEAD_DIM, generator=generator), dim=1)
    apart = befores.turned_away(keys)
    assert apart.square().sum(1).tolist() == pytest.approx([1] * 8, rel=1e-5)
    size = HEAD_DIM**0.5 * befores.GAIN
    before = score(group, held(group, is_key=True), pitch)
    assert max(score(group, size * key, pitch) for key in apart) < before - 3


def test_watchers_are_set_apart_where_pictures_hold_nothing() -> None:
    words = torch.randn(50, HIDDEN, generator=torch.Generator().manual_seed(1))
    own = [3, 7, 20, 34, 41]
    moved = befores.set_apart(words, own) - words
    others = np.setdiff1d(np.arange(50), own)
    assert float(moved[others].abs().max()) == 0
    sizes = moved[own] @ moved[own].T
    assert torch.allclose(sizes, befores.APART**2 * torch.eye(5), atol=1e-3)
    shown = torch.cat([class_codes(), letter_codes().flatten(0, 1), ground_code()[None]])
    assert float((moved[own] @ shown.T).abs().max()) < 1e-3
