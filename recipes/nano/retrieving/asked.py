"""Step 2: what is asked about a course, and what is right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.lettering import ALPHABET, near_code, random_code
from pipeline.needles import ASKS, NONE, Kind
from recipes.nano.codes import CLASSES
from recipes.nano.retrieving.courses import Course
from recipes.nano.retrieving.sheet import CLOCK, LETTERS, THING, Encode

KINDS: tuple[Kind, ...] = tuple(ASKS)
CLOCK_SIZES = (101, 100, 10)
"""Classes of a time's pieces: hundreds of seconds, seconds, tenths."""
NO_HUNDREDS = 100
"""The class of a time below 100 seconds, which has no piece of hundreds."""
ABSENT: dict[Kind, float] = {"when": 0.15, "code_with": 0.3}
"""Share of the questions of a kind that are about what is never shown."""
MORE_ABSENT: dict[Kind, float] = {"when": 0.4, "code_with": 0.5}
FIRST_ODDS = (0.45, 0.3, 0.15, 0.05, 0.05)
"""Of the kinds, in order. Times are learnt first: what is matched by things comes later."""
EVEN_ODDS = (0.32, 0.28, 0.3, 0.05, 0.05)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer, and the pairs and places that tell it."""

    kind: Kind
    filled: str
    """What stands in the question's gap."""
    what: int
    classes: tuple[int, ...]
    answer: str
    places: tuple[tuple[int, int, str], ...]
    """(pair, token within it, printed time): all that tell an answer; empty where it is NONE."""


def draw_question(
    rng: np.random.Generator, course: Course, odds: tuple[float, ...], absent: dict[Kind, float]
) -> Asked | None:
    """A question that has one answer; None where ten draws gave none."""
    for _ in range(10):
        kind = KINDS[int(rng.choice(len(KINDS), p=odds))]
        if rng.uniform() < absent.get(kind, 0):
            asked = _absent(rng, course, kind)
        else:
            asked = _question(rng, course, kind, int(rng.integers(len(course.pairs))))
        if asked is not None:
            return asked
    return None


def _absent(rng: np.random.Generator, course: Course, kind: Kind) -> Asked | None:
    """A question about what is never shown, or what never shows with a code."""
    if kind == "when":
        used = sorted({pair.code for pair in course.pairs if pair.code})
        is_near = used and rng.uniform() < 0.75
        code = near_code(rng, str(rng.choice(used))) if is_near else random_code(rng)
        if code in used:
            return None
        return Asked(kind, code, LETTERS, letter_classes(code), NONE, ())
    coded = {thing for pair in course.pairs if pair.code for thing in pair.things}
    alone = {thing for pair in course.pairs if not pair.code for thing in pair.things} - coded
    is_shown = alone and rng.uniform() < 0.5
    thing = int(rng.choice(sorted(alone)) if is_shown else rng.integers(len(CLASSES)))
    if thing in coded:
        return None
    return Asked(kind, CLASSES[thing], THING, (thing,), NONE, ())


def _question(rng: np.random.Generator, course: Course, kind: Kind, number: int) -> Asked | None:
    shown, seconds = course.pairs[number], float(course.seconds[number])
    time_text = f"{seconds:.1f}"
    if kind == "when":
        if not shown.code:
            return None
        places = tuple(
            place
            for i, pair in enumerate(course.pairs)
            if pair.code == shown.code
            for place in _code_places(course, i)
        )
        return Asked(kind, shown.code, LETTERS, letter_classes(shown.code), time_text, places)
    if kind == "code_at":
        if not shown.code:
            return None
        places = _code_places(course, number)
        return Asked(kind, time_text, CLOCK, clock_classes(seconds), shown.code, places)
    if kind == "thing_at":
        if len(shown.things) != 1:
            return None
        name = CLASSES[shown.things[0]]
        places = ((number, shown.things_at[0], time_text),)
        if shown.code_at > shown.things_at[0]:
            places = (*places, (number, shown.code_at, time_text))
        return Asked(kind, time_text, CLOCK, clock_classes(seconds), name, places)
    if not shown.code or not shown.things:
        return None
    if kind == "code_with":
        thing = int(rng.choice(shown.things))
        together = [i for i, p in enumerate(course.pairs) if p.code and thing in p.things]
        if any(course.pairs[i].code != shown.code for i in together):
            return None
        places = tuple(_later(course, i, thing) for i in together)
        return Asked(kind, CLASSES[thing], THING, (thing,), shown.code, places)
    together = [i for i, p in enumerate(course.pairs) if p.code == shown.code]
    if len(shown.things) != 1 or any(course.pairs[i].things != shown.things for i in together):
        return None
    places = tuple(_later(course, i, shown.things[0]) for i in together)
    name = CLASSES[shown.things[0]]
    return Asked(kind, shown.code, LETTERS, letter_classes(shown.code), name, places)


def _code_places(course: Course, number: int) -> tuple[tuple[int, int, str], ...]:
    """The code's own token and those of things behind it, which have seen it."""
    pair, text = course.pairs[number], f"{course.seconds[number]:.1f}"
    later = [at for at in pair.things_at if at > pair.code_at]
    return tuple((number, at, text) for at in (pair.code_at, *later))


def _later(course: Course, number: int, thing: int) -> tuple[int, int, str]:
    """Of a code and a thing the token that comes later: it has seen the other."""
    pair = course.pairs[number]
    at = pair.things_at[pair.things.index(thing)]
    return number, max(at, pair.code_at), f"{course.seconds[number]:.1f}"


def matching(asked: Asked, said: list[int], encode: Encode) -> tuple[tuple[int, int, str], ...]:
    """Places that tell the next token: of several times those that begin as what was said."""
    if asked.kind != "when":
        return asked.places
    return tuple(p for p in asked.places if encode(p[2])[: len(said)] == said)


def letter_classes(code: str) -> tuple[int, ...]:
    return tuple(ALPHABET.index(letter) for letter in code)


def clock_classes(seconds: float) -> tuple[int, ...]:
    """Hundreds (or NO_HUNDREDS), what is below a hundred, tenths."""
    tenths = round(seconds * 10)
    hundreds, rest = divmod(tenths, 1000)
    return hundreds or NO_HUNDREDS, rest // 10, rest % 10


def clock_flags(times_s: Sequence[float]) -> tuple[int, ...]:
    """Which pieces of times are among those of `times_s`: 0 or 1 for each class of hundreds, units
    and tenths."""
    starts = np.cumsum([0, *CLOCK_SIZES])
    flags = np.zeros(sum(CLOCK_SIZES), dtype=int)
    for seconds in times_s:
        flags[starts[:-1] + np.asarray(clock_classes(seconds))] = 1
    return tuple(flags.tolist())
