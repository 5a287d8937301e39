"""What tests of lessons about codes share."""

from __future__ import annotations

import pytest

from recipes.nano.retrieving.lessons import LessonMaker
from tests.recipes.rows import TOKENIZER


@pytest.fixture(scope="module")
def maker() -> LessonMaker:
    return LessonMaker(TOKENIZER)
