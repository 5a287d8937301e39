"""Haystacks: what they say of themselves is what they show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.needles import ASKS, Haystack, Sizes, ask_for, draw_haystack
from pipeline.scenes import centre_of, draw_frame
from schemas.errors import InvariantError


@pytest.fixture(scope="module")
def haystack() -> Haystack:
    return draw_haystack(3, (192, 144), 240.0, 24, 1.0)


def test_the_same_seed_gives_the_same_haystack(haystack: Haystack) -> None:
    assert haystack == draw_haystack(3, (192, 144), 240.0, 24, 1.0)
    assert haystack != draw_haystack(4, (192, 144), 240.0, 24, 1.0)


def test_needles_are_spread_and_all_different(haystack: Haystack) -> None:
    codes = [needle.code for needle in haystack.needles]
    assert len(set(codes)) == 24
    for number, needle in enumerate(haystack.needles):
        assert 10 * number <= needle.span_s[0] < needle.span_s[1] <= 10 * (number + 1) + 0.001
    near = sum(
        any(sum(a != b for a, b in zip(code, other, strict=True)) == 1 for other in codes)
        for code in codes
    )
    assert near >= 6


def test_a_companion_shows_with_its_code_and_at_no_other_time(haystack: Haystack) -> None:
    companions = [needle for needle in haystack.needles if needle.companion]
    assert len(companions) == 18
    for needle in companions:
        own = [track for track in haystack.scene.tracks if track.name == needle.companion]
        assert [track.spans_s for track in own] == [(needle.span_s,)]


def test_nothing_else_is_there_while_a_needle_shows(haystack: Haystack) -> None:
    for needle in haystack.needles:
        middle = sum(needle.span_s) / 2
        things = [track.name for track in haystack.scene.tracks if track.is_visible(middle)]
        assert things == [needle.companion] * bool(needle.companion)
        assert [c.text for c in haystack.scene.codes if c.is_visible(middle)] == [needle.code]


@pytest.mark.parametrize(
    ("frame", "sizes"), [((256, 192), Sizes()), ((384, 384), Sizes((0.05, 0.085), (0.07, 0.13)))]
)
def test_no_code_covers_its_companion(frame: tuple[int, int], sizes: Sizes) -> None:
    scene = draw_haystack(6, frame, 120.0, 12, 1.0, sizes).scene
    for code in scene.codes:
        for time_s in (code.spans_s[0][0], sum(code.spans_s[0]) / 2):
            bare = draw_frame(replace(scene, codes=(), tracks=()), time_s)
            thing = (draw_frame(replace(scene, codes=()), time_s) != bare).any(-1)
            written = (draw_frame(replace(scene, tracks=()), time_s) != bare).any(-1)
            assert thing.any()
            assert written.any()
            assert not (thing & written).any()


def test_sizes_that_leave_no_room_are_refused() -> None:
    with pytest.raises(InvariantError, match="no room"):
        draw_haystack(6, (256, 192), 60.0, 4, 1.0, Sizes((0.5, 0.6), (0.6, 0.7)))


def test_something_else_comes_and_goes(haystack: Haystack) -> None:
    own = {needle.companion for needle in haystack.needles}
    others = [track for track in haystack.scene.tracks if track.name not in own]
    assert sum(len(track.spans_s) for track in others) > 10


@pytest.mark.parametrize("sizes", [Sizes(), Sizes((0.05, 0.085), (0.07, 0.13))])
def test_a_code_is_drawn_where_its_track_is(sizes: Sizes) -> None:
    haystack = draw_haystack(5, (320, 240), 60.0, 6, 1.0, sizes)
    for code in haystack.scene.codes:
        middle = sum(code.spans_s[0]) / 2
        shown = draw_frame(haystack.scene, middle).astype(int)
        hidden = draw_frame(replace(haystack.scene, codes=()), middle).astype(int)
        ys, xs = np.nonzero((shown != hidden).any(-1))
        x, y = centre_of(haystack.scene, code, middle)
        assert xs.min() > 0
        assert xs.max() < 319
        assert ys.min() > 0
        assert ys.max() < 239
        assert (xs.min() + xs.max()) / 2 == pytest.approx(x * 320, abs=3)
        assert (ys.min() + ys.max()) / 2 == pytest.approx(y * 240, abs=3)


def test_every_question_is_filled_in() -> None:
    for kind in ASKS:
        text = ask_for(kind, code="KRX", thing="red circle", seconds=12.5)
        assert "{" not in text
        assert any(part in text for part in ("KRX", "red circle", "12.5"))
