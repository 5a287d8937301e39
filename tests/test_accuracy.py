"""The bundled checkpoint keeps its bars on unseen clips; a change that blinds it is found here."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.find_long import measure


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nano_finds_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    tally = measure("nano", "4k", range(8), tmp_path, show=True)
    assert tally.num_absent >= 30
    assert tally.recall.value >= 0.90
    assert tally.precision.value >= 0.90
    assert tally.false_on_absent.value <= 0.03
