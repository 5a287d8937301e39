"""Questions side by side get what each of them gets alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from model.engine import LoadedModel, load_model
from model.lanes import Step
from model.session import SessionLanes
from schemas.ports import EventField, FilledSession, Question, Reply
from tests.model.test_engine import assert_same, read
from tests.model.tiny import Shape, make_plan, make_tiny

FORMS = [
    Question("spans", "\nWhen is a bar on screen?", "events", max_tokens=40),
    Question("gist", "\nWhat happens? Answer in JSON, and say when.", "text", max_tokens=17),
    Question("sky", "\nWhich?", "choice", options=("a bar", "a line", "nothing at all")),
    Question("kinds", "\nWhich?", "events", (EventField("kind", ("bar", "line")),), 50),
    Question(
        "yes", "\nIs it a line that is on screen at the end?", "choice", options=("no", "yes")
    ),
]


def questions(count: int) -> list[Question]:
    """Forms in turn, every prompt of another length."""
    return [
        replace(form, query_id=f"{form.query_id} {n}", text=form.text + " a" * n)
        for n, form in ((n, FORMS[n % len(FORMS)]) for n in range(count))
    ]


def session(model: LoadedModel) -> FilledSession:
    return read(model, make_plan(model.counter))


@pytest.fixture(scope="module", params=[False, True], ids=["dense", "moe"])
def model(request: pytest.FixtureRequest) -> LoadedModel:
    """Fewer tokens a forward than a prompt has."""
    shape = Shape(moe=request.param, tied=False)
    return load_model(str(make_tiny(shape).folder), prefill_chunk=7)


@pytest.fixture(scope="module")
def alone(model: LoadedModel) -> list[Reply]:
    filled = session(model)
    return [filled.ask([question])[0] for question in questions(20)]


@pytest.mark.parametrize("count", [1, 3, 20])
def test_replies_equal_those_of_questions_asked_alone(
    model: LoadedModel, alone: list[Reply], count: int
) -> None:
    assert_same(session(model).ask(questions(count)), alone[:count])
    assert len({reply.text for reply in alone}) > len(FORMS)


@pytest.mark.parametrize("prefill_chunk", [1, 64, 8192])
def test_however_many_tokens_a_forward_takes(
    model: LoadedModel, alone: list[Reply], prefill_chunk: int
) -> None:
    other = LoadedModel(model.checkpoint, model.weights, prefill_chunk)
    assert_same(session(other).ask(questions(20)), alone)


def test_prompts_are_split_and_lanes_are_run_together(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above stand on: long prompts go ahead in pieces, steps go in groups."""
    groups: list[tuple[int, int]] = []
    run = SessionLanes._run

    def noting(lanes: SessionLanes, steps: Sequence[Step]) -> object:
        groups.append((len(steps), max(len(step.ids) for step in steps)))
        return run(lanes, steps)

    monkeypatch.setattr(SessionLanes, "_run", noting)
    session(model).ask(questions(20))
    assert max(longest for _, longest in groups) > 7
    assert max(together for together, _ in groups) == 7


@pytest.mark.parametrize("moe", [False, True])
@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_bfloat16_answers_in_form(moe: bool, kv_dtype: str) -> None:
    shape = Shape(moe=moe, tied=False)
    folder = str(make_tiny(shape).folder)
    narrow = load_model(folder, dtype="bfloat16", kv_dtype=kv_dtype, prefill_chunk=7)
    asked = questions(20)
    for reply, question in zip(session(narrow).ask(asked), asked, strict=True):
        assert reply.query_id == question.query_id
        if question.form == "choice":
            assert json.loads(reply.text)["answer"] in question.options
        else:
            assert reply.text.startswith('{"')
            assert reply.finish == "complete" or reply.num_tokens == question.max_tokens
