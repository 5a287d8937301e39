"""What is read from several right times at once: shares are drawn of right places alone, and what
is said of them is what the last layer would say if its heads looked so.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recipes.nano.retrieving.batch import SHUT, Lesson, Loudness
from recipes.nano.retrieving.blends import DRAWS, blend_loss, draw_blends
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.sheet import NOTHING
from recipes.nano.retrieving.trainer import new_trainer
from tests.recipes.rows import draw_row, joined


@pytest.fixture(scope="module")
def lesson(maker: LessonMaker) -> Lesson:
    _, lesson = joined(maker, range(6), Loudness(0, 0, 0))
    return lesson


def test_shares_are_of_places_that_tell_and_all_that_there_is(lesson: Lesson) -> None:
    blends = draw_blends(np.random.default_rng(0), lesson)
    rows = {tuple(pair) for pair in lesson.reads[:, :2].tolist()}
    assert len(rows) > 2
    assert len(lesson.nears) > 10
    assert len(blends.of) == DRAWS * len(rows) + len(lesson.nears)
    told = {tuple(read) for read in lesson.reads.tolist()}
    for of, row, *both in lesson.nears.tolist():
        told |= {(of, row, *both[:2]), (of, row, *both[2:])}
    own = torch.stack([blends.of[blends.at], blends.row[blends.at], blends.column, blends.token], 1)
    assert {tuple(part) for part in own.tolist()} == told
    total = torch.zeros(len(blends.of), 2).index_add(0, blends.at, blends.shares)
    assert torch.allclose(total, torch.ones_like(total))
    most = torch.zeros(len(blends.of)).scatter_reduce(0, blends.at, blends.shares[:, 0], "amax")
    assert most.max() > 0.95
    assert most.min() < 0.55


def test_pairs_that_are_near_go_on_behind_what_was_said(maker: LessonMaker) -> None:
    seen: set[int] = set()
    for seed in range(30):
        course, sheet = draw_row(maker, seed)
        times = [maker.encode(f"{s:.1f}") for s in course.seconds]
        rows = {row for row, _ in sheet.also}
        for row, *both in sheet.nears:
            assert row in rows
            first, second = (sheet.owner[column] for column in both[::2])
            assert second == first + 1
            assert course.pairs[first].code
            assert course.pairs[second].code
            same = [a == b for a, b in zip(times[first], times[second], strict=False)]
            k = same.index(False)
            assert both[1::2] == [times[first][k], times[second][k]]
            seen.add(k)
    assert seen >= {0, 1}


def test_a_blend_says_what_the_last_layer_would(lesson: Lesson) -> None:
    """All heads are made to look at one column, which some right token is said to be read from."""
    trainer = new_trainer(0, 1e-3)
    of, row = lesson.reads[0, :2].tolist()
    told = torch.tensor([[of, row, NOTHING, 7], [of, row, NOTHING, 9]])
    only = replace(lesson, reads=told, nears=lesson.nears[:0])
    bias = lesson.bias.written_out()
    bias[of, 0, row] = SHUT
    bias[of, 0, row, NOTHING] = 0
    words = trainer.model.model.language_model.embed_tokens.weight
    with torch.inference_mode():
        watched: list[Watched] = []
        states = run(trainer.model, only, watched, bias)
        blends = draw_blends(np.random.default_rng(0), only)
        loss, is_right = blend_loss(trainer.model, states[-3], watched[-1], blends)
        said = F.linear(states[-1][of, row - lesson.tail], words)
    assert float(loss) == pytest.approx(float(-said.softmax(-1)[[7, 9]].sum().log()), rel=1e-4)
    assert float(is_right) == float(int(said.argmax()) in (7, 9))


def test_a_lesson_tells_of_blends_where_it_has_some(lesson: Lesson) -> None:
    trainer = new_trainer(0, 1e-3)

    def told(lesson: Lesson, blending: float) -> tuple[float, dict[str, float]]:
        blends = draw_blends(np.random.default_rng(0), lesson)
        with torch.inference_mode():
            loss, numbers = lesson_loss(
                trainer.model,
                trainer.probes,
                lesson,
                looking=0,
                knowing=0,
                naming=0,
                blends=blends,
                blending=blending,
            )
        return float(loss), numbers

    without, numbers = told(lesson, 0)
    assert told(lesson, 2)[0] - without == pytest.approx(2 * numbers["blend"], rel=1e-3)
    alone = replace(lesson, reads=lesson.reads[:0], nears=lesson.nears[:0])
    assert "blend" not in told(alone, 2)[1]
    assert told(alone, 2)[0] == told(alone, 0)[0]
