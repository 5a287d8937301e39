"""The grid's arithmetic: every cell once, needles near their depth, passes in the order that shares
most, and how much that spares."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid import Grid, Pass, Rung, passes_of, share_starts
from schemas.errors import ConfigError


def grid_of(
    frames: list[int], depths: int = 11, tolerance: float = 0.04, needle_frames: int = 8
) -> Grid:
    rungs = tuple(Rung(str(n), n // 4, Fraction(n, 8), n) for n in sorted(frames))
    last = max(1, depths - 1)
    return Grid(rungs, tuple(k / last for k in range(depths)), needle_frames, tolerance)


GRIDS = st.builds(
    grid_of,
    st.lists(st.integers(100, 5000), min_size=1, max_size=6, unique=True),
    st.integers(1, 21),
    st.floats(0, 0.05),
    st.integers(1, 40),
)


@given(GRIDS, st.integers(1, 3))
def test_every_cell_is_asked_once_per_kind_near_its_depth(grid: Grid, kinds: int) -> None:
    passes = passes_of(grid, 0, kinds, together=False, bare=True)
    asked = [
        (cell.rung, cell.depth, one.kinds[cell.needle]) for one in passes for cell in one.cells
    ]
    wanted = {
        (r, depth, kind)
        for r in range(len(grid.rungs))
        for depth in grid.depths
        for kind in range(kinds)
    }
    assert sorted(asked) == sorted(wanted)
    for one in passes:
        assert set(one.rungs) >= {cell.rung for cell in one.cells}
        for cell in one.cells:
            rung, start = grid.rungs[cell.rung], one.starts[cell.needle]
            assert 0 <= start <= rung.num_frames - grid.needle_frames
            # Half a frame is what rounding to a frame may add.
            slack = 0.5 / max(1, grid.last_start(rung)) + 1e-9
            assert abs(grid.placed_depth(rung, start) - cell.depth) <= grid.tolerance + slack


@given(GRIDS)
def test_a_pass_begins_on_what_the_one_before_left_bare(grid: Grid) -> None:
    bare, *rest = passes_of(grid, 3, 2, together=False, bare=True)
    assert bare.starts == ()
    assert bare.rungs == tuple(range(len(grid.rungs)))
    starts = [one.starts[0] for one in rest]
    assert all(one >= other for one, other in pairwise(starts))
    assert len({one.name for one in (bare, *rest)}) == len(rest) + 1


def test_kinds_may_take_turns() -> None:
    grid = grid_of([1000 * k for k in range(1, 7)])
    passes = passes_of(grid, 1, 3, together=False, bare=False, in_turn=True)
    assert sorted({one.kinds for one in passes}) == [(0,), (1,), (2,)]
    cells = [(cell.rung, cell.depth) for one in passes for cell in one.cells]
    assert len(cells) == len(set(cells)) == 66


def read_frames(grid: Grid, passes: tuple[Pass, ...]) -> tuple[int, int]:
    """(with sharing, reading each length of each pass from its beginning)."""
    shared = naive = 0
    for one in passes:
        lengths = [grid.rungs[rung].num_frames for rung in one.rungs]
        shared += max(lengths) - (one.starts[0] if one.starts else 0)
        naive += sum(lengths)
    return shared, naive


def test_eleven_depths_at_six_lengths_cost_less_than_a_third() -> None:
    """The bare haystack is counted where we read it and not in the naive grid, which needs none."""
    grid = grid_of([1000 * k for k in range(1, 7)])
    shared, _ = read_frames(grid, passes_of(grid, 0, 1, together=False, bare=True))
    _, naive = read_frames(grid, passes_of(grid, 0, 1, together=False, bare=False))
    assert naive == 11 * 21_000
    assert naive / shared > 3.5


def test_without_tolerance_lengths_still_share_what_is_equal() -> None:
    grid = grid_of([1008 * k for k in range(1, 7)], tolerance=0.0)
    served = share_starts(grid)
    assert sum(len(cells) for cells in served.values()) == 66
    assert any(len({rung for rung, _ in cells}) == 6 for cells in served.values())


def test_needles_that_are_in_together_are_apart() -> None:
    grid = grid_of([2000, 4000])
    passes = passes_of(grid, 1, 2, together=True, bare=False)
    assert [one.rungs for one in passes] == [(0,), (1,)]
    for one in passes:
        assert len(one.starts) == 11
        assert set(one.kinds) == {0, 1}
        assert all(other - start >= 16 for start, other in pairwise(one.starts))


def test_too_many_together_are_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"11 needles do not fit apart .* raise the length"):
        passes_of(grid_of([100]), 0, 1, together=True, bare=False)


def test_a_length_that_holds_no_needle_is_refused() -> None:
    with pytest.raises(ConfigError, match="shorter than a needle shows"):
        grid_of([7])
