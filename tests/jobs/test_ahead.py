"""The thread ahead: bounded, and honest about errors."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from jobs.ahead import ahead
from schemas.errors import InputError


def test_an_error_ahead_reaches_the_reader() -> None:
    def work() -> Iterator[int]:
        yield 1
        raise InputError("broken.", reason="decode_failed")

    items = ahead(work, 2)
    assert next(items) == 1
    with pytest.raises(InputError, match="broken"):
        next(items)


def test_a_reader_that_stops_stops_the_work() -> None:
    made: list[int] = []

    def work() -> Iterator[int]:
        for number in range(10**6):
            made.append(number)
            yield number

    items = ahead(work, 3)
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert len(made) <= 6
    assert not any(thread.name == "decode-ahead" for thread in threading.enumerate())
