"""What a decoder of four layers begins with, and what is published of it: it says what it said
before it grew, what `recall` sets by hand is there, and its last weights are averaged.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from recipes.nano.retrieving.asked import CLOCK_SIZES
from recipes.nano.retrieving.batch import Lesson, Loudness, join
from recipes.nano.retrieving.courses import worded_features
from recipes.nano.retrieving.decoder import run
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.recall import (
    READS,
    SAID,
    effects_of,
    known_of,
    passed_on,
    told_apart,
)
from recipes.nano.retrieving.span_courses import draw_spans
from recipes.nano.retrieving.span_lessons import SpanLessons
from recipes.nano.retrieving.trainer import MEAN_OF, Trainer, grown, learnt, new_trainer
from recipes.nano.shape import HEAD_DIM, HEADS, HIDDEN, LAYERS
from recipes.nano.tokenizer import build

TOKENIZER = build()


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    rng = np.random.default_rng(1)
    drawn = draw_spans(rng, 40, 12)
    sheet = SpanLessons(LessonMaker(TOKENIZER, match_layer=LAYERS)).row(rng, drawn, (3, 4), 5)
    features = [worded_features(np.random.default_rng(0), drawn.course)]
    return join([sheet], features, [Loudness(0, 0, 0)])


def learn(trainer: Trainer, lesson: Lesson) -> None:
    loss, _ = lesson_loss(
        trainer.model, trainer.probes, lesson, looking=0.3, knowing=0.0, naming=0.25
    )
    trainer.optimizer.step(loss)
    trainer.mean.update_parameters(trainer.model)


def test_a_decoder_that_has_grown_says_what_it_said(lesson: Lesson) -> None:
    before, after = new_trainer(0, 1e-3), new_trainer(1, 1e-3, LAYERS + 1)
    text = before.model.model.language_model.state_dict()
    after.model.model.language_model.load_state_dict(grown(text, LAYERS + 1))
    with torch.inference_mode():
        old, new = run(before.model, lesson, [])[-1], run(after.model, lesson, [])[-1]
    assert torch.allclose(old, new, atol=1e-5)
    text = after.model.model.language_model.state_dict()
    assert grown(text, LAYERS + 1) is text


def test_a_time_is_written_alike_wherever_it_was_seen_or_said(lesson: Lesson) -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    known = known_of(trainer.model, [lesson])
    trainer.open_recall([lesson])
    text = trainer.model.model.language_model.state_dict()
    copied = known.watching / HIDDEN**0.5 * known.written @ known.read
    assert float((passed_on(text, 1, READS) - copied).norm()) < 1e-3 * float(copied.norm())
    said = passed_on(text, 1, SAID)
    for head in range(HEADS):
        seen = passed_on(text, 2, head)
        assert float(cosine_similarity(seen.flatten(), said.flatten(), dim=0)) > 0.999
        assert float((known.free.T @ seen).norm()) == pytest.approx(float(seen.norm()), rel=1e-3)


def test_times_are_read_where_they_differ_and_not_where_all_else_does() -> None:
    rng = torch.Generator().manual_seed(2)
    clocks = torch.stack([torch.randint(size, (6000,), generator=rng) for size in CLOCK_SIZES], 1)
    pieces = [torch.randn(size, 20, generator=rng) for size in CLOCK_SIZES]
    tokens = 10 * torch.randn(6000, HIDDEN, generator=rng)
    tokens[:, :60] = 0.1 * torch.randn(6000, 60, generator=rng)
    for number, own in enumerate(pieces):
        tokens[:, 20 * number : 20 * number + 20] += own[clocks[:, number]]
    effects, noise = effects_of(tokens, clocks)
    read = told_apart(effects, noise, (5, 10, 3))
    assert read.shape == (18, HIDDEN)
    assert float(read[:, 60:].norm()) < 0.01 * float(read.norm())
    for number, rows in enumerate(read.split([5, 10, 3])):
        own = rows[:, 20 * number : 20 * number + 20]
        assert float(own.norm()) > 0.99 * float(rows.norm())
    rebuilt = torch.cat([own[:, 20 * k : 20 * k + 20] for k, own in enumerate(effects)], 1)
    assert float(cosine_similarity(rebuilt, tokens[:, :60]).mean()) > 0.95


def test_what_opens_recall_leaves_all_else_as_it_was(lesson: Lesson) -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    before = trainer.state()["text"]
    before = {name: part.clone() for name, part in before.items()}
    trainer.open_recall([lesson])
    changed = {n for n, part in trainer.state()["text"].items() if not torch.equal(part, before[n])}
    values = {f"layers.{n}.self_attn.{part}_proj.weight" for n in (1, 2) for part in "vo"}
    assert changed == values | {f"layers.3.self_attn.{part}_proj.weight" for part in "qk"}
    for name in values:
        old, new = before[name], trainer.state()["text"][name]
        rows = (old != new).any(int("o_proj" not in name)).nonzero()[:, 0] // HEAD_DIM
        assert set(rows.tolist()) == ({READS, SAID} if "layers.1" in name else set(range(HEADS)))


def test_what_is_published_is_the_mean_of_the_last_weights(lesson: Lesson) -> None:
    trainer, name = new_trainer(0, 2e-3, LAYERS + 1), "layers.0.mlp.gate_proj.weight"
    steps = []
    for _ in range(2):
        learn(trainer, lesson)
        steps.append(trainer.state()["text"][name].clone())
    state = trainer.state()
    assert torch.allclose(learnt(state)[name], steps[0].lerp(steps[1], 1 - MEAN_OF), atol=1e-7)

    taken_up, other = new_trainer(1, 2e-3, LAYERS + 1), new_trainer(1, 2e-3, LAYERS + 1)
    taken_up.load(state)
    assert torch.equal(taken_up.state()["text"][name], steps[1])
    assert torch.equal(taken_up.state()["mean"][name], state["mean"][name])
    other.load({part: value for part, value in state.items() if part in ("mean", "probes")})
    assert torch.equal(other.state()["text"][name], state["mean"][name])
