"""Step 2: lessons. A course of codes and things becomes a row of tokens with questions behind it,
and with what each part of the decoder should look at and know on the way to an answer.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from pipeline.needles import Kind
from recipes.nano.retrieving.asked import (
    ABSENT,
    FIRST_ODDS,
    Asked,
    clock_classes,
    draw_question,
    letter_classes,
    matching,
)
from recipes.nano.retrieving.courses import Course, Shown
from recipes.nano.retrieving.sheet import CLOCK, LETTERS, NAMED, NOTHING, THING, Sheet
from recipes.nano.shape import HEADS, ID, LAYERS
from recipes.nano.tokenizer import ANSWER, BEFORE, CLOSE, CLOSINGS, OPENINGS, TO
from schemas.time import timestamp_text

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
    ) -> Sheet:
        """A video and at most `questions` questions, as it allows."""
        sheet, pads, at = self.video(rng, course, grid)
        for number in range(questions):
            asked = draw_question(rng, course, self._odds, self._absent)
            if asked is not None:
                self.ask(rng, sheet, course, asked, pads, at, -2 - number)
        return sheet

    def video(
        self,
        rng: np.random.Generator,
        course: Course,
        grid: tuple[int, int],
    ) -> tuple[Sheet, list[dict[int, int]], int]:
        """A sheet without questions, each pair's columns by merged token, and the next position."""
        sheet, pads = Sheet(), []
        at = sheet.say(self.encode("<|im_start|>user\n"), course.start, -1)
        for number, shown in enumerate(course.pairs):
            at += int(course.gaps[number])
            at, own = self._pair(sheet, course, number, at, grid)
            pads.append(own)
            self._teach_pair(rng, sheet, shown, own, float(course.seconds[number]))
            if course.beside:
                sheet.holds |= {own[one.at]: THING for one in course.beside[number]}
        return sheet, pads, at

    def teach_rest(
        self, rng: np.random.Generator, sheet: Sheet, row: int, busy: tuple[int, ...]
    ) -> None:
        """Where a layer was added for spans, heads without a task look at nothing: those of the
        added layer always, those before it, but for `busy`, now and then. A lesson is short:
        left alone, they may look in a long video where they never did in one."""
        for layer in range(LAYERS - 1, self.match_layer):
            sheet.looks += [(layer, head, row, [NOTHING]) for head in range(HEADS)]
            if rng.uniform() < REST_ODDS:
                rest = [head for head in range(HEADS) if head not in busy]
                sheet.looks += [(layer - 1, head, row, [NOTHING]) for head in rest]

    def teach_idle(self, sheet: Sheet, column: int, heads: tuple[int, ...]) -> None:
        """Where a layer was added for spans, heads of the first layer that have no task in a token
        look at it: left alone, those of answers looked at times all over a video."""
        if self.match_layer >= LAYERS:
            sheet.looks += [(0, head, column, [column]) for head in heads]

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

    def ask(
        self,
        rng: np.random.Generator,
        sheet: Sheet,
        course: Course,
        asked: Asked,
        pads: list[dict[int, int]],
        at: int,
        owner: int,
    ) -> None:
        """A question and its answer behind a video, each pair's columns by merged token in `pads`,
        from position `at` on."""
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
            places = matching(asked, said[:k], self.encode)
            if asked.kind == "when":
                sheet.also += [(row, self.encode(text)[k]) for _, _, text in places]
                self._teach_choice(
                    sheet, row, {pads[i][p]: self.encode(t)[k] for i, p, t in places}
                )
                if asked.places:
                    self._teach_nears(sheet, row, course, pads, said[:k])
            columns = sorted({pads[pair][at] for pair, at, _ in places}) or [NOTHING]
            sheet.exempt.append((row, columns))
            for head, back in enumerate((1, 2)):
                sheet.looks.append((0, head, row, [row - back]))
            self.teach_idle(sheet, row, (2, 3))
            sheet.looks.append((1, 0, row, [gather]))
            self.teach_rest(rng, sheet, row, busy=(0,))
            own = HEADS_OF[asked.what]
            times = FIRST_COUNTS if k == 0 else 1
            last = self.match_layer
            sheet.looks += [(last, head, row, columns) for head in own] * times
            sheet.looks += [(last, h, row, [NOTHING]) for h in range(HEADS) if h not in own]
            sheet.knows.append((row, asked.what, asked.classes))

    def _teach_nears(
        self,
        sheet: Sheet,
        row: int,
        course: Course,
        pads: list[dict[int, int]],
        said: list[int],
    ) -> None:
        """Each two pairs with codes whose times go on differently behind what was said."""
        k = len(said)
        for number in range(len(course.pairs) - 1):
            two = (number, number + 1)
            ids = [self.encode(f"{course.seconds[i]:.1f}") for i in two]
            if any(not course.pairs[i].code for i in two) or any(own[:k] != said for own in ids):
                continue
            if ids[0][k] != ids[1][k]:
                at = [pads[i][course.pairs[i].code_at] for i in two]
                sheet.nears.append((row, at[0], ids[0][k], at[1], ids[1][k]))

    @staticmethod
    def _teach_choice(sheet: Sheet, row: int, token_of: dict[int, int]) -> None:
        if len(set(token_of.values())) > 1:
            sheet.reads += [(row, column, token) for column, token in token_of.items()]

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
        self.teach_idle(sheet, gather, tuple(range(len(backs), 3)))
        sheet.looks.append((0, 3, gather, [kind_at]))
        sheet.knows.append((gather, asked.what, asked.classes))
        if asked.what == THING:
            sheet.knows.append((gather, NAMED, asked.classes))
