"""Step 2: courses. What codes and things are shown when, drawn at random, and vectors with noise
in place of the pictures that a tower would see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.lettering import ALPHABET, CODE_LENGTH, near_code, random_code
from recipes.nano.codes import CLASSES, class_codes, ground_code, letter_codes
from recipes.nano.shape import FAR, HIDDEN

LATEST_S = 9999.0
NOISE = (0.006, 0.08)
"""Of a number of a feature, from–to; the tower's own is 0.009 on ground."""
GHOST_ODDS = 0.2
"""Of a thing half seen where things are known to show by more than that: a tower does so in one of
40 pairs, up to 0.65."""
WEAK_ODDS = 0.06
"""Share of codes of which one letter is faint."""
UNSURE_ODDS = 0.15
"""Share of codes, where another pair shows them in full, of which a letter is half another: a tower
has 0.38 of an E and 0.28 of a P, and it is an E."""
ALIKE_ODDS, SCATTERED_ODDS = 0.4, 0.3
"""Shares of courses in which times differ in their hundreds alone, and in what is below these:
of times one behind the other each is told from its neighbours, and hardly ever 582.6 from 503.6."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shown:
    """What one patch pair shows."""

    code: str
    """Empty: none."""
    things: tuple[int, ...]
    code_at: int
    """Merged token of the code's middle; −1 without a code."""
    things_at: tuple[int, ...]
    kept: tuple[int, ...]
    """Merged tokens that the row holds, these among them; the others are left out."""


class Beside(NamedTuple):
    """A thing near the edge of its token: the token beside holds some of it too."""

    thing: int
    at: int
    strength: float


@dataclass(frozen=True, slots=True)
class Course:
    """What is shown when."""

    pairs: tuple[Shown, ...]
    seconds: Floats
    """Printed time of each pair, one decimal."""
    end_s: float
    gaps: Ints
    """Positions left out before each pair: far things come near in few tokens."""
    start: int
    """Position of the first token."""
    strengths: tuple[tuple[float, ...], ...] = ()
    """Of each pair's things, where they are not left to chance."""
    beside: tuple[tuple[Beside, ...], ...] = ()
    """Of each pair, where there is any."""


def draw_course(rng: np.random.Generator, count: int, tokens: int) -> Course:
    """`count` pairs of `tokens` merged tokens each.

    Large frames are cheap: most tokens without a thing are alike, so a few of them stand for all.
    """
    extra = int(rng.integers(2, 7))
    pairs: list[Shown] = []
    used: list[str] = []
    while len(pairs) < count:
        length = int(rng.choice([1, 1, 2, 3, 4]))
        code = ""
        if rng.uniform() < 0.65:
            code = _new_code(rng, used)
            used.append(code)
        num_things = int(rng.choice([0, 1, 2, 3], p=[0.2, 0.68, 0.08, 0.04]))
        things = tuple(int(c) for c in rng.choice(len(CLASSES), num_things, replace=False))
        for _ in range(min(length, count - len(pairs))):
            places = rng.integers(0, tokens, 1 + num_things)
            kept = np.union1d(places, rng.integers(0, tokens, extra))
            at = int(places[0]) if code else -1
            pairs.append(Shown(code, things, at, tuple(places[1:].tolist()), tuple(kept.tolist())))
    seconds, end_s = _times(rng, count)
    far = float(np.exp(rng.uniform(0, np.log(FAR / count))))
    gaps = (rng.exponential(far, count) * (rng.uniform(size=count) < 0.7)).astype(np.int64)
    if rng.uniform() < 0.3:
        gaps[:] = 0
    room = max(1, FAR - int(gaps.sum()) - 40 * count)
    gaps = np.where(gaps.cumsum() < FAR - 40 * count, gaps, 0)
    start = int(rng.integers(room)) if rng.uniform() < 0.6 else 0
    return Course(tuple(pairs), seconds, end_s, gaps, start)


