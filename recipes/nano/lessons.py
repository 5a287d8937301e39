"""Step 4c: lessons. A course of appearing and vanishing becomes a row of tokens, questions with
their answers behind it, and what parts of the decoder should look at on the way to an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from pipeline.questions import build_questions
from pipeline.scenes import COLOURS, SHAPES
from recipes.nano.courses import Course, Ints
from recipes.nano.network import Batch
from recipes.nano.pictures import CAST_SIZE, CLASSES
from recipes.nano.shape import ID
from recipes.nano.targets import (
    Looks,
    Targets,
    changes,
    clocks,
    look_at_earlier,
    visible,
)
from schemas.job import QuerySpec
from schemas.time import TimeSpan, timestamp_text

_PHRASES = (
    ("a {}", 0.5),
    ("{}", 0.1),
    ("the {}", 0.15),
    ("a {} is visible", 0.1),
    ("a {} on screen", 0.05),
    ("a {} is on screen", 0.05),
    ("when a {} is on screen", 0.05),
)
# Tokens that the grammar forces at inference teach little.
_FORCED, _FREE = 0.03, 1.0


FeatureDraw = Callable[[np.random.Generator, list[Course], tuple[int, int]], list[Tensor]]


@dataclass(slots=True)
class _Free:
    """One token to choose: where it is chosen, and where its reason stands."""

    at: int
    target: int
    asked: int
    state: int
    colour_at: int
    shape_at: int


@dataclass(slots=True)
class _Row:
    """One sequence under construction."""

    ids: list[int] = field(default_factory=list)
    positions: list[Ints] = field(default_factory=list)
    next_position: int = 0

    def text(self, ids: list[int]) -> None:
        at = self.next_position + np.arange(len(ids))
        self.ids += ids
        self.positions.append(np.stack([at, at, at]))
        self.next_position += len(ids)

    def pad(self, offsets: Ints, step: int) -> None:
        self.ids += [ID["<|video_pad|>"]] * offsets.shape[1]
        self.positions.append(self.next_position + offsets)
        self.next_position += step


class LessonMaker:
    """Draws batches of lessons; `features` gives what the pictures would give."""

    def __init__(self, features: FeatureDraw, tokenizer: Tokenizer) -> None:
        self._features = features
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._colours = {self.encode(f" {c}")[0]: i for i, c in enumerate(COLOURS)}
        self._shapes = {self.encode(f" {s}")[0]: i for i, s in enumerate(SHAPES)}
        self._clock_end = self.encode(" seconds. Find every time span in which this is visible:")
        if len(self._clock_end) != 1:
            raise ValueError("the question's fixed wording should be one token")

    def encode(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return self._cache[text]

    def draw(
        self,
        rng: np.random.Generator,
        courses: list[Course],
        grid: tuple[int, int],
        questions: int,
    ) -> tuple[Batch, Targets]:
        """One batch: the same number of pairs and the same grid in all its rows."""
        rows, pair_at = zip(*(self._video_row(course, grid) for course in courses), strict=True)
        video_len = max(len(row.ids) for row in rows)
        asked = [self._questions(rng, course, questions) for course in courses]
        tail = max(sum(len(q.ids) for q in row) for row in asked)
        sheet = _Sheet.blank(len(courses), video_len, tail)
        free = [sheet.fill(i, rows[i], asked[i], pair_at[i]) for i in range(len(courses))]
        visual = sheet.ids == ID["<|video_pad|>"]
        features = self._features(rng, courses, grid)
        batch = Batch(sheet.ids, sheet.positions, video_len, visual, features, sheet.mask)
        return batch, _targets(sheet, courses, torch.tensor(pair_at), free, grid)

    def _video_row(self, course: Course, grid: tuple[int, int]) -> tuple[_Row, list[int]]:
        row = _Row()
        row.text(self.encode("<|im_start|>user\n"))
        rows, cols = np.mgrid[0 : grid[0], 0 : grid[1]].reshape(2, -1)
        offsets = np.stack([np.zeros_like(rows), rows, cols])
        at = []
        for seconds in course.seconds:
            row.text([*self.encode(timestamp_text(seconds)), ID["<|vision_start|>"]])
            row.pad(offsets, max(grid))
            at.append(len(row.ids))
            row.text([ID["<|vision_end|>"]])
        return row, at

    def _questions(self, rng: np.random.Generator, course: Course, count: int) -> list[_Asked]:
        members = list(rng.permutation(CAST_SIZE))
        picked: list[_Asked] = []
        for number in range(count):
            if number % 3 != 2 and members:
                member = int(members.pop())
                picked.append(self._ask(rng, course.classes[member], course.spans[member], course))
            else:
                picked.append(self._ask(rng, absent_class(rng, course.classes), (), course))
        return picked

    def _ask(
        self,
        rng: np.random.Generator,
        number: int,
        spans: tuple[tuple[int, int], ...],
        course: Course,
    ) -> _Asked:
        phrase = rng.choice([p for p, _ in _PHRASES], p=[odds for _, odds in _PHRASES])
        query = QuerySpec(id="q", find=str(phrase).format(CLASSES[number]))
        span = TimeSpan(round(course.start_s * 1000), round(course.end_s * 1000), Fraction(1, 1000))
        text = build_questions([query], span)[0].text
        ids = list(self.encode(text + "<|im_end|>\n<|im_start|>assistant\n"))
        asked = _Asked(
            ids,
            len(ids),
            number,
            ids.index(self._clock_end[0]),
            next(i for i, token in enumerate(ids) if token in self._colours),
            next(i for i, token in enumerate(ids) if token in self._shapes),
        )
        asked.answer(spans, course, self.encode)
        return asked


_NOTHING, _CLOCK_END = -1, -2


@dataclass(slots=True)
class _Asked:
    """A question and its answer; `targets` names pairs, or one of the two marks above."""

    ids: list[int]
    prompt: int
    """Tokens before the answer."""
    asked: int
    clock_at: int
    colour_at: int
    shape_at: int
    weights: list[float] = field(default_factory=list)
    free: list[tuple[int, int, int]] = field(default_factory=list)
    """(token that is chosen, target, state)."""

    def answer(
        self,
        spans: tuple[tuple[int, int], ...],
        course: Course,
        encode: Callable[[str], list[int]],
    ) -> None:
        def say(text: str, target: int | None = None, state: int = 0) -> None:
            for token in encode(text):
                if target is not None:
                    self.free.append((len(self.ids), target, state))
                self.ids.append(token)
                self.weights.append(_FORCED if target is None else _FREE)

        say('{"events": [')
        for number, (start, end) in enumerate(spans):
            last = end >= len(course.seconds)
            end_s = course.end_s if last else float(course.seconds[end])
            say("{" if not number else ",", start, 2 * number)
            say('"start": ' if not number else ' {"start": ')
            say(f"{course.seconds[start]:.1f}", start, 2 * number)
            say(', "end": ')
            say(f"{end_s:.1f}", _CLOCK_END if last else end, 2 * number + 1)
            say("}")
        say("]", _NOTHING, 2 * len(spans))
        say("}<|im_end|>")


@dataclass(slots=True)
class _Sheet:
    """The tensors of one batch under construction."""

    ids: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor
    answer_of: Tensor
    mask: Tensor
    video_len: int

    @staticmethod
    def blank(size: int, video_len: int, tail: int) -> _Sheet:
        total = video_len + tail
        mask = torch.zeros(size, 1, tail, total, dtype=torch.bool)
        mask[:, :, :, 0] = True  # Padding must see something.
        return _Sheet(
            torch.zeros(size, total, dtype=torch.long),
            torch.zeros(3, size, total, dtype=torch.long),
            torch.full((size, total), -100),
            torch.zeros(size, total),
            torch.full((size, total), -1),
            mask,
            video_len,
        )

    def fill(self, i: int, row: _Row, asked: list[_Asked], pair_at: list[int]) -> list[_Free]:
        """Write row `i`; returns its tokens to choose."""
        used, free = len(row.ids), []
        self.ids[i, :used] = torch.tensor(row.ids)
        self.positions[:, i, :used] = torch.from_numpy(np.concatenate(row.positions, axis=1))
        column = self.video_len
        for number, question in enumerate(asked):
            n, prompt = len(question.ids), question.prompt
            self.ids[i, column : column + n] = torch.tensor(question.ids)
            self.positions[:, i, column : column + n] = row.next_position + torch.arange(n)
            said = slice(column + prompt - 1, column + n - 1)
            self.labels[i, said] = torch.tensor(question.ids[prompt:])
            self.weights[i, said] = torch.tensor(question.weights)
            self.answer_of[i, said] = number
            low = column - self.video_len
            self.mask[i, 0, low : low + n, :used] = True
            self.mask[i, 0, low : low + n, column : column + n] = torch.ones(
                n, n, dtype=torch.bool
            ).tril()
            for token, target, state in question.free:
                marks = {_NOTHING: 0, _CLOCK_END: column + question.clock_at}
                free.append(
                    _Free(
                        column + token - 1,
                        marks[target] if target < 0 else pair_at[target],
                        question.asked,
                        state,
                        column + question.colour_at,
                        column + question.shape_at,
                    )
                )
            column += n
        return free


def _targets(
    sheet: _Sheet,
    courses: list[Course],
    pair_at: Tensor,
    free: list[list[_Free]],
    grid: tuple[int, int],
) -> Targets:
    most = max(len(row) for row in free)
    table = torch.tensor(
        [
            [
                (f.at, f.target, f.asked, f.state, f.colour_at, f.shape_at)
                for f in (row + [row[-1]] * (most - len(row)))
            ]
            for row in free
        ]
    )
    at, target, asked, state, colour_at, shape_at = table.unbind(-1)
    first, clock = pair_at - grid[0] * grid[1], pair_at - grid[0] * grid[1] - 2
    before = torch.cat([torch.zeros_like(pair_at[:, :1]), pair_at[:, :-1]], dim=1)
    looks = [
        Looks(0, 0, pair_at, first, pair_at),
        *(
            Looks(0, h, clock, clock - back, clock - back + 1)
            for h, back in ((1, 1), (2, 3), (3, 4))
        ),
        Looks(0, 0, at, colour_at, colour_at + 1),
        Looks(0, 3, at, shape_at, shape_at + 1),
        Looks(1, 0, pair_at, before, before + 1),
        Looks(1, 1, pair_at, clock, clock + 1),
        *(Looks(3, h, at, target, target + 1) for h in (0, 1)),
    ]
    return Targets(
        sheet.labels,
        sheet.weights,
        sheet.answer_of,
        pair_at,
        torch.stack([visible(course) for course in courses]),
        torch.stack([changes(course) for course in courses]),
        torch.stack([clocks(course.seconds) for course in courses]),
        at,
        asked,
        state,
        looks,
        [look_at_earlier(courses, pair_at, edge) for edge in (0, 1)],
    )


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
