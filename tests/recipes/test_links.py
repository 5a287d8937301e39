"""Links between events: what queries and keys are told to hold tells the last event of the same
thing from all else, lessons tell it truly, and it is learnt.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.codes import CLASSES
from recipes.nano.retrieving import befores, gathers, links
from recipes.nano.retrieving.batch import Lesson, Loudness, join
from recipes.nano.retrieving.courses import worded_features
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.groups import part_of
from recipes.nano.retrieving.held import GAINS, held_losses, hold_gains
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.sheet import CHANGED, NOTHING, Sheet
from recipes.nano.retrieving.span_courses import SpanCourse, draw_spans
from recipes.nano.retrieving.span_lessons import SpanLessons
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.shape import HEAD_DIM, HEADS, HIDDEN, LAYERS, ROPE_THETA
from recipes.nano.tokenizer import build

TOKENIZER = build()
FARTHEST = 12_000
SOMETHING = st.integers(0, len(CLASSES) - 1)

TOLD_HEADS = {
    gathers.LAYER: range(HEADS),
    befores.LAYER: befores.HEADS,
    links.LAYER: range(HEADS),
}


def held(*things: int, is_key: bool, sign: int = 1, watches: int = 1) -> Tensor:
    """(HEAD_DIM,) with gains."""
    told = torch.zeros(1, links.TOLD)
    told[0, list(things)] = sign
    told[0, links.WATCHES_AT] = watches
    return HEAD_DIM**0.5 * links.GAIN * links.wanted(told, is_key=is_key)[0]


def score(query: Tensor, key: Tensor, distance: int) -> float:
    """Of a query that stands `distance` positions behind a key."""
    half = HEAD_DIM // 2
    angles = distance * ROPE_THETA ** -(torch.arange(half) / half)
    a, b = torch.complex(query[:half], query[half:]), torch.complex(key[:half], key[half:])
    turn = torch.complex(angles.cos(), angles.sin())
    return float((a * b.conj() * turn).real.sum() / HEAD_DIM**0.5)


@given(SOMETHING, SOMETHING, st.integers(30, FARTHEST), st.integers(0, 40_000))
def test_a_link_looks_at_its_own_thing_then_at_nothing_then_at_all_else(
    own: int, other: int, distance: int, anywhere: int
) -> None:
    query, nothing = held(own, is_key=False), held(links.NOTHING_AT, is_key=True, watches=0)
    nothings = score(query, nothing, anywhere)
    assert score(query, held(own, is_key=True), distance) > nothings + 5
    assert score(query, held(is_key=True, watches=0), anywhere) < nothings - 30
    assert score(query, held(is_key=True), distance) < nothings - 5
    assert score(query, held(own, is_key=True, sign=-1), distance) < nothings - 50
    if other != own:
        assert score(query, held(other, is_key=True), distance) < nothings - 5


@given(SOMETHING, st.integers(80, 8_000), st.floats(1.5, 4.0))
def test_the_nearer_of_two_events_is_preferred(own: int, near: int, ratio: float) -> None:
    query, key = held(own, is_key=False), held(own, is_key=True)
    far = min(round(near * ratio), FARTHEST)
    assert score(query, key, near) > score(query, key, far) + 0.3


@given(st.integers(1, 40_000))
def test_what_changes_nothing_looks_at_nothing(distance: int) -> None:
    query, nothing = held(is_key=False), held(links.NOTHING_AT, is_key=True, watches=0)
    best = score(query, nothing, distance)
    assert all(score(query, held(*own, is_key=True), distance) < best - 50 for own in ((), (7,)))


@pytest.fixture(scope="module")
def drawn() -> tuple[SpanCourse, Sheet]:
    rng = np.random.default_rng(1)
    own = draw_spans(rng, 40, 12)
    return own, SpanLessons(LessonMaker(TOKENIZER, match_layer=LAYERS)).row(rng, own, (3, 4), 5)


@pytest.fixture(scope="module")
def lesson(drawn: tuple[SpanCourse, Sheet]) -> Lesson:
    features = [worded_features(np.random.default_rng(0), drawn[0].course)]
    return join([drawn[1]], features, [Loudness(0, 0, 0)])


def test_lessons_tell_links_what_comes_and_goes(drawn: tuple[SpanCourse, Sheet]) -> None:
    _, sheet = drawn
    told = {(head, is_key, at): dict(own) for head, is_key, at, own in sheet.links}
    events = 0
    for at, what, flags in sheet.knows:
        if what != CHANGED:
            continue
        comes = {thing for thing in range(len(CLASSES)) if flags[thing]}
        goes = {thing for thing in range(len(CLASSES)) if flags[len(CLASSES) + thing]}
        for head in range(HEADS):
            asks, holds = ({t for t in own if part_of(t) == head} for own in (comes, goes))
            for own, sign in ((told[head, False, at], 1), (told[head, True, at], -1)):
                assert own[links.WATCHES_AT] == 1
                assert {t for t in range(len(CLASSES)) if own.get(t) == sign} == asks
                assert {t for t in range(len(CLASSES)) if own.get(t) == -sign} == holds
        events += len(comes) + len(goes)
    assert events > 10
    for head in range(HEADS):
        assert told[head, True, NOTHING] == {links.NOTHING_AT: 1}


def test_what_heads_hold_is_learnt_and_their_gains_are_not(lesson: Lesson) -> None:
    trainer = new_trainer(0, 2e-3, LAYERS + 1)
    names = [
        f"{side}{layer}{head}"
        for side in ("ask", "key")
        for layer, heads in TOLD_HEADS.items()
        for head in heads
    ]
    sums = []
    for _ in range(25):
        loss, told = lesson_loss(
            trainer.model, trainer.probes, lesson, looking=0, knowing=0, naming=0, linking=1.0
        )
        trainer.optimizer.step(loss)
        sums.append([told[name] for name in names])
    assert all(last < 0.95 * first for first, last in zip(sums[0], sums[-1], strict=True))
    state = trainer.state()
    norms = {
        f"layers.{layer}.self_attn.{part}_norm.weight": gain
        for layer, gain in GAINS.items()
        for part in "qk"
    }
    del state["optimizer"]
    for norm, gain in norms.items():
        assert torch.equal(state["text"][norm], torch.full((HEAD_DIM,), gain))
        state["mean"][norm] = torch.ones(HEAD_DIM)
    trainer.load(state)
    for norm, gain in norms.items():
        assert torch.equal(trainer.state()["text"][norm], torch.full((HEAD_DIM,), gain))


@pytest.mark.parametrize("layer", GAINS)
def test_heads_begin_with_what_a_projection_can_tell(lesson: Lesson, layer: int) -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)

    def apart() -> list[float]:
        watched: list[Watched] = []
        with torch.no_grad():
            run(trainer.model, lesson, watched)
        told = replace(lesson, held=tuple(one for one in lesson.held if one.layer == layer))
        return [float(value) for value in held_losses(watched, told).values()]

    before = apart()
    trainer.open_held(layer, [lesson])
    after = apart()
    assert len(after) == 2 * len(TOLD_HEADS[layer])
    assert all(b < 0.7 * a for a, b in zip(before, after, strict=True))


def test_gains_that_are_held_leave_what_heads_point_to() -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    attention = trainer.model.model.language_model.layers[gathers.LAYER].self_attn
    own = torch.randn(5, HIDDEN, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        attention.q_norm.weight.copy_(torch.linspace(0.5, 2, HEAD_DIM))
        shape = (5, HEADS, HEAD_DIM)
        before = attention.q_norm(attention.q_proj(own).view(shape))
        hold_gains(trainer.model.model.language_model.layers)
        after = attention.q_norm(attention.q_proj(own).view(shape))
    assert torch.allclose(F.normalize(before, dim=-1), F.normalize(after, dim=-1), atol=1e-5)
    size = after.square().mean(-1).sqrt()
    assert torch.allclose(size, torch.full_like(size, gathers.GAIN), rtol=1e-3)
