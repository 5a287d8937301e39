"""How far apart times are held: of each the right code's score less the best other one's."""

from __future__ import annotations

import pytest
import torch

from recipes.nano.retrieving.clock import found, lesson_of, margins
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.lessons import FIRST_COUNTS, LessonMaker
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.shape import HEAD_DIM, LAYERS, PUBLISHED
from tests.recipes.rows import TOKENIZER

TIMES_S = [3.6, 4.1, 103.6, 250.0]


@pytest.fixture(scope="module")
def spanning() -> LessonMaker:
    return LessonMaker(TOKENIZER, match_layer=LAYERS)


def test_each_answer_is_held_against_all_other_codes(spanning: LessonMaker) -> None:
    lesson = lesson_of(spanning, TIMES_S)
    model = new_trainer(0, 1e-3, LAYERS + 1).model
    watched: list[Watched] = []
    with torch.inference_mode():
        own = margins(model, lesson)
        run(model, lesson, watched)
    assert len(own) == len(TIMES_S) * (2 + FIRST_COUNTS)
    query, key = watched[-1].q[0, 3], watched[-1].k[0, 3]
    codes = [int(c) for c in lesson.visual[0].nonzero()[::2, 0]]
    row = int((lesson.weights[0] == 1).nonzero()[0])
    scores = [float(query[row] @ key[code]) * HEAD_DIM**-0.5 for code in codes]
    assert float(own[0]) == pytest.approx(scores[0] - max(scores[1:]), rel=1e-3)


def test_the_shipped_decoder_holds_times_apart(spanning: LessonMaker) -> None:
    told = dict(found(PUBLISHED, spanning))
    for kind in ("units", "units behind 500", "units behind 3700", "hundreds"):
        assert told[kind].median() > 4, kind
        assert (told[kind] > 0).float().mean() > 0.97, kind
