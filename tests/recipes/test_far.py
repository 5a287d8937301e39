"""What stands far away: it scores as it would if it stood there, and costs what it takes."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

from recipes.nano.retrieving.aliases import gaps
from recipes.nano.retrieving.batch import Lesson, Loudness
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.far import (
    COUNT,
    KEYS,
    LAYER,
    NEAREST,
    ROWS,
    FarKeys,
    draw_far,
    far_losses,
    log_sum_exp,
)
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.trainer import Trainer, new_trainer
from recipes.nano.shape import FAR, HEAD_DIM
from tests.recipes.rows import joined


def looked(maker: LessonMaker) -> tuple[Trainer, Lesson, Watched]:
    trainer = new_trainer(0, 1e-3)
    _, lesson = joined(maker, range(3), Loudness(0, 0, 0))
    watched: list[Watched] = []
    with torch.no_grad():
        run(trainer.model, lesson, watched)
    return trainer, lesson, watched[LAYER]


def test_keys_are_words_and_pictures_at_distances_that_lessons_lack(maker: LessonMaker) -> None:
    _, lesson, _ = looked(maker)
    far = draw_far(np.random.default_rng(0), lesson)
    assert len(far.of) == len(far.at) == len(far.back) == KEYS
    assert int(far.back.min()) >= NEAREST
    assert int(far.back.max()) < FAR
    assert int((far.back < 1000).sum()) > KEYS / 5
    assert bool((lesson.bias.owner[far.of, far.at] >= 0).all())
    assert 0.5 <= float((~lesson.visual[far.of, far.at]).float().mean()) < 1
    looks = [look for look in lesson.looks if look.layer == LAYER]
    assert [len(rows) for rows in far.rows] == [ROWS] * len(looks)
    assert all(int(rows.max()) < len(look.of) for rows, look in zip(far.rows, looks, strict=True))


@pytest.mark.parametrize("is_picture", [False, True])
def test_a_far_key_scores_as_if_it_stood_there(maker: LessonMaker, is_picture: bool) -> None:
    trainer, lesson, watched = looked(maker)
    looks = [look for look in lesson.looks if look.layer == LAYER]
    number = next(k for k, look in enumerate(looks) if len(look.of) == look.wanted.shape[1])
    look, row, back = looks[number], 5, 1407
    of, at = int(look.of[row]), int(look.at[row])
    column = int((lesson.visual[0] if is_picture else lesson.bias.owner[0] >= 0).nonzero()[0])
    where = lesson.positions[:, 0, column] - lesson.positions[0, 0, column]
    where = (where + lesson.positions[0, of, at] - back)[:, None, None]
    cos, sin = trainer.model.model.language_model.rotary_emb(watched.still_k, where)
    still = watched.still_k[0, look.head, column]
    key = still * cos[0, 0] + rotate_half(still) * sin[0, 0]
    query = watched.q[of, look.head, at]
    target = int(look.wanted[1][look.wanted[0] == row])
    own = query @ watched.k[of, look.head, target] / HEAD_DIM**0.5
    other = query @ key / HEAD_DIM**0.5
    rows = [torch.tensor([row]) for _ in looks]
    far = FarKeys(*(torch.tensor([n]) for n in (0, column, back)), tuple(rows))
    found = far_losses(trainer.model, watched, lesson, far, margin=4.0)
    wanted = F.softplus(other + log(COUNT) + 4.0 - own)
    assert float(found[f"far{look.head}"]) == pytest.approx(float(wanted), rel=1e-3)


def test_a_lesson_costs_what_is_far_away_too(maker: LessonMaker) -> None:
    trainer, lesson, watched = looked(maker)
    far = draw_far(np.random.default_rng(0), lesson)
    own = far_losses(trainer.model, watched, lesson, far, 4.0)
    weights = {"looking": 0.3, "knowing": 0.25, "naming": 0.5, "margin": 4.0}
    with torch.no_grad():
        without, _ = lesson_loss(trainer.model, trainer.probes, lesson, **weights)
        loss, told = lesson_loss(
            trainer.model, trainer.probes, lesson, **weights, far=far, reaching=2.0
        )
    more = 2 * sum(float(value) for value in own.values())
    assert float(loss - without) == pytest.approx(more, rel=0.05)
    assert {name for name in told if name.startswith("far")} == set(own)


def test_the_best_far_key_is_found(maker: LessonMaker) -> None:
    trainer, lesson, watched = looked(maker)
    with torch.no_grad():
        near = dict(gaps(trainer.model, lesson, NEAREST + 20))
        far = dict(gaps(trainer.model, lesson, NEAREST + 300))
        assert set(near) == set(far) == {1, 2, 3}
        assert all(bool((far[head] <= near[head]).all()) for head in far)
        look = next(own for own in lesson.looks if (own.layer, own.head) == (LAYER, 2))
        row = int(lesson.visual[look.of, look.at].nonzero()[0])
        rows = [torch.tensor([row])] * 4
        of, at = (lesson.bias.owner == 0).nonzero()[0]
        for back in (NEAREST, NEAREST + 299):
            key = FarKeys(of[None], at[None], torch.tensor([back]), tuple(rows))
            loss = float(far_losses(trainer.model, watched, lesson, key)["far2"])
            assert float(far[2][0]) <= log(COUNT) - log(np.expm1(loss)) + 1e-4


def test_log_sum_exp_is_torchs_and_so_is_its_gradient() -> None:
    scores = 25 * torch.randn(7, 4096, dtype=torch.float64, generator=torch.manual_seed(0))
    scores[3] -= 300
    own, torchs = (scores.clone().requires_grad_() for _ in range(2))
    weights = torch.arange(1.0, 8.0)
    (log_sum_exp(own) * weights).sum().backward()
    (torchs.logsumexp(-1) * weights).sum().backward()
    assert own.grad is not None
    assert torchs.grad is not None
    torch.testing.assert_close(log_sum_exp(own), torchs.logsumexp(-1))
    torch.testing.assert_close(own.grad, torchs.grad)
