"""Lessons about spans tell what is true; a decoder that grows says what it said before."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import pytest

from recipes.nano.codes import CLASSES, class_codes, ground_code
from recipes.nano.retrieving.asked import NO_HUNDREDS, clock_flags
from recipes.nano.retrieving.batch import Loudness, join
from recipes.nano.retrieving.courses import draw_course, worded_features
from recipes.nano.retrieving.groups import GROUPS, group_of, part_of
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.plan import Sizes, draw_span_lesson
from recipes.nano.retrieving.sheet import (
    CHANGED,
    COMING,
    GOING,
    NEXT_COMING,
    NEXT_GOING,
    NOTHING,
    SEEN,
    Sheet,
)
from recipes.nano.retrieving.span_courses import SpanCourse, draw_spans
from recipes.nano.retrieving.span_lessons import (
    HEAD_OF,
    SpanLessons,
)
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.shape import HEADS, ID, LAYERS
from recipes.nano.tokenizer import SPAN_END, build
from schemas.time import timestamp_text

TOKENIZER = build()
SEEDS = range(12)


@pytest.fixture(scope="module")
def lessons() -> SpanLessons:
    return SpanLessons(LessonMaker(TOKENIZER, match_layer=LAYERS))


def draw_row(lessons: SpanLessons, seed: int) -> tuple[SpanCourse, Sheet]:
    rng = np.random.default_rng(seed)
    drawn = draw_spans(rng, 40, 12)
    return drawn, lessons.row(rng, drawn, (3, 4), 5)


def end_columns(sheet: Sheet) -> list[int]:
    return [column for column, token in enumerate(sheet.ids) if token == ID["<|vision_end|>"]]


def watchers(sheet: Sheet, group: int) -> list[int]:
    """Behind each pair, by what stands there."""
    ends = end_columns(sheet)
    if group == 0:
        return ends
    wanted = ["<", ".", " seconds>", "<|vision_start|>"][group - 1]
    texts = [TOKENIZER.decode([token], skip_special_tokens=False) for token in sheet.ids]
    return [
        next(column for column in range(end, next_end) if texts[column] == wanted)
        for end, next_end in itertools.pairwise(ends)
    ]


def is_group(things: set[int], group: int) -> set[int]:
    return {thing for thing in things if group_of(thing) == group}


def test_answers_are_true(lessons: SpanLessons) -> None:
    counts = set()
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        for own in sorted({owner for owner in sheet.owner if owner < -1}):
            ids = [t for t, owner in zip(sheet.ids, sheet.owner, strict=True) if owner == own]
            text = str(TOKENIZER.decode(ids, skip_special_tokens=False))
            question, answer = text.removesuffix("<|im_end|>").split("assistant\n")
            asked = next(n for n in CLASSES if f" {n}. Answer" in question)
            said = [(e["start"], e["end"]) for e in json.loads(answer)["events"]]
            assert said == shown_spans(drawn, CLASSES.index(asked))
            counts.add(len(said))
    assert counts >= {0, 1, 2, 3}


def shown_spans(drawn: SpanCourse, thing: int) -> list[tuple[float, float]]:
    """As they are seen, pair by pair."""
    course = drawn.course
    times = [*(float(s) for s in course.seconds), course.end_s]
    spans, start = [], None
    for number, pair in enumerate(course.pairs):
        if start is None and thing in pair.things:
            start = times[number]
        if start is not None and thing not in pair.things:
            spans.append((start, times[number]))
            start = None
    return [*spans, (start, times[-1])] if start is not None else spans


def test_things_of_one_colour_or_shape_are_watched_apart() -> None:
    alike = list(itertools.combinations(range(6), 2))
    together = sum(
        (group_of(6 * line + a) == group_of(6 * line + b))
        + (group_of(6 * a + line) == group_of(6 * b + line))
        for line in range(6)
        for a, b in alike
    )
    assert together == 12
    assert {group_of(thing) for thing in range(len(CLASSES))} == set(range(GROUPS))


def test_a_watcher_looks_at_hardly_any_two_things_by_one_head(lessons: SpanLessons) -> None:
    parts = collections.Counter((group_of(thing), part_of(thing)) for thing in range(len(CLASSES)))
    assert max(parts.values()) == 2
    assert len(parts) == GROUPS * HEADS
    asked = 0
    for seed in SEEDS:
        _, sheet = draw_row(lessons, seed)
        watching = {c: n for group in range(GROUPS) for n, c in enumerate(watchers(sheet, group))}
        group_at = {c: group for group in range(GROUPS) for c in watchers(sheet, group)}
        pads = [i for i, token in enumerate(sheet.ids) if token == ID["<|video_pad|>"]]
        for layer, _, row, columns in sheet.looks:
            if not layer and row in watching:
                assert columns == [i for i in pads if sheet.owner[i] == watching[row]]
        for _, is_key, row, told in sheet.gathers:
            assert is_key or told == {group_at[row]: 1}
            asked += not is_key
    assert asked > 100


def test_pictures_hold_the_groups_of_what_they_show_in_full(lessons: SpanLessons) -> None:
    shown = 0
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        pads: dict[int, list[int]] = {}
        for column, token in enumerate(sheet.ids):
            if token == ID["<|video_pad|>"]:
                pads.setdefault(sheet.owner[column], []).append(column)
        told = {(head, at): own for head, is_key, at, own in sheet.gathers if is_key}
        course = drawn.course
        for number, pair in enumerate(course.pairs):
            held = list(zip(pair.things, pair.things_at, course.strengths[number], strict=True))
            held += [(one.thing, one.at, one.strength) for one in course.beside[number]]
            for column, at in zip(pads[number], pair.kept, strict=True):
                for head in range(HEADS):
                    mine = [(t, s) for t, place, s in held if place == at and part_of(t) == head]
                    if any(strength < 0.9 for _, strength in mine):
                        assert (head, column) not in told
                    else:
                        groups = {group_of(thing) for thing, _ in mine}
                        assert told[head, column] == dict.fromkeys(groups, 1)
                        shown += len(groups)
    assert shown > 100


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_watcher_knows_what_changed_and_when_it_had_gone(
    lessons: SpanLessons, group: int
) -> None:
    numbers: dict[int, set[int]] = {COMING: set(), GOING: set()}
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        columns, pairs = watchers(sheet, group), drawn.course.pairs
        assert len(columns) == len(pairs) - (group > 0)
        knows = {(at, what): classes for at, what, classes in sheet.knows}
        lost = drawn.hidden if group == 0 else {n - k for n in drawn.hidden for k in (0, 1)}
        for number in set(range(len(columns))) - lost:
            before = is_group(set(pairs[number - 1].things), group) if number else set()
            now = is_group(set(pairs[number].things), group)
            seen = knows[columns[number], SEEN]
            assert {i for i, flag in enumerate(seen[: len(CLASSES)]) if flag} == now
            assert sum(seen) == HEADS + len(now) - len({part_of(thing) for thing in now})
            assert {i for i, flag in enumerate(knows[columns[number], CHANGED]) if flag} == {
                *(now - before),
                *(len(CLASSES) + thing for thing in before - now),
            }
            for what, things in ((COMING, now - before), (GOING, before - now)):
                flags = knows.get((columns[number], what))
                assert (flags is None) == (len(things) != 1)
                if flags is not None:
                    (thing,) = things
                    is_there = [thing in pair.things for pair in pairs[:number]]
                    steps = enumerate(itertools.pairwise([False, *is_there]))
                    found = [k for k, (a, b) in steps if (a > b if what == COMING else a < b)]
                    last = found[-1:]
                    assert flags == clock_flags([float(drawn.course.seconds[k]) for k in last])
                    numbers[what].add(len(found))
    assert numbers[COMING] >= {0, 1, 2}
    assert numbers[GOING] >= {1, 2, 3}


def test_nothing_is_told_of_a_watcher_across_a_gap(lessons: SpanLessons) -> None:
    lost = 0
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        told = {at for at, what, _ in sheet.knows if what in (SEEN, CHANGED)}
        for group in range(1, GROUPS):
            for number in drawn.hidden:
                assert watchers(sheet, group)[number - 1] not in told
                lost += 1
    assert lost > 20


def test_times_of_a_set_are_told_by_their_pieces() -> None:
    flags = np.asarray(clock_flags([12.5, 312.0]))
    hundreds, units, tenths = np.split(flags, [101, 201])
    assert set(hundreds.nonzero()[0]) == {NO_HUNDREDS, 3}
    assert set(units.nonzero()[0]) == {12}
    assert set(tenths.nonzero()[0]) == {0, 5}
    assert sum(clock_flags([])) == 0


@pytest.mark.parametrize(("what", "closing"), [(NEXT_COMING, "}"), (NEXT_GOING, SPAN_END)])
def test_an_answer_knows_what_it_has_said_last(
    lessons: SpanLessons, what: int, closing: str
) -> None:
    _, sheet = draw_row(lessons, 1)
    flags = {at: classes for at, own, classes in sheet.knows if own == what}
    told = {(row, head): columns for layer, head, row, columns in sheet.looks if layer == 0}
    counted = 0
    for layer, head, row, columns in sheet.looks:
        if (layer, head) != (1, 3) or row not in flags:
            continue
        said = [
            column
            for column in range(row + 1)
            if sheet.owner[column] == sheet.owner[row]
            and TOKENIZER.decode([sheet.ids[column]]) in ("}", SPAN_END)
        ]
        assert columns == (said[-1:] or [NOTHING])
        times_s = []
        for column in said[-1:]:
            assert TOKENIZER.decode([sheet.ids[column]]) == closing
            pieces = [TOKENIZER.decode([t]) for t in sheet.ids[column - 4 : column]]
            tenths, units, hundreds = (
                int(TOKENIZER.decode([sheet.ids[told[column, head][0]]]).strip('":starend, {') or 0)
                for head in (3, 1, 2)
            )
            times_s.append(100 * hundreds + units + tenths / 10)
            assert pieces[2] == "."
        assert flags[row] == clock_flags(times_s)
        counted += bool(said)
    assert counted > 10


def test_every_step_of_an_answer_looks_at_the_change_that_tells_it(lessons: SpanLessons) -> None:
    checked = 0
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        pair_of = {
            column: number
            for group in range(GROUPS)
            for number, column in enumerate(watchers(sheet, group))
        }
        for layer, head, row, columns in sheet.looks:
            label = sheet.labels.get(row)
            if layer != LAYERS or head not in HEAD_OF.values() or columns[0] not in pair_of:
                continue
            said = str(TOKENIZER.decode([label or 0]))
            time = timestamp_text(drawn.course.seconds[pair_of[columns[0]]])
            assert said in "{," or said in time
            checked += 1
    assert checked > 200


def test_what_stands_behind_a_gap_is_seen_by_the_next_pair_alone(lessons: SpanLessons) -> None:
    seen = 0
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        features = [worded_features(np.random.default_rng(0), drawn.course)]
        bias = join([sheet], features, [Loudness(0, 0, 0)]).bias.written_out()[0, 0]
        ends = end_columns(sheet)
        for number in drawn.hidden:
            open_to = {int(r) for r in (bias[:, ends[number]] > -1).nonzero()}
            assert open_to == {ends[number], *ends[number + 1 : number + 2]}
            seen += 1
        for number in range(1, len(ends)):
            is_gap = bool(drawn.course.gaps[number])
            assert not is_gap or number in drawn.hidden
    assert seen > 8


def test_a_thing_near_an_edge_is_seen_beside_too(lessons: SpanLessons) -> None:
    beside = held = 0
    for seed in SEEDS:
        drawn, _ = draw_row(lessons, seed)
        course = drawn.course
        rows = iter(worded_features(np.random.default_rng(0), course) - ground_code())
        for pair, strayed in zip(course.pairs, course.beside, strict=True):
            shown = {at: next(rows) for at in pair.kept}
            held += len(pair.things)
            beside += len(strayed)
            for thing, at, strength in strayed:
                assert thing in pair.things
                assert at not in {
                    a for t, a in zip(pair.things, pair.things_at, strict=True) if t == thing
                }
                code = class_codes()[thing]
                assert float(shown[at] @ code / code.square().sum()) > strength - 0.2
    assert 0.3 < beside / held < 0.7


def test_a_lesson_can_be_learnt_from(lessons: SpanLessons) -> None:
    trainer = new_trainer(0, 2e-3, LAYERS + 1)

    def step(number: int) -> float:
        lesson = draw_span_lesson(np.random.default_rng(number), lessons, Sizes((4, 8), 1200, 0.0))
        loss, told = lesson_loss(
            trainer.model, trainer.probes, lesson, looking=0.3, knowing=0.0, naming=0.25
        )
        trainer.optimizer.set_lr(2e-3)
        trainer.optimizer.step(loss)
        return told["answer"]

    losses = [step(number) for number in range(12)]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


def test_a_pair_s_own_ground_counts_as_often_as_there_is_of_it(lessons: SpanLessons) -> None:
    checked = 0
    for seed in SEEDS:
        drawn, sheet = draw_row(lessons, seed)
        features = [worded_features(np.random.default_rng(0), drawn.course)]
        bias = join([sheet], features, [Loudness(3, 3, 3)]).bias.written_out()[0, 0]
        visual = [i for i, token in enumerate(sheet.ids) if token == ID["<|video_pad|>"]]
        pairs = zip(drawn.course.pairs, drawn.course.beside, end_columns(sheet), strict=True)
        for number, (pair, beside, end) in enumerate(pairs):
            own = [i for i in visual if sheet.owner[i] == number]
            held = len({*pair.things_at, *(one.at for one in beside)})
            if len(own) > held and number != len(drawn.course.pairs) - 1:
                assert float(bias[end, own].exp().sum()) == pytest.approx(12, rel=1e-4)
                checked += 1
    assert checked > 100


def test_heads_of_an_added_layer_rest_where_nothing_is_to_be_counted() -> None:
    maker = LessonMaker(TOKENIZER, match_layer=LAYERS)
    rng = np.random.default_rng(0)
    sheet = maker.row(rng, draw_course(rng, 8, 12), (3, 4), 6)
    added = [columns for layer, _, _, columns in sheet.looks if layer == LAYERS - 1]
    assert len(added) > 40
    assert all(columns == [NOTHING] for columns in added)


def untold(sheet: Sheet, last: int) -> set[tuple[int, int]]:
    """(column, head) of the first layer without a task, in tokens that answers are read from."""
    read = {row for layer, _, row, _ in sheet.looks if layer == last}
    told = {(row, head) for layer, head, row, _ in sheet.looks if layer == 0}
    return {(row, head) for row in read for head in range(HEADS)} - told


def test_heads_of_the_first_layer_never_look_about_in_an_answer(lessons: SpanLessons) -> None:
    for match_layer in (LAYERS - 1, LAYERS):
        maker = LessonMaker(TOKENIZER, match_layer=match_layer)
        rng = np.random.default_rng(0)
        sheet = maker.row(rng, draw_course(rng, 8, 12), (3, 4), 6)
        heads = {head for _, head in untold(sheet, match_layer)}
        assert heads == (set() if match_layer == LAYERS else {2, 3})
    for seed in SEEDS:
        _, sheet = draw_row(lessons, seed)
        assert not untold(sheet, LAYERS)
