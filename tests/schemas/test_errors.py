"""Errors cross process borders whole."""

from __future__ import annotations

import pickle

import pytest

from schemas.errors import ConfigError, InputError, LongtakeError, ResourceError


@pytest.mark.parametrize("kind", [InputError, ConfigError, ResourceError])
def test_errors_survive_pickling(kind: type[LongtakeError]) -> None:
    error = pickle.loads(pickle.dumps(kind("a sentence.", reason="a_word")))
    assert type(error) is kind
    assert (error.message, error.reason, str(error)) == ("a sentence.", "a_word", "a sentence.")


def test_a_reason_is_never_empty() -> None:
    assert ConfigError("x").reason == "ConfigError"
