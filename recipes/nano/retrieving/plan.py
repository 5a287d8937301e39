"""Step 2: what the decoder learns from at which step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from tokenizers import Tokenizer

from recipes.nano.retrieving.asked import ABSENT, EVEN_ODDS, FIRST_ODDS, MORE_ABSENT
from recipes.nano.retrieving.batch import Lesson, draw_loudness, join
from recipes.nano.retrieving.courses import draw_course, worded_features
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.span_courses import draw_spans
from recipes.nano.retrieving.span_lessons import SpanLessons
from recipes.nano.shape import LAYERS

GRIDS = ((2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (4, 6), (6, 8), (8, 8), (7, 12), (12, 12))
QUESTIONS = 8
TOKENS_PER_PAIR, TOKENS_PER_QUESTION = 14, 26
SPAN_QUESTIONS, TOKENS_PER_SPAN_QUESTION = 4, 50
CODES, SPANS = "codes", "spans"
"""Kinds of lessons."""
SPAN_PAIRS = (5, 100)
SPAN_TOKENS = 32_768
"""Of the longest video in which spans are asked for."""
LOUDEST = {CODES: 8.0, SPANS: 6.0}
"""log of how many times ground counts at most: a million tokens against a few hundred, or 32K, in
which spans are asked for, against fewer."""
EARLY, LATE = 0.25, 0.4
"""Shares of the steps: until then lessons grow and tokens are told letters and times; from then on
all is as hard as it gets."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a batch."""

    pairs: tuple[int, int]
    """Fewest and most of a row."""
    tokens: int
    """About how many in all."""
    loudest: float
    """log of how many times ground counts at most."""


def draw_lesson(
    rng: np.random.Generator,
    maker: LessonMaker,
    sizes: Sizes,
    frames: tuple[tuple[int, int], ...] = GRIDS,
) -> Lesson:
    """A batch with rows of one length."""
    count, grids = _draw_sizes(rng, sizes, QUESTIONS * TOKENS_PER_QUESTION, frames)
    courses = [draw_course(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        maker.row(rng, course, grid, QUESTIONS) for course, grid in zip(courses, grids, strict=True)
    ]
    features = [worded_features(rng, course) for course in courses]
    return join(sheets, features, draw_loudness(rng, len(sheets), sizes.loudest))


def draw_span_lesson(rng: np.random.Generator, lessons: SpanLessons, sizes: Sizes) -> Lesson:
    """The same, of `find` questions."""
    asked = SPAN_QUESTIONS * TOKENS_PER_SPAN_QUESTION
    count, grids = _draw_sizes(rng, sizes, asked, GRIDS)
    drawn = [draw_spans(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        lessons.row(rng, own, grid, SPAN_QUESTIONS) for own, grid in zip(drawn, grids, strict=True)
    ]
    features = [worded_features(rng, own.course) for own in drawn]
    # A token of a short lesson stands for more of them than one of a long lesson.
    most = min(sizes.loudest, float(np.log(SPAN_TOKENS / (count * TOKENS_PER_PAIR))))
    return join(sheets, features, draw_loudness(rng, len(sheets), most))


def _draw_sizes(
    rng: np.random.Generator, sizes: Sizes, asked: int, frames: tuple[tuple[int, int], ...]
) -> tuple[int, list[tuple[int, int]]]:
    """Pairs of each row and a grid for each of as many rows as its tokens hold."""
    count = int(np.exp(rng.uniform(np.log(sizes.pairs[0]), np.log(sizes.pairs[1] + 1))))
    size = max(1, min(64, sizes.tokens // (count * TOKENS_PER_PAIR + asked)))
    return count, [frames[int(rng.integers(len(frames)))] for _ in range(size)]


@dataclass(frozen=True)
class Plan:
    """What is learnt at which step; drawn in other processes."""

    tokenizer: Tokenizer
    steps: int
    tokens: int
    goes_on: bool
    """Whether it begins with what another run learnt: then lessons are as hard as they get."""
    spans: float
    """Share of lessons about spans."""
    parts: int = 1
    """Lessons of a step, which share its tokens."""

    @property
    def layers(self) -> int:
        return LAYERS + (self.spans > 0)

    @cached_property
    def early(self) -> LessonMaker:
        return LessonMaker(self.tokenizer, FIRST_ODDS, ABSENT, self.layers - 1)

    @cached_property
    def later(self) -> LessonMaker:
        return LessonMaker(self.tokenizer, EVEN_ODDS, MORE_ABSENT, self.layers - 1)

    def share(self, step: int) -> float:
        """How far the course has come."""
        return 1.0 if self.goes_on else step / self.steps

    def kind(self, step: int) -> str:
        """SPANS or CODES, evenly spread."""
        is_about_spans = int((step + 1) * self.spans) > int(step * self.spans)
        return SPANS if is_about_spans else CODES

    @cached_property
    def tries(self) -> dict[str, list[Lesson]]:
        """What `try_out` asks."""
        kinds = (CODES, SPANS) if self.spans else (CODES,)
        return {kind: [self._try(kind, number) for number in range(6)] for kind in kinds}

    def _try(self, kind: str, number: int) -> Lesson:
        rng = np.random.default_rng((88, number))
        if kind == SPANS:
            sizes = Sizes((16, 60), 5000, LOUDEST[SPANS])
            return draw_span_lesson(rng, SpanLessons(self.later), sizes)
        return draw_lesson(rng, self.later, Sizes((16, 32), 5000, LOUDEST[CODES]))

    def fitting(self, number: int) -> Lesson:
        """A lesson that heads are fitted to."""
        rng = np.random.default_rng((89, number))
        if number % 4 == 3:
            return draw_lesson(rng, self.later, Sizes((3, 28), 5000, LOUDEST[CODES]))
        sizes = Sizes((16, 90), 5000, LOUDEST[SPANS])
        return draw_span_lesson(rng, SpanLessons(self.later), sizes)

    def draw(self, rng: np.random.Generator, step: int) -> tuple[Lesson, ...]:
        """The lessons of a step."""
        return tuple(self._lesson(rng, step) for _ in range(self.parts))

    def _lesson(self, rng: np.random.Generator, step: int) -> Lesson:
        share, tokens = self.share(step), self.tokens // self.parts
        kind = self.kind(step)
        loudest = LOUDEST[kind] * min(1.0, share / 0.3)
        if kind == SPANS:
            sizes = Sizes(SPAN_PAIRS, tokens, loudest)
            return draw_span_lesson(rng, SpanLessons(self.later), sizes)
        longest = 4 + int(24 * min(1.0, share / EARLY))
        maker = self.early if share < EARLY else self.later
        return draw_lesson(rng, maker, Sizes((3, longest), tokens, loudest))
