"""Text and ids, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.tokenizer import TextTokenizer
from schemas.errors import ConfigError
from tests.model.tiny import SPECIALS, make_tiny

TOKENIZER = TextTokenizer(make_tiny().folder)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*SPECIALS, "a", " ", "<|"]), max_size=8).map("".join))
def test_no_text_becomes_a_special_token(text: str) -> None:
    assert not set(TOKENIZER.encode(text)) & set(range(len(SPECIALS)))
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_special_tokens_are_found_by_name() -> None:
    assert [TOKENIZER.token_id(text) for text in SPECIALS] == list(range(len(SPECIALS)))
    with pytest.raises(ConfigError, match="nonsense"):
        TOKENIZER.token_id("<|nonsense|>")
