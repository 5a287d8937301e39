"""Where heads look: what it costs to look elsewhere, and at several places at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recipes.nano.retrieving.batch import Loudness, join
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.looks import (
    JOINS,
    JOINS_MARGIN,
    LAST_MARGIN,
    SLOW,
    choice_loss,
    look_losses,
)
from recipes.nano.retrieving.sheet import Sheet
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.shape import HEAD_DIM, HIDDEN, ID, LAYERS
from tests.recipes.rows import draw_row, joined


def joining_losses(numbers: list[int]) -> tuple[float, float]:
    """Of the head that joins a pair's code and thing, where it finds what it should look at by
    these numbers: where it looks, and where it would without knowing where anything stands."""
    queries = torch.zeros(1, 4, 6, HEAD_DIM)
    keys = queries.clone()
    queries[0, JOINS[1], 5, numbers] = 10.0
    keys[0, JOINS[1], 2, numbers] = 10.0
    sheet = Sheet()
    sheet.say([ID["<|video_pad|>"]] * 6, 0, -1)
    sheet.looks.append((*JOINS, 5, [2]))
    lesson = join([sheet], [torch.zeros(6, HIDDEN)], [Loudness(0, 0, 0)])
    watched = [Watched(queries, keys, queries, keys, keys, keys)] * 2
    losses = look_losses(watched, lesson, lesson.bias.written_out())
    return float(losses["look10"]), float(losses["still10"])


def test_a_code_and_a_thing_are_joined_by_what_does_not_turn() -> None:
    turning = [number for number in range(HEAD_DIM) if number not in SLOW]
    assert len(SLOW) == 36
    assert joining_losses(turning[:4]) == pytest.approx((0, np.log(6)), abs=1e-3)
    assert joining_losses(SLOW[:4]) == pytest.approx((0, 0), abs=1e-3)


def test_a_margin_is_asked_for_behind_the_first_layer(maker: LessonMaker) -> None:
    trainer = new_trainer(0, 1e-3)
    _, lesson = joined(maker, range(3), Loudness(0, 0, 0))
    watched: list[Watched] = []
    with torch.inference_mode():
        run(trainer.model, lesson, watched)
        bias = lesson.bias.written_out()
    joining = [f"{name}{JOINS[0]}{JOINS[1]}" for name in ("look", "still")]
    plain = look_losses(watched, lesson, bias)
    strict = look_losses(watched, lesson, bias, margin=4.0)
    for name, loss in plain.items():
        more = float(strict[name] - loss)
        if name.startswith("look0"):
            assert more == 0
        elif name in joining:
            assert 4 < more <= 4 * JOINS_MARGIN
        elif name.startswith(f"look{LAYERS - 1}"):
            assert 0 < more <= 4 * LAST_MARGIN
        else:
            assert 0 < more <= 4


def look_loss(scores: tuple[float, float]) -> float:
    """Loss of a head whose scores at two places where it may look are these; 0 elsewhere."""
    queries = torch.zeros(1, 4, 6, 64)
    keys = queries.clone()
    queries[0, 1, 5] = 1.0
    keys[0, 1, 2], keys[0, 1, 4] = torch.tensor(scores)[:, None].expand(-1, 64) / 8
    sheet = Sheet()
    sheet.say([0] * 6, 0, -1)
    sheet.looks.append((1, 1, 5, [2, 4]))
    lesson = join([sheet], [torch.zeros(0, HIDDEN)], [Loudness(0, 0, 0)])
    bias = lesson.bias.written_out()
    watched = [Watched(queries, keys, *[keys] * 4)] * 3
    (loss,) = look_losses(watched, lesson, bias, margin=4.0).values()
    return float(loss)


def test_a_head_may_look_at_any_of_its_places_and_needs_a_margin() -> None:
    assert 0 <= look_loss((20.0, 0.0)) < 1e-3
    others = 4 * np.exp(-4.0) / 2
    with_margin = np.log1p(others * np.exp(4.0))
    assert look_loss((4.0, 4.0)) == pytest.approx(with_margin, rel=1e-2)


def test_places_that_tell_different_tokens_are_told_apart(maker: LessonMaker) -> None:
    found = 0
    for seed in range(12):
        _, sheet = draw_row(maker, seed)
        told: dict[int, dict[int, int]] = {}
        for row, column, token in sheet.reads:
            told.setdefault(row, {})[column] = token
        also = {row: {t for at, t in sheet.also if at == row} for row, _ in sheet.also}
        matched = {row: own for layer, _, row, own in sheet.looks if layer == LAYERS - 1 and own[0]}
        for row, tokens in also.items():
            if len(tokens) > 1:
                assert set(told[row].values()) == tokens
                assert set(told[row]) == set(matched[row])
                found += 1
            else:
                assert row not in told
    assert found > 5


def choice(scores: tuple[float, ...], tokens: tuple[int, ...]) -> float:
    """Loss of heads whose scores at three places, which tell these tokens, are `scores`."""
    queries = torch.zeros(1, 4, 1, 64)
    keys = torch.zeros(1, 4, 6, 64)
    queries[0, :, 0] = 1.0
    keys[0, :, 1 : 1 + len(scores)] = torch.tensor(scores)[:, None].expand(-1, 64) / 8
    sheet = Sheet()
    sheet.say([0] * 5, 0, -1)
    sheet.say([0], 5, -2)
    sheet.reads += [(5, 1 + k, token) for k, token in enumerate(tokens)]
    lesson = join([sheet], [torch.zeros(0, HIDDEN)], [Loudness(0, 0, 0)])
    assert lesson.tail == 5
    last = Watched(queries, keys, *[keys] * 4)
    return float(choice_loss(last, lesson, lesson.bias.written_out()))


def test_heads_choose_one_of_several_right_tokens() -> None:
    even, sure = (30.0, 30.0, 30.0), (40.0, 20.0, 20.0)
    assert choice(even, (7, 8, 9)) == pytest.approx(np.log(3), abs=1e-3)
    assert choice(even, (7, 8, 8)) == pytest.approx(np.log(1.5), abs=1e-3)
    assert choice(even, (7, 7, 7)) == pytest.approx(0, abs=1e-3)
    assert choice(sure, (7, 8, 8)) == pytest.approx(0, abs=1e-3)
    assert choice((), ()) == 0
