"""Needles: codes in a long scene, and what is asked of it, word for word.

nano is trained on these words; any checkpoint may be asked them. All are `ask` queries:
the answer is a text, in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.lettering import near_code, random_code, random_look, write_code
from pipeline.scenes import (
    BACKGROUNDS,
    CELLS,
    COLOURS,
    SHAPES,
    CodeTrack,
    Scene,
    Track,
    random_names,
)
from schemas.errors import InvariantError

Kind = Literal["when", "code_at", "code_with", "thing_at", "thing_with"]

ASKS: dict[Kind, str] = {
    "when": "At what time, in seconds, is the code {code} on screen? Answer none if it never is.",
    "code_at": "Which code is on screen at {seconds:.1f} seconds?",
    "code_with": "Which code is on screen together with a {thing}? Answer none if there is none.",
    "thing_at": "Which thing is on screen at {seconds:.1f} seconds?",
    "thing_with": "Which thing is on screen together with the code {code}?",
}
_PLACES = 200
"""Places that are tried for a code and its companion."""
NONE = "none"
"""The answer where what is asked for is never shown."""
MOST_COMPANIONS = 18
"""Half of all things: the other half comes and goes by itself, and no question is about it."""


def ask_for(kind: Kind, *, code: str = "", thing: str = "", seconds: float = 0.0) -> str:
    """The `ask` text of one question."""
    return ASKS[kind].format(code=code, thing=thing, seconds=seconds)


@dataclass(frozen=True, slots=True)
class Needle:
    """One code of a haystack, when it shows, and the thing that shows with it and never else."""

    code: str
    span_s: tuple[float, float]
    companion: str
    """Empty: none."""


@dataclass(frozen=True, slots=True)
class Haystack:
    """A scene and its needles in order of time; each is a distractor to the others."""

    scene: Scene
    needles: tuple[Needle, ...]


Cell = tuple[float, float, float, float]
"""Left, top, right, bottom, as fractions of the frame."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of what is drawn, as fractions of the frame height, from–to."""

    letters: tuple[float, float] = (0.2, 0.28)
    things: tuple[float, float] = (0.27, 0.38)


def draw_haystack(
    seed: int,
    frame: tuple[int, int],
    duration_s: float,
    num_needles: int,
    show_s: float,
    sizes: Sizes = Sizes(),
) -> Haystack:
    """`num_needles` codes spread over `duration_s`, each on screen for `show_s`, in a scene of
    `frame` (width, height) where other things come and go all the time.

    Half of the codes differ from another one in a single letter. The first needles get companions.
    """
    rng = np.random.default_rng((17, seed))
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    shuffled = [str(name) for name in rng.permutation(names)]
    companions, others = shuffled[:MOST_COMPANIONS], shuffled[MOST_COMPANIONS:]
    alone = {
        int(i): name for i, name in zip(rng.permutation(num_needles), companions, strict=False)
    }
    tracks: list[Track] = []
    codes: list[CodeTrack] = []
    needles: list[Needle] = []
    for number, code in enumerate(_draw_codes(rng, num_needles)):
        room = duration_s / num_needles
        start = number * room + float(rng.uniform(0, max(0.0, room - show_s)))
        span = (round(start, 3), round(start + show_s, 3))
        written, beside = _draw_needle(rng, code, alone.get(number, ""), span, frame, sizes)
        codes.append(written)
        tracks += beside
        needles.append(Needle(code, span, alone.get(number, "")))
    busy = [needle.span_s for needle in needles]
    tracks += _others(rng, others, duration_s, busy, sizes)
    background = str(rng.choice(BACKGROUNDS))
    scene = Scene(seed, *frame, duration_s, background, tuple(tracks), codes=tuple(codes))
    return Haystack(scene, tuple(needles))


def draw_scene(
    seed: tuple[int, int],
    frame: tuple[int, int],
    duration_s: float,
    names: Sequence[str],
    busy: list[tuple[float, float]],
    sizes: tuple[float, float],
) -> Scene:
    """A scene in which up to eight of `names` come and go, none while `busy` (spans in seconds).
    `sizes` of things are fractions of the frame height, from–to."""
    rng = np.random.default_rng((19, *seed))
    tracks = _others(rng, names, duration_s, busy, Sizes(things=sizes))
    background = str(rng.choice(BACKGROUNDS))
    return Scene(seed[0], *frame, duration_s, background, tuple(tracks))


def draw_coming_and_going(
    seed: int,
    frame: tuple[int, int],
    duration_s: float,
    count: int,
    sizes: tuple[float, float],
) -> Scene:
    """A scene in which `count` things come and go, each in a part of the frame of its own, one to
    five times, at least 4 s long and 4 s apart."""
    rng = np.random.default_rng((31, seed))
    cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
    names = [" ".join(name) for name in random_names(rng, count)]
    tracks = [
        _thing_track(rng, name, _few_comings(rng, duration_s), _inner(cell), Sizes(things=sizes))
        for name, cell in zip(names, cells, strict=False)
    ]
    return Scene(seed, *frame, duration_s, str(rng.choice(BACKGROUNDS)), tuple(tracks))


