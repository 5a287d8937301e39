"""Step 2b: lessons. A course of codes and things becomes a row of tokens with questions behind it,
and with what each part of the decoder should look at and know on the way to an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from pipeline.lettering import ALPHABET, near_code, random_code
from pipeline.needles import ASKS, NONE, Kind
from recipes.nano.next.courses import Course, Shown
from recipes.nano.next.shape import FAR, HEADS, ID, LAYERS
from recipes.nano.next.tokenizer import ANSWER, BEFORE, CLOSE, CLOSINGS, OPENINGS, TO
from recipes.nano.pictures import CLASSES
from schemas.time import timestamp_text

KINDS: tuple[Kind, ...] = tuple(ASKS)
NO_HUNDREDS = 100
"""The class of a time below 100 seconds, which has no piece of hundreds."""
ALIKE_ODDS = 0.7
"""Share of lessons, and of their pairs, that stand an alike distance behind an earlier pair."""
_ROOM = 2_000
"""Positions kept for the pairs that follow."""
NOTHING = 0
"""Column that is looked at where no place tells an answer: the prompt's first token."""

Encode = Callable[[str], list[int]]


@dataclass(slots=True)
class Sheet:
    """One row under construction: a video and questions behind it."""

    ids: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    """Pair of each token of the video, −1 before it, −2 − k in question k."""
    labels: dict[int, int] = field(default_factory=dict)
    also: list[tuple[int, int]] = field(default_factory=list)
    """(column, token): tokens that are as right as the label. Left out, the loss is mostly about
    which of two right times was drawn, and a mixture of both, which is a third, costs little."""
    weights: dict[int, float] = field(default_factory=dict)
    looks: list[tuple[int, int, int, list[int]]] = field(default_factory=list)
    """(layer, head, row, columns): where a head should look, at any of them."""
    counts: list[tuple[int, int, int, list[int]]] = field(default_factory=list)
    """The same, at all of them evenly."""
    knows: list[tuple[int, int, tuple[int, ...]]] = field(default_factory=list)
    """(column, what, classes): what a token should know before the last layer."""
    exempt: list[tuple[int, list[int]]] = field(default_factory=list)
    """(row, columns): what is not made louder for a row that asks."""
    holds: dict[int, int] = field(default_factory=dict)
    """LETTERS or THING: as loud as these, for each column that holds more than ground."""
    crowds: list[tuple[int, list[int], float]] = field(default_factory=list)
    """(row, columns, n): each column counts n-fold for the row."""
    hidden: list[tuple[int, int | None]] = field(default_factory=list)
    """(column, row): what only that one row sees, if any."""

    def say(self, ids: list[int], at: int, owner: int) -> int:
        """Text from position `at`; returns the next position."""
        self.ids += ids
        self.positions += [(at + k, at + k, at + k) for k in range(len(ids))]
        self.owner += [owner] * len(ids)
        return at + len(ids)


ABSENT: dict[Kind, float] = {"when": 0.15, "code_with": 0.3}
"""Share of the questions of a kind that are about what is never shown."""
MORE_ABSENT: dict[Kind, float] = {"when": 0.4, "code_with": 0.5}
FIRST_ODDS = (0.45, 0.3, 0.15, 0.05, 0.05)
"""Of the kinds, in order. Times are learnt first: what is matched by things comes later."""
EVEN_ODDS = (0.32, 0.28, 0.3, 0.05, 0.05)
LETTERS, CLOCK, THING, NAMED, SEEN, CHANGED, COMING, GOING, NEXT_COMING, NEXT_GOING = range(10)
"""What tokens are asked to know; NAMED: a thing, behind the first layer already. Of the tokens that
end pairs: things SEEN in the pair (36 × 0 or 1), CHANGED (36 that come, 36 that go), and how often
what is COMING or GOING had gone before. Answers' tokens know the same of what they look for NEXT.
"""
HEADS_OF = {LETTERS: (0, 1), THING: (2,), CLOCK: (3,)}
"""Heads of the last layer that match what is asked by it; the others look at `NOTHING`. A key holds
all that its head matches within one norm: with the time in it a whole code was 5 above one that
lacks a letter, of scores of 28."""
REST_ODDS = 0.3
FIRST_COUNTS = 3
"""Times that an answer's first token is told where to look: it decides whether there is any."""


