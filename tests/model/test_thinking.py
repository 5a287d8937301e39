"""Thoughts before answers: how they end, what they cost, and that they are the library's."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from torch import Tensor

from model.decoding import Generated
from model.engine import LoadedModel, load_model
from model.generate import generate_answers, reply_of
from model.lanes import Step
from model.session import SessionLanes
from schemas.ports import Question
from tests.model.scripted import ScriptedLanes
from tests.model.test_generate import read_video
from tests.model.tiny import Shape, library_inputs, make_frames, make_tiny, thinking_tokenizer

TEXT = '{"events": [{"start": 1.5, "end": 2.0}]}'
SPANS = Question("spans", "\nWhen?", "events", (), 60, think_tokens=12)
SKY = Question("sky", "\nWhich?", "choice", options=("a bar", "a line"), think_tokens=12)
END, END_THINK = 2, thinking_tokenizer().token_to_id("</think>")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(make_tiny(Shape(thinks=True)).folder), prefill_chunk=5)


def encode(text: str) -> list[int]:
    return list(thinking_tokenizer().encode(text, add_special_tokens=False).ids)


def ask(
    model: LoadedModel, question: Question, wanted: list[int]
) -> tuple[Generated, list[int], ScriptedLanes]:
    """The answer of a model that wants to say `wanted`, and all that its lane was fed."""
    lanes = ScriptedLanes((len(model.counter.question_ids(question)), wanted))
    (made,) = generate_answers(lanes, [question], model.counter, model.grammars)
    return made, lanes.all[0].fed, lanes


def test_a_thought_ends_itself(model: LoadedModel) -> None:
    thought = encode("is a bar on screen?")
    closing = model.counter.end_think_ids()
    made, fed, _ = ask(model, SPANS, [*thought, *closing, *encode(TEXT)])
    reply = reply_of(SPANS, made, model.counter)
    assert (reply.text, reply.finish, reply.num_think_tokens) == (TEXT, "complete", len(thought))
    assert reply.num_tokens == len(encode(TEXT))
    whole = [*model.counter.question_ids(SPANS), *thought, *closing, *encode(TEXT)]
    assert fed == whole[: len(fed)]
    assert len(fed) > len(whole) - len(encode(TEXT))


@pytest.mark.parametrize("end", [END, 0])
def test_an_end_token_ends_the_thought_not_the_answer(model: LoadedModel, end: int) -> None:
    thought, closing = encode("is a bar"), model.counter.end_think_ids()
    made, fed, _ = ask(model, SPANS, [*thought, end, *closing[1:], *encode(TEXT)])
    assert model.counter.tokenizer.decode(made.ids) == TEXT
    assert made.num_think_tokens == len(thought)
    prompt = model.counter.question_ids(SPANS)
    assert fed[len(prompt) :][: len(thought) + len(closing)] == [*thought, *closing]


def test_a_thought_is_ended_at_its_budget(model: LoadedModel) -> None:
    closing = model.counter.end_think_ids()
    made, fed, lanes = ask(model, SPANS, [*[9] * 12, *closing, *encode(TEXT)])
    assert model.counter.tokenizer.decode(made.ids) == TEXT
    assert made.num_think_tokens == 12
    prompt = model.counter.question_ids(SPANS)
    assert fed[len(prompt) :][: 12 + len(closing)] == [9] * 12 + closing
    # The last thought, what closes it and what the grammar forces go in together.
    assert lanes.rounds[12][0].ids[: 1 + len(closing)] == [9, *closing]


def test_no_budget_no_thought(model: LoadedModel) -> None:
    question = Question("spans", "\nWhen?", "events", (), 60)
    closing = model.counter.end_think_ids()
    made, fed, _ = ask(model, question, [*closing, *encode(TEXT)])
    assert model.counter.tokenizer.decode(made.ids) == TEXT
    assert made.num_think_tokens == 0
    prompt = model.counter.question_ids(question)
    assert fed[: len(prompt) + len(closing)] == prompt + closing


def test_options_are_scored_behind_the_thought(model: LoadedModel) -> None:
    thought, closing = encode("is a bar"), model.counter.end_think_ids()
    wanted = [*thought, *closing, *encode('{"answer": "a line"}')]
    made, fed, lanes = ask(model, SKY, wanted)
    reply = reply_of(SKY, made, model.counter)
    assert (json.loads(reply.text), reply.num_think_tokens) == ({"answer": "a line"}, len(thought))
    prefix = model.counter.option_ids(SKY).prefix
    assert fed == [*model.counter.question_ids(SKY), *thought, *closing, *prefix]
    assert not lanes.lanes


class Recorded:
    """Lanes that remember what each was fed."""

    def __init__(self, lanes: SessionLanes) -> None:
        self._lanes = lanes
        self.fed: dict[int, list[int]] = {}

    def fork(self, capacity: int, lane: int | None = None) -> int:
        return self._lanes.fork(capacity, lane)

    def run(self, steps: Sequence[Step]) -> list[Tensor]:
        for step in steps:
            self.fed.setdefault(step.lane, []).extend(step.ids)
        return self._lanes.run(steps)

    def drop(self, lane: int) -> None:
        self._lanes.drop(lane)


def test_thoughts_equal_the_librarys(model: LoadedModel) -> None:
    rgb = make_frames(4)
    cache, cursor, video = read_video(model, rgb)
    lanes = Recorded(SessionLanes(model, cache, cursor))
    (made,) = generate_answers(lanes, [SPANS], model.counter, model.grammars)
    prompt = [*video, *model.counter.question_ids(SPANS)]
    expected = (
        make_tiny(Shape(thinks=True))
        .reference.generate(
            **library_inputs(prompt, rgb),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=[END, 0, END_THINK],
            pad_token_id=0,
        )[0, len(prompt) :]
        .tolist()
    )
    thought = [token for token in expected if token not in (END, 0, END_THINK)]
    assert made.num_think_tokens == len(thought) > 3
    ((_, fed),) = lanes.fed.items()
    behind = fed[len(model.counter.question_ids(SPANS)) :]
    before = [*thought, *model.counter.end_think_ids()]
    assert behind[: len(before)] == before
    assert made.ids[: len(behind) - len(before)] == behind[len(before) :]
