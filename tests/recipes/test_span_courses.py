"""Courses of spans: changes lie apart as in a video, and things are shown as a tower sees them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recipes.nano.codes import CODE_NORM, class_codes, ground_code
from recipes.nano.retrieving import courses
from recipes.nano.retrieving.asked import NO_HUNDREDS, clock_classes
from recipes.nano.retrieving.courses import worded_features
from recipes.nano.retrieving.groups import group_of, part_of
from recipes.nano.retrieving.span_courses import APART, FAR, draw_spans

SEEDS = range(12)


def test_changes_of_a_thing_mostly_stand_apart() -> None:
    gaps: list[int] = []
    for seed in range(200):
        for own in draw_spans(np.random.default_rng(seed), 60, 12).spans.values():
            gaps += [later - cut for cut, later in itertools.pairwise(sum(own, ()))]
    assert min(gaps) == APART[0]
    assert 0.8 < np.mean(np.array(gaps) >= APART[1]) < 0.97


def test_the_end_of_a_video_is_a_step_behind_its_last_pair_and_a_time_that_can_be_told() -> None:
    for seed in range(300):
        course = draw_spans(np.random.default_rng(seed), 12, 12).course
        last, shortest = float(course.seconds[-1]), float(np.diff(course.seconds).min())
        assert 0 < course.end_s - last <= max(0.1, shortest / 2) + 0.1
        assert clock_classes(course.end_s)[0] != NO_HUNDREDS or course.end_s < 100


def test_what_is_half_seen_is_fainter_than_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "NOISE", (1e-4, 2e-4))
    ghosts, faintest, names = 0, 1.0, class_codes() / CODE_NORM**2
    for seed in SEEDS:
        course = draw_spans(np.random.default_rng(seed), 24, 12).course
        features = worded_features(np.random.default_rng(seed), course) - ground_code()
        by_pair = features.split([len(pair.kept) for pair in course.pairs])
        for pair, beside, own in zip(course.pairs, course.beside, by_pair, strict=True):
            seen = (own @ names.T).amax(0).tolist()
            shown = {*pair.things, *(one.thing for one in beside)}
            others = max(value for thing, value in enumerate(seen) if thing not in shown)
            assert others < 0.46
            ghosts += others > 0.2
            faintest = min([faintest, *(seen[thing] for thing in pair.things)])
    assert ghosts > 10
    assert faintest > 0.4


def test_things_of_one_head_are_often_in_lessons_together() -> None:
    together = 0
    for seed in range(300):
        spans = draw_spans(np.random.default_rng(seed), 8, 12).spans
        watched = [(group_of(thing), part_of(thing)) for thing in spans]
        together += len(set(watched)) < len(watched)
    assert 60 < together < 110


def test_far_positions_are_reached() -> None:
    reached = [
        int(d.course.start + d.course.gaps.sum())
        for d in (draw_spans(np.random.default_rng(seed), 20, 12) for seed in range(60))
    ]
    assert FAR / 2 < max(reached) <= FAR