class LessonMaker:
    """Draws rows and joins them into batches."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        odds: tuple[float, ...] = FIRST_ODDS,
        absent: dict[Kind, float] | None = None,
        match_layer: int = LAYERS - 1,
    ) -> None:
        self._tokenizer, self._odds, self.match_layer = tokenizer, odds, match_layer
        self._absent = ABSENT if absent is None else absent
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._cache[text]

    def row(
        self,
        rng: np.random.Generator,
        course: Course,
        grid: tuple[int, int],
        questions: int,
        alike: Sequence[int] = (),
    ) -> Sheet:
        """A video and at most `questions` questions, as it allows; `alike` as in `video`."""
        sheet, pads, at = self.video(rng, course, grid, alike)
        for number in range(questions):
            asked = _draw_question(rng, course, self._odds, self._absent)
            if asked is not None:
                self._ask(rng, sheet, course, asked, pads, at, -2 - number)
        return sheet

    def video(
        self,
        rng: np.random.Generator,
        course: Course,
        grid: tuple[int, int],
        alike: Sequence[int] = (),
        may_move: frozenset[int] | None = None,
    ) -> tuple[Sheet, list[dict[int, int]], int]:
        """A sheet without questions, each pair's columns by merged token, and the next position.

        `alike`: positions from one pair to another that look to the model as if they were one.
        Pairs of `may_move`, or any, come to stand so far behind an earlier one.
        """
        sheet, pads = Sheet(), []
        begins: list[int] = []
        at = sheet.say(self.encode("<|im_start|>user\n"), course.start, -1)
        odds = ALIKE_ODDS if alike and rng.uniform() < ALIKE_ODDS else 0.0
        for number, shown in enumerate(course.pairs):
            at += int(course.gaps[number])
            moves = may_move is None or number in may_move
            if begins and moves and rng.uniform() < odds:
                at += _to_alike_place(rng, begins, at, alike)
            begins.append(at)
            at, own = self._pair(sheet, course, number, at, grid)
            pads.append(own)
            self._teach_pair(rng, sheet, shown, own, float(course.seconds[number]))
        return sheet, pads, at

    def teach_rest(
        self, rng: np.random.Generator, sheet: Sheet, row: int, busy: tuple[int, ...]
    ) -> None:
        """Where a layer was added for spans, heads without a task look at nothing: those of the
        added layer always, those before it, but for `busy`, now and then. Left alone, they look
        where they never did in a lesson, which is short: 21 of 112 codes were found no more."""
        for layer in range(LAYERS - 1, self.match_layer):
            sheet.looks += [(layer, head, row, [NOTHING]) for head in range(HEADS)]
            if rng.uniform() < REST_ODDS:
                rest = [head for head in range(HEADS) if head not in busy]
                sheet.looks += [(layer - 1, head, row, [NOTHING]) for head in rest]

    def _pair(
        self, sheet: Sheet, course: Course, number: int, at: int, grid: tuple[int, int]
    ) -> tuple[int, dict[int, int]]:
        """One pair's tokens from `at` on; the next position and each kept token's column."""
        text = timestamp_text(course.seconds[number])
        at = sheet.say([*self.encode(text), ID["<|vision_start|>"]], at, number)
        first, kept = len(sheet.ids), course.pairs[number].kept
        sheet.ids += [ID["<|video_pad|>"]] * len(kept)
        sheet.positions += [(at, at + k // grid[1], at + k % grid[1]) for k in kept]
        sheet.owner += [number] * len(kept)
        at = sheet.say([ID["<|vision_end|>"]], at + max(grid), number)
        return at, {k: first + row for row, k in enumerate(kept)}

    def _teach_pair(
        self,
        rng: np.random.Generator,
        sheet: Sheet,
        shown: Shown,
        pads: dict[int, int],
        seconds: float,
    ) -> None:
        """Pictures bind their time in the first layer and what is beside them in the second."""
        first = min(pads.values())
        sheet.holds |= {pads[at]: THING for at in shown.things_at}
        if shown.code:
            sheet.holds[pads[shown.code_at]] = LETTERS
        told = {pads[at] for at in shown.things_at} | {int(rng.choice(list(pads.values())))}
        if shown.code:
            told.add(pads[shown.code_at])
        for column in told:
            for head, back in ((3, 3), (1, 5), (2, 6)):
                sheet.looks.append((0, head, column, [first - back]))
            sheet.knows.append((column, CLOCK, clock_classes(seconds)))
            self.teach_rest(rng, sheet, column, busy=(0,))
        for at, number in zip(shown.things_at, shown.things, strict=True):
            if shown.things_at.count(at) == 1 and at != shown.code_at:
                sheet.knows.append((pads[at], NAMED, (number,)))
                # Left alone, this head told things apart by where else it looked: nine places.
                sheet.looks.append((0, 0, pads[at], [pads[at]]))
        things = {
            pads[at]: number for at, number in zip(shown.things_at, shown.things, strict=True)
        }
        code_column = pads[shown.code_at] if shown.code else len(sheet.ids)
        earlier = [column for column in things if column < code_column]
        # What stands alone says so: left alone, it took the letters of some other pair's code.
        sheet.looks += [(1, 0, column, [NOTHING]) for column in earlier]
        if not shown.code:
            return
        sheet.looks.append((0, 0, code_column, [code_column]))
        sheet.knows.append((code_column, LETTERS, letter_classes(shown.code)))
        if earlier or shown.code_at not in shown.things_at:
            sheet.looks.append((1, 0, code_column, earlier or [NOTHING]))
        for column, number in things.items():
            if column > code_column:
                sheet.looks.append((1, 0, column, [code_column]))
                sheet.knows.append((column, LETTERS, letter_classes(shown.code)))
                sheet.knows.append((column, THING, (number,)))
        if len(things) == 1 and earlier:
            sheet.knows.append((code_column, THING, (things[earlier[0]],)))

    def _ask(
        self,
        rng: np.random.Generator,
        sheet: Sheet,
        course: Course,
        asked: Asked,
        pads: list[dict[int, int]],
        at: int,
        owner: int,
    ) -> None:
        begin, end = self.encode("0.0"), self.encode(f"{course.end_s:.1f}")
        opening = [*self.encode(BEFORE), *begin, *self.encode(TO), *end]
        filled = self.encode(asked.filled)
        base = len(sheet.ids)
        kind_at = base + len(opening)
        gather = kind_at + 1 + len(filled)
        prompt = [
            *opening,
            *self.encode(OPENINGS[asked.kind]),
            *filled,
            *self.encode(CLOSINGS[asked.kind]),
            *self.encode("<|im_end|>\n<|im_start|>assistant\n"),
        ]
        self._teach_gather(sheet, asked, gather, kind_at)
        said = self.encode(asked.answer)
        answer = [*self.encode(ANSWER), *said, *self.encode(CLOSE), ID["<|im_end|>"]]
        sheet.say([*prompt, *answer], at, owner)
        first = base + len(prompt)
        for k, token in enumerate(answer):
            sheet.labels[first - 1 + k] = token
            sheet.weights[first - 1 + k] = 1.0 if 0 < k <= len(said) + 1 else 0.2
        for k in range(len(said)):
            row = first + k
            places = _matching(asked, said[:k], self.encode)
            if asked.kind == "when":
                sheet.also += [(row, self.encode(text)[k]) for _, _, text in places]
            columns = sorted({pads[pair][at] for pair, at, _ in places}) or [NOTHING]
            sheet.exempt.append((row, columns))
            for head, back in enumerate((1, 2)):
                sheet.looks.append((0, head, row, [row - back]))
            sheet.looks.append((1, 0, row, [gather]))
            self.teach_rest(rng, sheet, row, busy=(0,))
            own = HEADS_OF[asked.what]
            times = FIRST_COUNTS if k == 0 else 1
            last = self.match_layer
            sheet.looks += [(last, head, row, columns) for head in own] * times
            sheet.looks += [(last, h, row, [NOTHING]) for h in range(HEADS) if h not in own]
            sheet.knows.append((row, asked.what, asked.classes))

    def _teach_gather(self, sheet: Sheet, asked: Asked, gather: int, kind_at: int) -> None:
        """The token behind what is filled in looks at its pieces and at the kind of question."""
        if asked.what == LETTERS:
            backs = [gather - 1, gather - 2, gather - 3]
        elif asked.what == THING:
            backs = [gather - 1, gather - 2]
        else:
            backs = [gather - 1, gather - 3, max(gather - 4, kind_at)]
        for head, column in enumerate(backs):
            sheet.looks.append((0, head, gather, [column]))
        sheet.looks.append((0, 3, gather, [kind_at]))
        sheet.knows.append((gather, asked.what, asked.classes))
        if asked.what == THING:
            sheet.knows.append((gather, NAMED, asked.classes))


def _to_alike_place(
    rng: np.random.Generator, begins: list[int], at: int, distances: Sequence[int]
) -> int:
    """Positions to leave out so that some earlier pair lies one of `distances` away."""
    ahead = begins[int(rng.integers(len(begins)))] + np.asarray(distances) - at
    ahead = ahead[(ahead >= 0) & (ahead < FAR - at - _ROOM)]
    return int(rng.choice(ahead)) if len(ahead) else 0


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


def _draw_question(
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


def _matching(asked: Asked, said: list[int], encode: Encode) -> tuple[tuple[int, int, str], ...]:
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