def _inner(cell: Cell) -> Cell:
    """Where the middle of a thing leaves the other cells alone."""
    left, top, right, bottom = cell
    wide, high = right - left, bottom - top
    return left + 0.3 * wide, top + 0.3 * high, right - 0.3 * wide, bottom - 0.3 * high


def _few_comings(rng: np.random.Generator, duration_s: float) -> tuple[tuple[float, float], ...]:
    """One to five spans in seconds, in order."""
    wanted = min(int(rng.integers(1, 6)), max(1, int(duration_s // 16)))
    slack = rng.dirichlet(np.ones(2 * wanted + 1)) * (duration_s - 8 * wanted - 1)
    spans, at = [], 0.0
    for number in range(wanted):
        start = at + float(slack[2 * number])
        end = start + 4 + float(slack[2 * number + 1])
        spans.append((round(start, 2), round(end, 2)))
        at = end + 4
    return tuple(spans)


def _others(
    rng: np.random.Generator,
    names: Sequence[str],
    duration_s: float,
    busy: list[tuple[float, float]],
    sizes: Sizes,
) -> list[Track]:
    tracks = []
    for name in names[:8]:
        spans = _comings(rng, duration_s, busy)
        if spans:
            cell = CELLS[int(rng.integers(len(CELLS)))]
            tracks.append(_thing_track(rng, name, spans, cell, sizes))
    return tracks


def _draw_codes(rng: np.random.Generator, count: int) -> list[str]:
    codes: list[str] = []
    while len(codes) < count:
        is_near = codes and rng.uniform() < 0.5
        code = near_code(rng, codes[int(rng.integers(len(codes)))]) if is_near else random_code(rng)
        if code not in codes:
            codes.append(code)
    return [str(code) for code in rng.permutation(codes)]


def _comings(
    rng: np.random.Generator, duration_s: float, busy: list[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Spans of a thing that comes and goes, never while a needle is there: it could cover it."""
    spans: list[tuple[float, float]] = []
    at = float(rng.exponential(20))
    while at < duration_s:
        end = min(duration_s, at + float(rng.uniform(2, 8)))
        if all(end + 0.5 < start or later + 0.5 < at for start, later in busy):
            spans.append((round(at, 3), round(end, 3)))
        at = end + float(rng.exponential(25)) + 1
    return tuple(spans)


def _draw_needle(
    rng: np.random.Generator,
    code: str,
    companion: str,
    span: tuple[float, float],
    frame: tuple[int, int],
    sizes: Sizes,
) -> tuple[CodeTrack, tuple[Track, ...]]:
    """A code and, where it has one, its companion, which it does not cover.

    Raises InvariantError where `sizes` leave no room for both.
    """
    for _ in range(_PLACES):
        cells = [CELLS[i] for i in rng.permutation(len(CELLS))]
        written = _code_track(rng, code, span, cells[0], frame, sizes)
        if not companion:
            return written, ()
        thing = _thing_track(rng, companion, (span,), cells[1], sizes)
        if _is_clear(written, thing, frame):
            return written, (thing,)
    raise InvariantError(f"no room for a code and a thing of {sizes} in a frame of {frame}.")


def _is_clear(code: CodeTrack, thing: Track, frame: tuple[int, int]) -> bool:
    """Whether a code leaves a thing uncovered wherever they sway."""
    width, height = frame
    tall, wide = write_code(code.text, code.look, code.size * height).ink.shape
    apart_px = (code.sway + thing.sway + thing.size / 2) * height
    dx, dy = abs(code.x - thing.x) * width, abs(code.y - thing.y) * height
    return bool(dx > wide / 2 + apart_px or dy > tall / 2 + apart_px)


def _code_track(
    rng: np.random.Generator,
    code: str,
    span: tuple[float, float],
    cell: Cell,
    frame: tuple[int, int],
    sizes: Sizes,
) -> CodeTrack:
    size = float(rng.uniform(*sizes.letters))
    # The widest code is four letter heights wide; sway and shake take it a little further.
    half = min(0.5, 0.03 + 2.1 * size * frame[1] / frame[0])
    x = float(np.clip(rng.uniform(cell[0], cell[2]), half, 1 - half))
    y = float(np.clip(rng.uniform(cell[1], cell[3]), 0.03 + 0.8 * size, 0.97 - 0.8 * size))
    sway, period_s = float(rng.uniform(0, 0.02)), float(rng.uniform(4, 20))
    return CodeTrack(code, random_look(rng), (span,), x, y, sway, period_s, size)


def _thing_track(
    rng: np.random.Generator,
    name: str,
    spans: tuple[tuple[float, float], ...],
    cell: Cell,
    sizes: Sizes,
) -> Track:
    colour, shape = name.split()
    x, y = float(rng.uniform(cell[0], cell[2])), float(rng.uniform(cell[1], cell[3]))
    x, y = min(0.85, max(0.15, x)), min(0.8, max(0.2, y))
    size = float(rng.uniform(*sizes.things))
    sway = float(rng.uniform(0, 0.02))
    return Track(colour, shape, spans, x, y, sway, float(rng.uniform(4, 20)), size)