def _new_code(rng: np.random.Generator, used: list[str]) -> str:
    while True:
        near = used and rng.uniform() < 0.5
        code = near_code(rng, used[int(rng.integers(len(used)))]) if near else random_code(rng)
        if code not in used:
            return code


def _times(rng: np.random.Generator, count: int) -> tuple[Floats, float]:
    """Printed times, all different, and the end."""
    step_s = float(rng.choice([0.05, 0.25, 0.5, 0.5, 1.0, 2.0, rng.uniform(0.25, 4)]))
    waits = np.full(count, 2 * step_s)
    if rng.uniform() < 0.5:  # As if much had been left out.
        jumps = rng.uniform(size=count) < 0.4
        waits += jumps * rng.exponential(float(np.exp(rng.uniform(0, np.log(400)))), count)
    times = np.cumsum(waits) - waits[0] + step_s / 2
    kind = rng.uniform()
    if kind < ALIKE_ODDS:
        times = _alike_but_for_hundreds(rng, times)
    elif kind < ALIKE_ODDS + SCATTERED_ODDS:
        times = _scattered(rng, count)
    room_s = max(1.0, LATEST_S - times[-1])
    times += rng.choice([0.0, np.exp(rng.uniform(0, np.log(room_s))), rng.uniform(0, room_s)])
    if times[-1] > LATEST_S:
        times *= LATEST_S / times[-1]
    times = np.maximum(np.round(times, 1), np.arange(count) * 0.1)
    for i in range(1, count):  # Rounding must not make two alike.
        times[i] = max(times[i], round(times[i - 1] + 0.1, 1))
    return times, float(round(times[-1] + step_s, 1))


