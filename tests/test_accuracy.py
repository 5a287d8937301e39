"""The bundled checkpoint keeps its bars on unseen clips; a change that blinds it is found here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.find_accuracy import QUESTIONS_PER_CLIP, measure


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nano_finds_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    clips = 16
    tally = measure(clips, tmp_path)
    assert clips * QUESTIONS_PER_CLIP >= 60
    assert tally.recall.value >= 0.90
    assert tally.precision.value >= 0.90
    assert tally.false_on_absent.value <= 0.02
