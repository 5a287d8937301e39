"""Rows of lessons about codes, drawn for tests."""

from __future__ import annotations

import numpy as np

from recipes.nano.retrieving.batch import Lesson, Loudness, join
from recipes.nano.retrieving.courses import Course, draw_course, worded_features
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.sheet import Sheet
from recipes.nano.tokenizer import build

TOKENIZER = build()


def draw_row(maker: LessonMaker, seed: int, questions: int = 6) -> tuple[Course, Sheet]:
    rng = np.random.default_rng(seed)
    course = draw_course(rng, 8, 12)
    return course, maker.row(rng, course, (3, 4), questions)


def joined(maker: LessonMaker, seeds: range, loudness: Loudness) -> tuple[list[Sheet], Lesson]:
    drawn = [draw_row(maker, seed) for seed in seeds]
    rng = np.random.default_rng(0)
    features = [worded_features(rng, course) for course, _ in drawn]
    sheets = [sheet for _, sheet in drawn]
    return sheets, join(sheets, features, [loudness] * len(sheets))