def _alike_but_for_hundreds(rng: np.random.Generator, times: Floats) -> Floats:
    """The first few times again and again, some hundreds of seconds later each: a long video holds
    every time so often, and a few drawn ones hardly ever."""
    own = int(rng.integers(2, max(3, len(times) // 2)))
    first = times[:own] - times[0]
    first = first * min(1.0, 95 / max(1.0, float(first[-1])))
    rounds = -(-len(times) // own)
    if rng.uniform() < 0.5:
        hundreds = np.cumsum(rng.choice([1, 1, 1, 2, 3, 10], rounds)) - 1
    else:
        hundreds = np.sort(rng.choice(max(97, rounds), rounds, replace=False))
    again: Floats = (100.0 * hundreds[:, None] + first[None]).reshape(-1)[: len(times)]
    return again + float(times[0])


def _scattered(rng: np.random.Generator, count: int) -> Floats:
    """Two or three seconds one behind the other, now and then, anywhere within a hundred seconds or
    some more; most have the same tenth."""
    runs = -(-count // 2)
    begins = 3 * np.sort(rng.choice(max(33, 2 * runs), runs, replace=False)) + rng.integers(0, 3)
    seconds = (begins[:, None] + np.arange(2)).reshape(-1)[:count]
    tenths = rng.choice(rng.integers(0, 10, 2), count, p=[0.8, 0.2]) / 10
    times: Floats = seconds + tenths
    return times


def worded_features(rng: np.random.Generator, course: Course) -> Tensor:
    """(kept tokens, hidden): vectors with noise in place of pictures, faulty as a tower is."""
    noise = float(np.exp(rng.uniform(*np.log(NOISE))))
    full = _full_pairs(rng, course)
    parts = []
    for number, shown in enumerate(course.pairs):
        rows = rng.normal(0, noise, (len(shown.kept), HIDDEN)).astype(np.float32)
        place = {at: row for row, at in enumerate(shown.kept)}
        if shown.code:
            strength = _strength(rng, number in full) * rng.uniform(0.85, 1.08, CODE_LENGTH)
            if rng.uniform() < WEAK_ODDS:
                strength[int(rng.integers(CODE_LENGTH))] *= rng.uniform(0.65, 0.85)
            vector = _code_vector(shown.code, strength)
            if number not in full and rng.uniform() < UNSURE_ODDS:
                vector += _unsure(rng, shown.code, strength)
            rows[place[shown.code_at]] += vector
            if rng.uniform() < 0.4:  # The token beside holds some of it, or what is nearly it.
                written = vector
                if rng.uniform() < 0.2:
                    written = _code_vector(near_code(rng, shown.code), strength)
                rows[int(rng.integers(len(rows)))] += written * rng.uniform(0, 0.6)
        told = course.strengths[number] if course.strengths else None
        for k, (thing, at) in enumerate(zip(shown.things, shown.things_at, strict=True)):
            strength_k = told[k] if told else _strength(rng, number in full)
            rows[place[at]] += _CLASS_CODES[thing] * strength_k
        for thing, at, strength_k in course.beside[number] if course.beside else ():
            rows[place[at]] += _CLASS_CODES[thing] * strength_k
        if rng.uniform() < 0.1:  # Something half seen where nothing is.
            rows[int(rng.integers(len(rows)))] += _ghost(rng)
        if course.strengths and rng.uniform() < GHOST_ODDS:
            ghost = int(rng.integers(len(CLASSES)))
            if ghost not in shown.things:
                on_thing = shown.things_at and rng.uniform() < 0.5
                at = int(rng.choice(shown.things_at if on_thing else shown.kept))
                rows[place[at]] += _CLASS_CODES[ghost] * float(rng.uniform(0, 0.45))
        parts.append(rows)
    return torch.from_numpy(np.concatenate(parts) + _GROUND)


def _full_pairs(rng: np.random.Generator, course: Course) -> set[int]:
    """One pair of each run in which the same is shown: whatever is sampled as it should be shows in
    full in one pair. Lessons in which it never did taught to take near misses for it."""
    runs: list[list[int]] = []
    for number, shown in enumerate(course.pairs):
        before = course.pairs[number - 1] if number else None
        if before is None or (before.code, before.things) != (shown.code, shown.things):
            runs.append([])
        runs[-1].append(number)
    return {int(rng.choice(run)) for run in runs}


def _strength(rng: np.random.Generator, is_full: bool) -> float:
    """Of a thing or code: in full, or as in a pair that it shows in for a part of its time."""
    if is_full or rng.uniform() < 0.7:
        return float(rng.uniform(0.88, 1.08))
    return float(rng.uniform(0.35, 0.88))


_CLASS_CODES = class_codes().numpy()
_LETTER_CODES = letter_codes().numpy()
_GROUND = ground_code().numpy()


def _ghost(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    strength = float(rng.uniform(0, 0.4))
    if rng.uniform() < 0.5:
        return _code_vector(random_code(rng), np.full(CODE_LENGTH, strength))
    ghost: npt.NDArray[np.float32] = _CLASS_CODES[int(rng.integers(len(CLASSES)))] * strength
    return ghost


def _unsure(rng: np.random.Generator, code: str, strength: Floats) -> npt.NDArray[np.float32]:
    """What makes one letter of a code a mixture of it and of another, of which it is the most."""
    slot, other = int(rng.integers(CODE_LENGTH)), int(rng.integers(len(ALPHABET)))
    own = float(rng.uniform(0.33, 0.8))
    less = (own - strength[slot]) * _LETTER_CODES[slot, ALPHABET.index(code[slot])]
    vector: npt.NDArray[np.float32] = (
        less + own * rng.uniform(0.2, 0.85) * _LETTER_CODES[slot, other]
    )
    return vector


def _code_vector(code: str, strength: Floats) -> npt.NDArray[np.float32]:
    rows = [_LETTER_CODES[slot, ALPHABET.index(letter)] for slot, letter in enumerate(code)]
    return np.asarray((np.stack(rows) * strength[:, None]).sum(0), dtype=np.float32)
