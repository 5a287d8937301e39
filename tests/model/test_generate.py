"""Greedy decoding against the library's, and answers under a grammar, alone and together."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from llguidance import LLMatcher

from model.decoding import Generated, write
from model.engine import LoadedModel, load_model
from model.generate import generate_answers, generate_free
from model.kv_cache import KvCache
from model.positions import Cursor
from model.session import SessionLanes
from model.timeline import text_tokens, video_tokens
from schemas.errors import InvariantError
from schemas.media import RgbArray
from schemas.ports import EventField, Question
from tests.model.scripted import ScriptedLanes, encode
from tests.model.tiny import Shape, library_inputs, make_frames, make_plan, make_tiny

EVENTS = Question("q", "\nWhen?", "events", (EventField("kind", ("bar", "line")),), 120)
TEXT = '{"events": [{"start": 1.5, "end": 2.0, "kind": "line"}]}'


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
    made = generate_free(SessionLanes(model, cache, cursor), question, frozenset([2]), 24)
    expected = tiny.reference.generate(
        **library_inputs([*ids, *question], rgb),
        max_new_tokens=24,
        do_sample=False,
        eos_token_id=2,
        pad_token_id=0,
    )
    assert made.ids == expected[0, len(ids) + len(question) :].tolist()
    assert len(set(made.ids)) > 3


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(make_tiny().folder))


def lanes_that_say(model: LoadedModel, questions: list[Question], *texts: str) -> ScriptedLanes:
    return ScriptedLanes(
        *(
            (len(model.counter.question_ids(question)), encode(text))
            for question, text in zip(questions, texts, strict=True)
        )
    )


def say(model: LoadedModel, text: str, max_tokens: int = 120) -> Generated:
    """The answer of a model that wants to say `text`."""
    question = replace(EVENTS, max_tokens=max_tokens)
    lanes = lanes_that_say(model, [question], text)
    (made,) = generate_answers(lanes, [question], model.counter, model.grammars)
    assert not lanes.lanes
    return made


def test_the_models_choices_come_through(model: LoadedModel) -> None:
    first = '{"start": 1.5, "end": 2.0, "kind": "line"}'
    text = f'{{"events": [{first}, {{"start": 3.0, "end": 4.5, "kind": "bar"}}]}}'
    made = say(model, text)
    assert made.finish == "complete"
    assert model.counter.tokenizer.decode(made.ids) == text
    assert -1.5 < made.mean_logprob < 0


def test_wishes_outside_the_grammar_do_not(model: LoadedModel) -> None:
    made = say(model, "I think that it is a bar.", 60)
    assert model.counter.tokenizer.decode(made.ids).startswith('{"events": [')


@pytest.mark.parametrize("max_tokens", range(1, 40))
def test_answers_never_pass_their_length(model: LoadedModel, max_tokens: int) -> None:
    """Forced literals count as tokens and are cut like the others."""
    whole = len(encode(TEXT))
    made = say(model, TEXT, max_tokens)
    assert len(made.ids) == min(whole, max_tokens)
    assert made.finish == ("complete" if max_tokens >= whole else "truncated")
    assert TEXT.startswith(model.counter.tokenizer.decode(made.ids))


def test_logprob_is_that_of_free_choices(model: LoadedModel) -> None:
    """An empty list is one choice: to close it, or to open any token that begins an event."""
    question = Question("q", "", "events")
    lanes = lanes_that_say(model, [question], '{"events": []}')
    (made,) = generate_answers(lanes, [question], model.counter, model.grammars)
    assert json.loads(model.counter.tokenizer.decode(made.ids)) == {"events": []}
    # At most a handful of rivals at each choice, each e^5 times less likely.
    assert math.log(1 / (1 + 5 / math.exp(5))) < made.mean_logprob < 0


def test_what_leaves_no_choice_asks_nobody(model: LoadedModel) -> None:
    grammar = LLMatcher.grammar_from_lark('start: "{\\"a\\": " /x/ "}"')
    with pytest.raises(StopIteration) as stopped:
        next(write(0, [5], LLMatcher(model.grammars.table, grammar), 60))
    made = stopped.value.value
    assert (made.finish, made.mean_logprob) == ("complete", 0)
    assert model.counter.tokenizer.decode(made.ids) == '{"a": x}'


def test_questions_go_through_one_forward_a_round(model: LoadedModel) -> None:
    """Answers of different lengths: each as if alone, and the short ones leave."""
    events = [", ".join(['{"start": 1.5, "end": 2.0, "kind": "line"}'] * n) for n in (0, 2, 1)]
    texts = [f'{{"events": [{inner}]}}' for inner in events]
    questions = [replace(EVENTS, query_id=str(n), text="\nWhen" * n) for n in range(3)]
    lanes = lanes_that_say(model, questions, *texts)
    made = generate_answers(lanes, questions, model.counter, model.grammars)
    assert [model.counter.tokenizer.decode(answer.ids) for answer in made] == texts
    alone = [say(model, text) for text in texts]
    for one, other in zip(made, alone, strict=True):
        assert replace(one, mean_logprob=0.0) == replace(other, mean_logprob=0.0)
        assert one.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-6)
    widths = [len(steps) for steps in lanes.rounds]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (3, 1)
    assert lanes.alive == widths, "a finished answer holds no lane"
    # Prompt and forced literals go in with the first choice.
    first, prompt = lanes.rounds[0][1].ids, model.counter.question_ids(questions[1])
    assert first[: len(prompt)] == prompt
    assert model.counter.tokenizer.decode(first[len(prompt) :]).startswith('{"events":')


def test_grammars_that_do_not_hold_free_every_lane(model: LoadedModel) -> None:
    broken = Question("broken", "", "events", (EventField("x", ("a",)), EventField("x", ("b",))))
    lanes = ScriptedLanes((0, []), (0, []))
    with pytest.raises(InvariantError, match="broken"):
        generate_answers(lanes, [EVENTS, broken], model.counter, model.grammars)
    assert not lanes.lanes
