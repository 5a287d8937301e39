"""Step 2b: courses of spans. A few things that come and go, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recipes.nano.codes import CLASSES
from recipes.nano.retrieving.courses import LATEST_S, Beside, Course, Floats, Ints, Shown
from recipes.nano.retrieving.groups import group_of, part_of

FAR = 40_000
"""Positions that 32K tokens of video reach, with room."""
CAST_SIZE = 4
"""Things of a video."""
MOST_EVENTS = 8
EVENT_ODDS = (0.1, 0.2, 0.2, 0.16, 0.12, 0.12, 0.06, 0.04)
"""Of a thing's number of events, fewer than `MOST_EVENTS`, where a video has room for them."""
SHARED_ODDS = 0.4
"""Of a cut that may be at the same time as one of another thing."""
GAPLESS_ODDS = 0.3
"""Of courses in which nothing is left out."""
BESIDE_ODDS = (0.5, 0.38, 0.12)
"""Of how many tokens beside its own hold some of a thing: in drawn videos 0.36 of what frames
of 12 tokens show has one or more, and 0.52 of what those of 144 show, in part or in full."""
APART = (1, 4)
"""Pairs between two changes of a thing, at least, and how many where a video has room for them: of
several events that are hardly apart, heads that link them cannot tell the last one."""
APART_ODDS = 0.75
"""Of things whose changes are so far apart."""
LAST_S = 8.0
"""Kept for the end of the video, which is a time too."""


@dataclass(frozen=True, slots=True)
class SpanCourse:
    """A course and, for each of its things, half-open spans of pairs."""

    course: Course
    spans: dict[int, tuple[tuple[int, int], ...]]
    hidden: frozenset[int]
    """Pairs behind a gap, and nothing changes there or in the pair before: what was before cannot
    be told, and there is no such pair in a real video."""


def draw_spans(rng: np.random.Generator, count: int, tokens: int) -> SpanCourse:
    """`count` pairs of `tokens` merged tokens, in which a few things come and go."""
    spans: dict[int, tuple[tuple[int, int], ...]] = {}
    for thing in _cast(rng):
        spans[thing] = _comings(rng, count, [cut for own in spans.values() for cut in sum(own, ())])
    shown: list[dict[int, float]] = [{} for _ in range(count)]
    places, beside = [_drift(rng, count, tokens) for _ in spans], [list[Beside]() for _ in shown]
    for place, (thing, own) in zip(places, spans.items(), strict=True):
        strayed = _strayed(rng, place, tokens)
        for start, end in own:
            for pair in range(start, end):
                is_edge = pair in (start, end - 1) and end - start > 1
                part = float(rng.uniform(0.75, 1.0)) if is_edge and rng.uniform() < 0.4 else 1.0
                shown[pair][thing] = part * strayed[pair].home
                beside[pair] += [
                    Beside(thing, at, part * strength) for at, strength in strayed[pair].beside
                ]
    extra = int(rng.integers(2, 5))
    pairs = []
    for number, own_shown in enumerate(shown):
        at = tuple(
            int(place[number])
            for place, thing in zip(places, spans, strict=True)
            if thing in own_shown
        )
        written = [*at, *(own.at for own in beside[number])]
        kept = np.union1d(np.asarray(written, dtype=np.int64), rng.integers(0, tokens, extra))
        kept_at = tuple(int(k) for k in kept)
        pairs.append(Shown("", tuple(t for t in spans if t in own_shown), -1, at, kept_at))
    strengths = tuple(tuple(own[t] for t in spans if t in own) for own in shown)
    changes = [i == 0 or shown[i].keys() != shown[i - 1].keys() for i in range(count)]
    still = [i for i in range(1, count) if not changes[i] and not changes[i - 1]]
    hidden = _gaps_before(rng, still)
    seconds, gaps = _times_and_gaps(rng, count, hidden)
    room = max(1, FAR - int(gaps.sum()) - 40 * count)
    start = int(rng.integers(room)) if rng.uniform() < 0.6 else 0
    # Not from the last two: much may be left out between them.
    step_s = float(np.diff(seconds).min(initial=8.0)) / 2
    end_s = round(float(seconds[-1]) + max(0.1, step_s), 1)
    both = tuple(tuple(own) for own in beside)
    course = Course(tuple(pairs), seconds, end_s, gaps, start, strengths, both)
    return SpanCourse(course, spans, hidden)


def _cast(rng: np.random.Generator) -> list[int]:
    """Different things, often alike in colour or shape, or watched by one token."""
    kind = rng.uniform()
    if kind < 0.3:
        return [int(c) for c in rng.choice(len(CLASSES), CAST_SIZE, replace=False)]
    if kind < 0.7:
        things = rng.permutation(len(CLASSES))
        own = [int(c) for c in things if group_of(c) == group_of(things[0])]
        if kind < 0.5:  # By one head of it too: 0.28 of all casts then, 0.16 by chance.
            part = part_of(own[0])
            own = sorted(own, key=lambda thing: part_of(thing) != part)
        apart = [int(c) for c in things if c not in own]
        together = int(rng.integers(2, CAST_SIZE))
        return own[:together] + apart[: CAST_SIZE - together]
    base, others = int(rng.integers(6)), rng.choice(6, CAST_SIZE, replace=False)
    by_colour = rng.uniform() < 0.5
    return [int(base * 6 + c if by_colour else c * 6 + base) for c in others]


