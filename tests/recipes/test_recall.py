"""What a decoder of four layers begins with, and what is published of it: it says what it said
before it grew, what `recall` sets by hand is there, and its last weights are averaged.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, rms_norm
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.next.batch import Lesson, Loudness, join
from recipes.nano.next.courses import worded_features
from recipes.nano.next.decoder import lesson_loss, run
from recipes.nano.next.lessons import LessonMaker
from recipes.nano.next.recall import CLOCK_HEADS, READS, SAID, passed_on
from recipes.nano.next.retrieve import MEAN_OF, Trainer, grown, learnt, new_trainer
from recipes.nano.next.shape import HEAD_DIM, HIDDEN, LAYERS
from recipes.nano.next.sheet import CHANGED
from recipes.nano.next.span_courses import draw_spans
from recipes.nano.next.span_lessons import GROUPS, SpanLessons, watching_tokens
from recipes.nano.next.tokenizer import build

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
    after.load({"text": text, "probes": after.state()["probes"]})
    with torch.inference_mode():
        old, new = run(before.model, lesson, [])[-1], run(after.model, lesson, [])[-1]
    assert torch.allclose(old, new, atol=1e-5)
    text = after.model.model.language_model.state_dict()
    assert grown(text, LAYERS + 1) is text


def test_a_time_that_was_said_is_written_as_one_that_was_seen() -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    trainer.open_recall(TOKENIZER)
    text = trainer.model.model.language_model.state_dict()
    numbers = torch.tensor(
        [TOKENIZER.encode(str(n), add_special_tokens=False).ids[0] for n in range(100)]
    )
    embedded = rms_norm(text["embed_tokens.weight"][numbers], (HIDDEN,))
    at_pictures = passed_on(text, 0, CLOCK_HEADS["units"]) @ embedded.T
    at_pictures = at_pictures - at_pictures.mean(1, keepdim=True)
    said = passed_on(text, 1, SAID) @ at_pictures
    for head in (0, 1):
        seen = passed_on(text, 2, head) @ passed_on(text, 1, READS) @ at_pictures
        alike = cosine_similarity(seen.T[:, None], said.T[None], dim=-1)
        assert float(alike.diagonal().mean()) > 0.95
        assert float(alike.fill_diagonal_(0).abs().mean()) < 0.3


def test_what_opens_recall_leaves_all_else_as_it_was() -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    before = trainer.state()["text"]
    before = {name: part.clone() for name, part in before.items()}
    trainer.open_recall(TOKENIZER)
    changed = {n for n, part in trainer.state()["text"].items() if not torch.equal(part, before[n])}
    values = {f"layers.{n}.self_attn.{part}_proj.weight" for n in (1, 2) for part in "vo"}
    assert changed == values | {f"layers.3.self_attn.{part}_proj.weight" for part in "qk"}
    for name in values:
        old, new = before[name], trainer.state()["text"][name]
        rows = (old != new).any(int("o_proj" not in name)).nonzero()[:, 0] // HEAD_DIM
        assert set(rows.tolist()) == ({3} if "layers.1" in name else {0, 1})


def test_links_prefer_what_is_near_and_training_does_not_unlearn_it(lesson: Lesson) -> None:
    trainer = new_trainer(0, 2e-3, LAYERS + 1)
    trainer.open_recency(lesson)
    assert nearest_is_preferred(trainer.model, lesson) > 10
    weight = trainer.model.model.language_model.layers[2].self_attn.q_proj.weight
    before = weight.detach().clone()
    learn(trainer, lesson)
    moved = ((weight.detach() - before).norm(dim=1) / before.norm(dim=1)).view(-1, HEAD_DIM)
    held = [*range(6, 11), *range(38, 43)]
    assert float(moved[:2, held].max()) < 1e-3
    assert float(moved[2:].min()) > 1e-3


def nearest_is_preferred(model: Qwen3VLForConditionalGeneration, lesson: Lesson) -> float:
    """By how much a pair before scores more than one 3,000 positions before, on average."""
    watched: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        run(model, lesson, watched)
    query, key = watched[2]
    columns = lesson.knows[CHANGED].at
    scores = query[0, 0, columns] @ key[0, 0, columns].T / HEAD_DIM**0.5
    at = lesson.positions[0, 0, columns]
    distance = at[:, None] - at
    near, far = (distance > 5) & (distance < 60), (distance > 2500) & (distance < 5000)
    assert near.sum() > 20
    assert far.sum() > 20
    return float(scores[near].mean() - scores[far].mean())


def test_watching_tokens_see_a_thing_alike_wherever_it_is() -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    text = trainer.model.model.language_model.state_dict()
    watchers = watching_tokens(lambda own: TOKENIZER.encode(own, add_special_tokens=False).ids)
    assert len(set(watchers)) == GROUPS
    trainer.open_gather(watchers)
    after = trainer.model.model.language_model.state_dict()["layers.0.self_attn.q_proj.weight"]
    inputs = rms_norm(text["embed_tokens.weight"], (HIDDEN,))
    queries = (inputs @ after.T).view(len(inputs), -1, HEAD_DIM)[:, 0]
    half = HEAD_DIM // 2
    turned = queries[:, [0, 1, 2, half, half + 1, half + 2]].norm(dim=1) / queries.norm(dim=1)
    assert float(turned[watchers].max()) < 0.1
    others = [n for n in range(len(inputs)) if n not in watchers]
    assert float(turned[others].nanmean()) > 0.15


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
    other.load({part: value for part, value in state.items() if part != "optimizer"})
    assert torch.equal(other.state()["text"][name], state["mean"][name])
