"""Lengths × depths → passes over a haystack: where needles lie, and what is read in which order.

Promises that every cell is asked once per needle, that a needle lies within the tolerance of its
depth, and that passes are ordered so that each begins on pixels that the session before it holds:
the bare haystack first, then needles from the last to the first. Integers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from schemas.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Rung:
    """One length of the grid."""

    label: str
    num_pairs: int
    clip_s: Fraction
    num_frames: int
    """Frames of the haystack's file in it."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One needle under one question: a length, a depth, and the needle's number in its pass."""

    rung: int
    depth: float
    needle: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One way through a haystack, with the needles that are in it."""

    haystack: int
    starts: tuple[int, ...]
    """First frame of each needle in the file, in order; empty: the bare haystack."""
    kinds: tuple[int, ...]
    """Kind of each needle, by its place in the evaluation's list."""
    rungs: tuple[int, ...]
    """Lengths at which it is asked, ascending."""
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """What tells it from the others of one evaluation."""
        where = "-".join(map(str, self.starts)) or "bare"
        return f"{self.haystack}/{where}/{'-'.join(map(str, self.kinds)) or 'none'}"


@dataclass(frozen=True, slots=True)
class Grid:
    """What is asked in all."""

    rungs: tuple[Rung, ...]
    """Ascending."""
    depths: tuple[float, ...]
    needle_frames: int
    """Frames of the haystack's file that show a needle."""
    tolerance: float

    def __post_init__(self) -> None:
        for rung in self.rungs:
            if self.last_start(rung) < 0:
                raise ConfigError(
                    f"a length of {rung.label} is {float(rung.clip_s):.1f} s of video, shorter "
                    "than a needle shows; raise it, or lower show_s."
                )

    def last_start(self, rung: Rung) -> int:
        """The last frame that a needle can begin at."""
        return rung.num_frames - self.needle_frames

    def placed_depth(self, rung: Rung, start: int) -> float:
        return start / self.last_start(rung) if self.last_start(rung) else 0.0

    def exact(self, rung: Rung, depth: float) -> int:
        return round(depth * self.last_start(rung))


def share_starts(grid: Grid) -> dict[int, list[tuple[int, float]]]:
    """Start → (rung, depth) of the cells that it serves.

    A needle that was read in a longer haystack serves a shorter one too where it lies near enough
    to one of its depths: the shorter one is the longer one's beginning.
    """
    served: dict[int, list[tuple[int, float]]] = {}
    for number in reversed(range(len(grid.rungs))):
        rung = grid.rungs[number]
        for depth in grid.depths:
            start = _nearest(grid, rung, depth, served)
            served.setdefault(start, []).append((number, depth))
    return served


def _nearest(
    grid: Grid, rung: Rung, depth: float, served: dict[int, list[tuple[int, float]]]
) -> int:
    exact = grid.exact(rung, depth)
    near = [
        start
        for start in served
        if start <= grid.last_start(rung)
        and abs(grid.placed_depth(rung, start) - depth) <= grid.tolerance
    ]
    return min(near, key=lambda start: (abs(start - exact), start), default=exact)


def passes_of(
    grid: Grid,
    haystack: int,
    num_kinds: int,
    *,
    together: bool,
    bare: bool,
    in_turn: bool = False,
) -> tuple[Pass, ...]:
    """All passes over one haystack, in the order in which they share most. `in_turn`: each place
    has one kind, the next place the next one. Raises ConfigError where needles that are in together
    would cover each other."""
    whole = tuple(range(len(grid.rungs)))
    first = (Pass(haystack, (), (), whole, ()),) if bare else ()
    if together:
        return first + tuple(_all_depths(grid, haystack, rung, num_kinds) for rung in whole)
    served = share_starts(grid)
    return first + tuple(
        _one_needle(haystack, start, kind, served[start])
        for place, start in enumerate(sorted(served, reverse=True))
        for kind in ([(place + haystack) % num_kinds] if in_turn else range(num_kinds))
    )


def _one_needle(haystack: int, start: int, kind: int, cells: Sequence[tuple[int, float]]) -> Pass:
    rungs = tuple(sorted({rung for rung, _ in cells}))
    own = tuple(Cell(rung, depth, 0) for rung, depth in sorted(cells))
    return Pass(haystack, (start,), (kind,), rungs, own)


def _all_depths(grid: Grid, haystack: int, rung: int, num_kinds: int) -> Pass:
    starts = [grid.exact(grid.rungs[rung], depth) for depth in grid.depths]
    for one, other in pairwise(starts):
        if other - one < 2 * grid.needle_frames:
            raise ConfigError(
                f"{len(starts)} needles do not fit apart from each other in "
                f"{grid.rungs[rung].label}; raise the length, lower show_s, ask for fewer depths, "
                "or leave `together` out."
            )
    cells = tuple(Cell(rung, depth, number) for number, depth in enumerate(grid.depths))
    kinds = tuple((number + haystack) % num_kinds for number in range(len(starts)))
    return Pass(haystack, tuple(starts), kinds, (rung,), cells)
