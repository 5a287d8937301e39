"""What the grammar accepts, refuses and forces."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from model.grammar import build_grammar
from schemas.ports import EventField, Question
from tests.model.tiny import VOCAB, small_tokenizer

TABLE = LLTokenizer(small_tokenizer().to_str(), n_vocab=VOCAB, eos_token=2)
PLAIN = Tokenizer.from_str(small_tokenizer().to_str())
PLAIN.encode_special_tokens = True  # a special token's name inside a string is letters
FIELDS = (EventField("kind", ("bar", "line")), EventField("title"))
EVENTS = Question("q", "", "events")
RICH = Question("q", "", "events", FIELDS)
TEXT = Question("q", "", "text")


def matcher_of(question: Question) -> LLMatcher:
    matcher = LLMatcher(TABLE, LLMatcher.grammar_from_lark(build_grammar(question)))
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def accepts(question: Question, text: str) -> bool:
    """The whole text is an answer, and nothing can follow it."""
    matcher = matcher_of(question)
    ids = PLAIN.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_stopped()


def forced_text(matcher: LLMatcher) -> str:
    return bytes(matcher.compute_ff_bytes()).decode()


times = st.tuples(st.integers(0, 999_999), st.integers(0, 9)).map(lambda t: f"{t[0]}.{t[1]}")
plain = st.text(
    st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\x7f"), max_size=40
)


def event_text(start: str, end: str, extra: str = "") -> str:
    return f'{{"start": {start}, "end": {end}{extra}}}'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(times, times), max_size=3))
def test_event_lists_are_accepted(spans: list[tuple[str, str]]) -> None:
    text = f'{{"events": [{", ".join(event_text(*span) for span in spans)}]}}'
    assert json.dumps(json.loads(text)) == text
    assert accepts(EVENTS, text)


@settings(max_examples=60, deadline=None)
@given(times, times, st.sampled_from(["bar", "line"]), plain)
def test_fields_come_in_order(start: str, end: str, kind: str, title: str) -> None:
    quoted = json.dumps(title, ensure_ascii=False)
    right = event_text(start, end, f', "kind": "{kind}", "title": {quoted}')
    wrong = event_text(start, end, f', "title": {quoted}, "kind": "{kind}"')
    assert accepts(RICH, f'{{"events": [{right}]}}')
    assert not accepts(RICH, f'{{"events": [{wrong}]}}')
    assert not accepts(EVENTS, f'{{"events": [{right}]}}')


@settings(max_examples=60, deadline=None)
@given(plain)
def test_text_answers_are_json(answer: str) -> None:
    assert accepts(TEXT, json.dumps({"answer": answer}, ensure_ascii=False))


@pytest.mark.parametrize(
    "text",
    [
        '{"events": []}',
        '{"events": [{"start": 0.0, "end": 0.1}]}',
        '{"events": [{"start": 999999.9, "end": 0.0}]}',
    ],
)
def test_accepted(text: str) -> None:
    assert accepts(EVENTS, text)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"events":[]}',
        '{"events": [ ]}',
        '{"events": [{"start": 1, "end": 2.0}]}',
        '{"events": [{"start": 01.0, "end": 2.0}]}',
        '{"events": [{"start": 1.00, "end": 2.0}]}',
        '{"events": [{"start": -1.0, "end": 2.0}]}',
        '{"events": [{"start": 1000000.0, "end": 2.0}]}',
        '{"events": [{"end": 1.0, "start": 2.0}]}',
        '{"events": [{"start": 1.0, "end": 2.0},{"start": 1.0, "end": 2.0}]}',
        '{"events": []} and more',
    ],
)
def test_refused(text: str) -> None:
    assert not accepts(EVENTS, text)


@pytest.mark.parametrize("bad", ["\n", "\x00", '"', "\\", "\\u0041", "\\x", "a" * 201])
def test_strings_that_are_no_titles(bad: str) -> None:
    extra = f', "kind": "bar", "title": "{bad}"'
    assert not accepts(RICH, f'{{"events": [{event_text("1.0", "2.0", extra)}]}}')


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=12), min_size=1, max_size=4
    )
)
@example(["<|im_end|>", "\x7f", "\u2028", "😀"])
def test_options_of_any_letters(options: list[str]) -> None:
    """Options come from a job file: quotes, backslashes, control characters, other scripts."""
    question = Question("q", "", "events", (EventField("kind", tuple(options)),))
    for option in options:
        extra = f', "kind": {json.dumps(option, ensure_ascii=False)}'
        assert accepts(question, f'{{"events": [{event_text("1.0", "2.0", extra)}]}}')


@settings(max_examples=60, deadline=None)
@given(st.text(string.ascii_letters + string.digits + "_.-", max_size=20))
def test_field_names_of_any_letters(tail: str) -> None:
    name = f"k{tail}"
    question = Question("q", "", "events", (EventField(name), EventField(name + "2", ("a",))))
    extra = f', "{name}": "x", "{name}2": "a"'
    assert accepts(question, f'{{"events": [{event_text("1.0", "2.0", extra)}]}}')


def test_literals_are_forced() -> None:
    matcher = matcher_of(RICH)
    assert forced_text(matcher) == '{"events": ['
    head = '{"events": [{"start": 1.5,'
    matcher.consume_tokens(small_tokenizer().encode(head, add_special_tokens=False).ids)
    assert forced_text(matcher) == ' "end": '
