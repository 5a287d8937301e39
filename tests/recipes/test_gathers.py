"""Gathering: what queries and keys are told to hold tells a pair's own things from its ground, and
its ground from things of all pairs before it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recipes.nano.retrieving import gathers
from recipes.nano.retrieving.groups import GROUPS
from recipes.nano.retrieving.plan import GRIDS
from recipes.nano.shape import HEAD_DIM, ROPE_THETA

HALF = HEAD_DIM // 2
AXES = torch.tensor([*[0, 1, 2] * 10, 0, 0])
"""Which of time, height and width turns each number, in interleaved sections."""
FARTHEST = 36_000
GROUP = st.integers(0, GROUPS - 1)
OFFSETS = st.sampled_from(range(GROUPS))


def held(told: dict[int, float], *, is_key: bool) -> Tensor:
    """(HEAD_DIM / 2,) complex, with gains."""
    row = torch.zeros(1, GROUPS)
    for group, value in told.items():
        row[0, group] = value
    own = HEAD_DIM**0.5 * gathers.GAIN * gathers.wanted(row, is_key=is_key)[0]
    return torch.complex(own[:HALF], own[HALF:])


def scores(group: int, key: Tensor, grid: tuple[int, int], farther: Tensor) -> Tensor:
    """(distances, rows, columns) of a group's watcher over all pictures of a pair that stands
    `farther` positions before its own."""
    rows, cols = np.indices(grid)
    behind = max(grid) + round(gathers.OFFSETS[group])
    places = torch.stack(
        [
            torch.full(grid, float(behind)),
            *(behind - torch.tensor(own).float() for own in (rows, cols)),
        ]
    )
    distances = (places[None] + farther[:, None, None, None]).double()
    turns = ROPE_THETA ** -(torch.arange(HALF).double() / HALF)
    angles = distances.permute(0, 2, 3, 1)[..., AXES] * turns
    mixed = held({group: 1}, is_key=False) * key.conj()
    return (mixed * torch.polar(torch.ones_like(angles), angles)).real.sum(-1) / HEAD_DIM**0.5


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group", range(GROUPS))
def test_a_thing_stands_out_of_its_pair_s_ground(grid: tuple[int, int], group: int) -> None:
    here, tokens = torch.zeros(1), grid[0] * grid[1]
    ground = scores(group, held({}, is_key=True), grid, here).logsumexp((1, 2))
    thing = scores(group, held({group: 1}, is_key=True), grid, here)
    another = scores(group, held({(group + 1) % GROUPS: 1}, is_key=True), grid, here)
    assert float(thing.min() - ground.max()) > 3
    assert float(another.max() - ground.max()) < 0.5 - np.log(tokens) + 1


@given(GROUP, st.sampled_from(GRIDS), st.integers(0, FARTHEST))
def test_no_pair_before_is_taken_for_its_own(group: int, grid: tuple[int, int], far: int) -> None:
    ground = float(scores(group, held({}, is_key=True), grid, torch.zeros(1)).logsumexp((1, 2)))
    pitch = max(grid) + 7
    before = scores(group, held({group: 1}, is_key=True), grid, torch.tensor([float(pitch + far)]))
    assert ground - float(before.max()) > np.log(20)
