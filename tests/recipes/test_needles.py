"""What the needle benchmark counts as right, its control, and the tower that is told."""

from __future__ import annotations

import re

import numpy as np
import pytest

from benchmarks.needles import (
    FPS,
    Question,
    Tally,
    distance_s,
    middle_pair_s,
    questions_on,
    scrambled_ids,
)
from model.facts import NANO
from model.prompt import PromptLayout
from model.spec import read_spec
from model.tokenizer import TextTokenizer
from pipeline.lettering import ALPHABET
from pipeline.needles import Needle, draw_haystack
from recipes.nano.retrieving.told import ToldTower
from recipes.nano.seeing.see import letter_scores


@pytest.mark.parametrize(
    ("answer", "off_s"), [("9.5", 0.5), ("10.0", 0.0), ("10.9", 0.0), ("13.0", 2.0), ("HAT", None)]
)
def test_a_time_is_as_far_off_as_it_is_from_the_span(answer: str, off_s: float | None) -> None:
    assert distance_s(answer, (10.0, 11.0)) == (float("inf") if off_s is None else off_s)


def test_right_is_the_code_itself_or_a_time_within_a_step() -> None:
    needle = Needle("KRX", (10.0, 11.0), "")
    tally = Tally()
    assert tally.add(Question("when", "", needle), "11.5")
    assert not tally.add(Question("when", "", needle), "11.6")
    assert tally.add(Question("code_at", "", needle), "KRX")
    assert not tally.add(Question("code_at", "", needle), "KRT")
    assert (tally.rate("when").hits, tally.rate("code_at").trials) == (1, 2)
    assert tally.off_s == [0.5]


def test_a_moment_that_is_asked_about_is_printed_and_inside() -> None:
    haystack = draw_haystack(8, (192, 144), 300.0, 20, 1.0)
    printed = {f"{(4 * k + 1) / (2 * FPS):.1f}" for k in range(300 * FPS // 2)}
    for needle in haystack.needles:
        middle = middle_pair_s(needle.span_s)
        assert f"{middle:.1f}" in printed
        first, second = middle - 1 / (2 * FPS), middle + 1 / (2 * FPS)
        assert needle.span_s[0] <= first < second < needle.span_s[1]


def test_everything_is_asked_of_every_needle() -> None:
    haystack = draw_haystack(8, (192, 144), 300.0, 20, 1.0)
    asked = [question.kind for question in questions_on(haystack) if question.needle]
    assert (asked.count("when"), asked.count("code_at"), asked.count("code_with")) == (20, 20, 18)


def test_what_is_absent_is_in_no_needle() -> None:
    haystack = draw_haystack(8, (192, 144), 300.0, 20, 1.0)
    asked = [question for question in questions_on(haystack) if question.needle is None]
    assert {question.name for question in asked} == {"when_absent", "code_with_absent"}
    assert len(asked) > 30
    for question in asked:
        for needle in haystack.needles:
            assert f" {needle.code} " not in question.ask
            assert not needle.companion or needle.companion not in question.ask


@pytest.mark.parametrize("seconds", ["0.1", "37.5", "999.9", "1234.5"])
def test_the_control_changes_times_and_not_their_length(seconds: str) -> None:
    tokenizer = TextTokenizer(NANO)
    layout = PromptLayout(read_spec(NANO), tokenizer)
    text = f"<{seconds} seconds>"
    true, other = layout.pair_ids(text, 3), scrambled_ids(layout, text, 3)
    assert len(true) == len(other)
    said = re.fullmatch(r"<([\d.]+) seconds>", tokenizer.decode(other[: len(true) - 5]))
    assert said is not None
    assert len(said[1]) == len(seconds)
    assert len(seconds) < 4 or said[1] != seconds


def test_a_told_tower_shows_what_the_scene_shows() -> None:
    haystack = draw_haystack(9, (192, 144), 30.0, 3, 1.0)
    tower = ToldTower(haystack, FPS)
    frames = np.zeros((30, 96, 128, 3), dtype=np.uint8)
    parts = [tower.encode(None, frames) for _ in range(4)]  # type: ignore[arg-type]
    scores = np.concatenate([letter_scores(part.levels[0]).numpy() for part in parts])
    scores = scores.reshape(60, 12, 3, len(ALPHABET))
    assert all(len(part.levels) == 3 for part in parts)
    for needle in haystack.needles:
        pair = round((middle_pair_s(needle.span_s) * 2 * FPS - 1) / 4)
        best = scores[pair].max(-1).sum(-1).argmax()
        assert "".join(ALPHABET[k] for k in scores[pair, best].argmax(-1)) == needle.code
