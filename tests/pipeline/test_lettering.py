"""Codes as they are drawn: every letter in every face differs, and what is blended stays inside."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from pipeline.lettering import (
    ALPHABET,
    FACES,
    WEIGHTS,
    Look,
    blend,
    near_code,
    random_code,
    random_look,
    write_code,
)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_no_two_letters_look_alike(face: str, weight: int) -> None:
    drawn = {}
    for letter in ALPHABET:
        ink = write_code(letter, Look(face, weight), 24.0).ink
        canvas = np.zeros((64, 64), dtype=np.float32)
        canvas[: ink.shape[0], : ink.shape[1]] = ink
        assert ink.max() > 0.8
        drawn[letter] = canvas
    for a, b in combinations(ALPHABET, 2):
        ink = min(drawn[a].sum(), drawn[b].sum())
        assert np.abs(drawn[a] - drawn[b]).sum() > 0.12 * ink, (a, b)


@pytest.mark.parametrize("slant", [-0.12, 0.0, 0.25])
@pytest.mark.parametrize("cap_px", [12.0, 24.0, 60.0])
def test_letters_have_their_height_and_are_not_cut(cap_px: float, slant: float) -> None:
    written = write_code("HHH", Look("sans", 1, 1.0, slant), cap_px)
    rows = np.nonzero(written.ink.max(1) > 0.4)[0]
    assert rows[-1] - rows[0] + 1 == pytest.approx(cap_px, abs=2)
    assert written.ink[0].max() == written.ink[-1].max() == 0
    assert written.ink[:, 0].max() < 0.2
    assert written.ink[:, -1].max() < 0.2
    assert written.ink.shape == written.cover.shape


def test_a_slant_leans_to_the_right() -> None:
    ink = write_code("L", Look("stroke", 1, 1.0, 0.3), 40.0).ink
    stem = [int(np.nonzero(row > 0.5)[0][0]) for row in ink if (row > 0.5).any()]
    assert stem[0] - stem[-1] == pytest.approx(0.3 * 40, abs=3)


def test_an_outline_covers_little_and_a_plate_all() -> None:
    plate = write_code("KRX", Look(), 24.0)
    outline = write_code("KRX", replace(Look(), has_plate=False), 24.0)
    assert plate.cover.min() == 1
    assert outline.ink.sum() < outline.cover.sum() < 0.8 * plate.cover.sum()


@pytest.mark.parametrize("place", [(50, 40), (0, 0), (99, 79), (-200, 40), (50, 900)])
def test_blending_changes_only_what_is_covered(place: tuple[int, int]) -> None:
    frame = np.full((80, 100, 3), 120.0, dtype=np.float32)
    written = write_code("AXE", Look(), 20.0)
    blend(frame, written, *place)
    assert frame.min() >= 16
    assert frame.max() <= 250
    changed = (frame != 120).any(-1)
    inside = 0 <= place[0] < 100 and 0 <= place[1] < 80
    assert changed.any() == inside
    assert changed.sum() <= written.ink.size


def test_codes_and_looks_come_from_their_generator() -> None:
    def draw(seed: int) -> tuple[str, Look]:
        rng = np.random.default_rng(seed)
        return random_code(rng), random_look(rng)

    assert draw(4) == draw(4)
    assert draw(4) != draw(5)
    rng = np.random.default_rng(0)
    for _ in range(50):
        code = random_code(rng)
        other = near_code(rng, code)
        assert sum(a != b for a, b in zip(code, other, strict=True)) == 1
        assert set(code + other) <= set(ALPHABET)
        look = random_look(rng)
        assert abs(np.mean(look.ink) - np.mean(look.plate)) > 120
