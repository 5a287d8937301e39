"""Layers over devices: whole, contiguous, within what is free, and a refusal that says how much."""

from __future__ import annotations

import re
from itertools import combinations_with_replacement, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from model.placement import CACHE_SHARE, place_layers
from schemas.errors import ResourceError

GIB = 1024**3


def used_bytes(
    places: tuple[int, ...], layers: list[int], first: int, last: int, devices: int
) -> list[int]:
    """What lies on each device under a placement."""
    used = [0] * devices
    used[0] += first
    for place, size in zip(places, layers, strict=True):
        used[place] += size
    used[places[-1]] += last
    return used


def fits(
    places: tuple[int, ...], layers: list[int], first: int, last: int, free: list[int]
) -> bool:
    used = used_bytes(places, layers, first, last, len(free))
    return all(a <= b for a, b in zip(used, free, strict=True))


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=7),
    st.integers(0, 50),
    st.integers(0, 50),
    st.lists(st.integers(0, 120), min_size=1, max_size=3),
)
@example([10, 10], 0, 15, [100, 20, 30])  # the last layer moves on with the head
@example([30, 30], 0, 0, [31, 5, 31])  # a device that is full already is passed over
def test_a_placement_is_found_where_one_exists(
    layers: list[int], first: int, last: int, free: list[int]
) -> None:
    every = combinations_with_replacement(range(len(free)), len(layers))
    possible = any(fits(places, layers, first, last, free) for places in every)
    if not possible:
        with pytest.raises(ResourceError, match="found no place"):
            place_layers(layers, first, last, free)
        return
    places = place_layers(layers, first, last, free)
    assert len(places) == len(layers)
    assert all(a <= b for a, b in pairwise(places))
    assert fits(places, layers, first, last, free)


def test_one_device_takes_all_where_the_cache_has_room_beside_it() -> None:
    room = int(1000 * (1 - CACHE_SHARE))
    assert place_layers([room // 4] * 4, 0, 0, [1000, 1000]) == (0, 0, 0, 0)
    assert set(place_layers([room // 4 + 1] * 4, 0, 0, [1000, 1000])) == {0, 1}
    assert place_layers([240] * 4, 0, 0, [1000]) == (0, 0, 0, 0)


def test_devices_are_filled_to_an_equal_share() -> None:
    assert place_layers([10] * 12, 0, 0, [100, 50]) == (0,) * 8 + (1,) * 4
    assert place_layers([10] * 12, 20, 20, [100, 100]) == (0,) * 6 + (1,) * 6
    assert place_layers([10] * 12, 40, 0, [100, 100]) == (0,) * 4 + (1,) * 8


def test_the_refusal_says_how_much_is_missing() -> None:
    with pytest.raises(ResourceError) as caught:
        place_layers([GIB] * 8, GIB, GIB, [3 * GIB, 4 * GIB])
    # Three and four GiB hold the embedding with two layers, and four more.
    numbers = re.findall(r"([\d.]+) GiB", caught.value.message)
    assert numbers == ["10.00", "7.00", "3.00"]
    assert caught.value.exit_code == 5


def test_an_embedding_that_fits_no_device_is_missing_too() -> None:
    with pytest.raises(ResourceError, match=r"3\.00 GiB found no place"):
        place_layers([GIB], 2 * GIB, 0, [GIB, 9 * GIB])