def _comings(
    rng: np.random.Generator, pairs: int, others: list[int]
) -> tuple[tuple[int, int], ...]:
    """Half-open spans of pairs; now and then a cut is one of `others`: the time at which a thing
    had gone must not name the coming of another."""
    wanted = int(rng.choice(MOST_EVENTS, p=EVENT_ODDS))
    wanted = min(wanted, max(1, pairs // 8), pairs // 2)
    least, most = APART
    apart = most if rng.uniform() < APART_ODDS else least
    apart = max(least, min(apart, pairs // max(1, 2 * wanted)))
    room = pairs - (apart - 1) * (2 * wanted - 1)
    # Nothing changes with the last pair: most watchers stand behind the next one's beginning.
    places = np.sort(
        rng.choice(np.delete(np.arange(room + 1), room - 1), 2 * wanted, replace=False)
    )
    cuts = [int(place) + (apart - 1) * k for k, place in enumerate(places)]
    for k in range(len(cuts) if others else 0):
        cut = int(rng.choice(others))
        is_between = cuts[k - 1] < cut if k else True
        is_between &= cut < cuts[k + 1] if k + 1 < len(cuts) else True
        if is_between and rng.uniform() < SHARED_ODDS:
            cuts[k] = cut
    return tuple(zip(cuts[::2], cuts[1::2], strict=True))


def _drift(rng: np.random.Generator, count: int, tokens: int) -> Ints:
    """A place that stays for some pairs and moves on."""
    moves = rng.uniform(size=count) < 0.3
    places = rng.integers(0, tokens, count)
    for i in range(1, count):
        if not moves[i]:
            places[i] = places[i - 1]
    return places


@dataclass(frozen=True, slots=True)
class _Strayed:
    """How strongly a thing's own token holds it, and which tokens beside do."""

    home: float
    beside: tuple[tuple[int, float], ...]


def _strayed(rng: np.random.Generator, places: Ints, tokens: int) -> list[_Strayed]:
    """Of each pair; as before while the thing stays."""
    out: list[_Strayed] = []
    home, beside = 1.0, dict[int, float]()
    for number, place in enumerate(places):
        if not number or place != places[number - 1] or rng.uniform() < 0.1:
            home, beside = float(rng.uniform(0.9, 1.03)), {}
            for _ in range(int(rng.choice(3, p=BESIDE_ODDS))):
                at = int(place) + int(rng.choice([-1, 1]))
                if 0 <= at < tokens:
                    beside[at] = float(rng.uniform(0, 1))
            if beside and rng.uniform() < 0.3:
                home *= float(rng.uniform(0.7, 1.0))
        faint = rng.normal(1, 0.03, 1 + len(beside))
        strengths = zip(beside, faint[1:], strict=True)
        both = tuple((at, float(f) * min(beside[at], home)) for at, f in strengths)
        out.append(_Strayed(home * float(faint[0]), both))
    return out


def _gaps_before(rng: np.random.Generator, still: list[int]) -> frozenset[int]:
    """Pairs behind which much is left out: nothing may change there."""
    if not still or rng.uniform() < GAPLESS_ODDS:
        return frozenset()
    # A few make much of it far away, many stand for a long video as a whole.
    most = 5 if rng.uniform() < 0.3 else len(still) + 1
    wanted = min(len(still), int(rng.integers(1, most)))
    picked = sorted(int(i) for i in rng.choice(still, wanted, replace=False))
    apart: list[int] = []
    for i in picked:
        if not apart or i - apart[-1] > 1:
            apart.append(i)
    return frozenset(apart)


def _times_and_gaps(
    rng: np.random.Generator, count: int, hidden: frozenset[int]
) -> tuple[Floats, Ints]:
    """Printed times and left-out positions before each pair."""
    step_s = float(rng.choice([0.25, 0.5, 0.5, 1.0, 1.0, 2.0, rng.uniform(0.25, 4)]))
    far = FAR / max(1, len(hidden)) * float(np.exp(rng.uniform(np.log(0.002), 0)))
    gaps = np.zeros(count, dtype=np.int64)
    times = np.zeros(count)
    for i in range(1, count):
        times[i] = times[i - 1] + 2 * step_s
        if i not in hidden:
            continue
        gaps[i] = int(rng.uniform(0, far))
        waited = 2 * step_s * (1 + gaps[i] // 15)
        if rng.uniform() < 0.5:  # A time that was there already, but for its hundreds.
            then = times[int(rng.integers(i))]
            waited = float(100 * rng.integers(1, 5)) - (times[i - 1] - then) % 100
        times[i] = times[i - 1] + max(waited, 2 * step_s)
    times += step_s / 2
    room_s = max(1.0, LATEST_S - LAST_S - float(times[-1]))
    times += rng.choice([0.0, np.exp(rng.uniform(0, np.log(room_s))), rng.uniform(0, room_s)])
    if times[-1] > LATEST_S - LAST_S:
        times *= (LATEST_S - LAST_S) / times[-1]
    times = np.round(times, 1)
    for i in range(1, count):
        times[i] = max(times[i], round(times[i - 1] + 0.1, 1))
    return times, gaps


def absent_class(rng: np.random.Generator, present: tuple[int, ...]) -> int:
    """A thing that the cast lacks, mostly one that shares colour or shape with a member."""
    while True:
        number = int(rng.integers(len(CLASSES)))
        if rng.uniform() < 0.75:
            near = int(rng.choice(present))
            number = (
                near // 6 * 6 + number % 6 if rng.uniform() < 0.5 else number // 6 * 6 + near % 6
            )
        if number not in present:
            return number
