"""Drawn scenes: the same every time, and true to what they claim to show."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    Scene,
    Track,
    centre_of,
    draw_frame,
    spans_of,
)
from tests.pipeline.random_scenes import random_scene


def single(colour: str, shape: str, background: str = "gradient") -> Scene:
    track = Track(colour, shape, ((2.0, 5.0),), 0.5, 0.5, 0.0, 9.0, 0.4)
    return Scene(3, 160, 120, 10.0, background, (track,), shake=0.0)


def test_a_frame_is_the_same_whenever_it_is_drawn() -> None:
    scene = random_scene(7, width=128, height=96, duration_s=30, num_tracks=4)
    assert scene == random_scene(7, width=128, height=96, duration_s=30, num_tracks=4)
    assert np.array_equal(draw_frame(scene, 12.5), draw_frame(scene, 12.5))
    assert not np.array_equal(draw_frame(scene, 12.5), draw_frame(scene, 13.5))


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_shows_in_its_colour_while_it_is_there(colour: str, shape: str) -> None:
    scene = single(colour, shape)
    absent, present = (draw_frame(scene, t).astype(int) for t in (1.9, 2.0))
    near = np.abs(present - np.array(COLOURS[colour])).max(-1) < 12
    assert near.sum() > 300
    assert (np.abs(absent - np.array(COLOURS[colour])).max(-1) < 12).sum() < 20
    ys, xs = np.nonzero(near)
    x, y = centre_of(scene, scene.tracks[0], 2.0)
    assert abs(xs.mean() / 160 - x) < 0.03
    assert abs(ys.mean() / 120 - y) < 0.06


def test_spans_are_half_open() -> None:
    track = single("red", "circle").tracks[0]
    assert [track.is_visible(t) for t in (1.99, 2.0, 4.99, 5.0)] == [False, True, True, False]


def test_overlapping_spans_of_one_name_are_one() -> None:
    a, b = (Track("red", "ring", s, 0.5, 0.5, 0, 9, 0.3) for s in (((1, 4), (8, 9)), ((3, 6),)))
    scene = Scene(1, 64, 64, 10, "noise", (a, b))
    assert spans_of(scene, "red ring") == [(1, 6), (8, 9)]
    assert spans_of(scene, "blue ring") == []


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_no_background_passes_for_a_thing(background: str) -> None:
    for seed in range(5):
        frame = draw_frame(Scene(seed, 96, 96, 10, background, ()), 4.0).astype(int)
        for colour in COLOURS.values():
            assert (np.abs(frame - np.array(colour)).max(-1) < 12).mean() < 0.01


def test_random_scenes_keep_their_promises() -> None:
    for seed in range(40):
        scene = random_scene(seed, width=64, height=64, duration_s=60, num_tracks=4)
        names = [track.name for track in scene.tracks]
        assert len(set(names)) == 4
        for track in scene.tracks:
            for (_, end), (start, _) in zip(track.spans_s, track.spans_s[1:], strict=False):
                assert start > end
            assert all(0 <= start < end <= 60 for start, end in track.spans_s)
