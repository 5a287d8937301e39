"""The words that checkpoints are asked with are pinned: nano was trained on them."""

from __future__ import annotations

from fractions import Fraction

from pipeline.questions import build_questions, prompts_sha256
from schemas.job import QuerySpec
from schemas.time import TimeSpan

SPAN = TimeSpan(1000, 61_500, Fraction(1, 1000))


def test_find() -> None:
    (question,) = build_questions([QuerySpec(id="q", find=" a red circle. ")], SPAN)
    assert question.text == (
        "\nThe video runs from 1.0 to 61.5 seconds. Find every time span in which this is visible: "
        "a red circle. Answer in JSON with the start and end of each span in seconds, in order of "
        "time, or an empty list."
    )
    assert question.form == "events"


def test_fields_are_asked_for() -> None:
    query = QuerySpec(id="q", find="a chart", fields={"kind": ["bar", "pie"], "title": "string"})
    (question,) = build_questions([query], SPAN)
    assert question.text.endswith("For each span also give kind (bar or pie), title.")
    assert [field.options for field in question.fields] == [("bar", "pie"), ()]


def test_ask() -> None:
    (question,) = build_questions([QuerySpec(id="q", ask="What happens?")], SPAN)
    assert question.text.endswith("seconds. What happens? Answer in JSON.")
    assert question.form == "text"


def test_options_are_listed_as_they_are_answered() -> None:
    query = QuerySpec(id="q", ask=" Which sky? ", options=("blue, clear", 'so "so"'))
    (question,) = build_questions([query], SPAN)
    assert question.text == (
        "\nThe video runs from 1.0 to 61.5 seconds. Which sky? Answer in JSON with one of these: "
        '"blue, clear", "so \\"so\\"".'
    )
    assert (question.form, question.options) == ("choice", query.options)


def test_lengths_come_from_the_query() -> None:
    query = QuerySpec(id="q", find="x", max_answer_tokens=100, max_think_tokens=2000)
    (question,) = build_questions([query], SPAN)
    assert (question.max_tokens, question.think_tokens) == (100, 2000)


def test_a_prompt_is_named_by_its_words() -> None:
    first, again, other = build_questions(
        [QuerySpec(id=i, find=f) for i, f in (("a", "x"), ("b", "x"), ("c", "y"))], SPAN
    )
    one, same, else_ = (prompts_sha256([[q]])[0][1] for q in (first, again, other))
    assert one == same != else_
    ((name, both),) = prompts_sha256([[first], [other]])
    assert name == first.query_id
    assert both not in (one, else_)
