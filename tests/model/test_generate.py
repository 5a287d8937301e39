"""Greedy decoding against the library's, and answers under a grammar."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from llguidance import LLMatcher
from torch import Tensor

from model.engine import Fork, LoadedModel, load_model
from model.generate import generate_answer, generate_free
from model.kv_cache import KvCache
from model.positions import Cursor
from model.timeline import text_tokens, video_tokens
from schemas.media import RgbArray
from schemas.ports import EventField, Question
from tests.model.tiny import (
    VOCAB,
    Shape,
    library_inputs,
    make_frames,
    make_plan,
    make_tiny,
    small_tokenizer,
)

EVENTS = Question("q", "\nWhen?", "events", (EventField("kind", ("bar", "line")),), 120)


def read_video(model: LoadedModel, rgb: RgbArray) -> tuple[KvCache, Cursor, list[int]]:
    """A filled cache, the cursor behind it, and the ids it holds."""
    plan = make_plan(model.counter, pairs=len(rgb) // 2, pairs_per_chunk=len(rgb) // 2)
    prefix, cursor = text_tokens(model.counter.prefix_ids(), Cursor())
    video, cursor = video_tokens(
        plan.chunks[0].pairs,
        plan.sampling.grid,
        model.vision.encode(rgb),
        model.counter,
        cursor,
    )
    cache = model.new_cache(len(prefix) + len(video))
    model.prefill(prefix, cache)
    model.prefill(video, cache)
    return cache, cursor, [*prefix.ids.tolist(), *video.ids.tolist()]


@pytest.mark.parametrize(
    "shape", [Shape(), Shape(tied=False, deepstack=()), Shape(moe=True, tied=False)], ids=str
)
def test_greedy_tokens_equal_the_librarys(shape: Shape) -> None:
    tiny = make_tiny(shape)
    model = load_model(str(tiny.folder), prefill_chunk=5)
    rgb = make_frames(6)
    cache, cursor, ids = read_video(model, rgb)
    question = model.counter.question_ids(EVENTS)
    fork = Fork(model, cache, cursor, len(question) + 24)
    made = generate_free(fork.forward, question, frozenset([2]), 24)
    expected = tiny.reference.generate(
        **library_inputs([*ids, *question], rgb),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
    )
    assert made.ids == expected[0, len(ids) + len(question) :].tolist()
    assert len(set(made.ids)) > 3


def scripted(text: str) -> Callable[[list[int]], Tensor]:
    """A model that wants to say `text`, whatever it is fed: it counts what came before."""
    wanted = small_tokenizer().encode(text, add_special_tokens=False).ids
    said: list[int] = []

    def forward(ids: list[int]) -> Tensor:
        said.extend(ids)
        logits = torch.zeros(VOCAB)
        if len(said) < len(wanted):
            logits[wanted[len(said)]] = 5.0
        return logits

    return forward


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(make_tiny().folder))


def test_the_models_choices_come_through(model: LoadedModel) -> None:
    first = '{"start": 1.5, "end": 2.0, "kind": "line"}'
    text = f'{{"events": [{first}, {{"start": 3.0, "end": 4.5, "kind": "bar"}}]}}'
    made = generate_answer(scripted(text), [], model.grammars.matcher(EVENTS), 120)
    assert made.finish == "complete"
    assert model.counter.tokenizer.decode(made.ids) == text
    assert -1.5 < made.mean_logprob < 0


def test_wishes_outside_the_grammar_do_not(model: LoadedModel) -> None:
    made = generate_answer(
        scripted("I think that it is a bar."), [], model.grammars.matcher(EVENTS), 60
    )
    text = model.counter.tokenizer.decode(made.ids)
    assert text.startswith('{"events": [')


@pytest.mark.parametrize("max_tokens", range(1, 40))
def test_answers_never_pass_their_length(model: LoadedModel, max_tokens: int) -> None:
    """Forced literals count as tokens and are cut like the others."""
    text = '{"events": [{"start": 1.5, "end": 2.0, "kind": "line"}]}'
    whole = len(small_tokenizer().encode(text, add_special_tokens=False).ids)
    made = generate_answer(scripted(text), [], model.grammars.matcher(EVENTS), max_tokens)
    assert len(made.ids) == min(whole, max_tokens)
    assert made.finish == ("complete" if max_tokens >= whole else "truncated")
    assert text.startswith(model.counter.tokenizer.decode(made.ids))


def test_logprob_is_that_of_free_choices(model: LoadedModel) -> None:
    """An empty list is one choice: to close it, or to open any token that begins an event."""
    matcher = model.grammars.matcher(Question("q", "", "events"))
    made = generate_answer(scripted('{"events": []}'), [], matcher, 60)
    assert json.loads(model.counter.tokenizer.decode(made.ids)) == {"events": []}
    # At most a handful of rivals at each choice, each e^5 times less likely.
    assert math.log(1 / (1 + 5 / math.exp(5))) < made.mean_logprob < 0
    forced = generate_answer(scripted(""), [], forced_only(model), 60)
    assert forced.mean_logprob == 0


def forced_only(model: LoadedModel) -> LLMatcher:
    """A grammar that leaves no choice."""
    return LLMatcher(
        model.grammars.table, LLMatcher.grammar_from_lark('start: "{\\"a\\": " /x/ "}"')
    )
