"""Lessons: what they tell is true, and what stands for a long video does."""

from __future__ import annotations

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.lettering import ALPHABET
from pipeline.needles import ASKS, NONE, ask_for
from pipeline.questions import build_questions
from recipes.nano.codes import CLASSES, class_codes, ground_code, letter_codes
from recipes.nano.retrieving.asked import clock_classes
from recipes.nano.retrieving.batch import Loudness, join
from recipes.nano.retrieving.courses import Course, draw_course, worded_features
from recipes.nano.retrieving.decoder import run
from recipes.nano.retrieving.held import GAINS
from recipes.nano.retrieving.lessons import LessonMaker
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.retrieve import whole_answers
from recipes.nano.retrieving.sheet import LETTERS, NAMED, THING, Sheet
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.seeing.see import new_reader, tower
from recipes.nano.shape import FAR, LAYERS, count_parts, published_part
from recipes.nano.tokenizer import ANSWER
from schemas.job import QuerySpec
from schemas.time import TimeSpan, timestamp_text
from tests.recipes.rows import TOKENIZER, draw_row, joined


def text_of(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


def segments(sheet: Sheet) -> list[list[int]]:
    """Token ids of each question with its answer."""
    owners = sorted({owner for owner in sheet.owner if owner < -1}, reverse=True)
    return [
        [token for token, owner in zip(sheet.ids, sheet.owner, strict=True) if owner == own]
        for own in owners
    ]


def test_questions_are_asked_word_for_word_as_jobs_ask_them(maker: LessonMaker) -> None:
    kinds = set()
    for seed in range(12):
        course, sheet = draw_row(maker, seed)
        for ids in segments(sheet):
            text = text_of(ids)
            asked, _ = text.split("<|im_end|>\n<|im_start|>assistant\n")
            ask = re.fullmatch(r"\nThe video runs from .* seconds\. (.*) Answer in JSON\.", asked)
            assert ask is not None
            span = TimeSpan(0, round(course.end_s * 10), Fraction(1, 10))
            query = QuerySpec(id="q", ask=ask[1])
            assert build_questions([query], span)[0].text == asked
            kinds |= {kind for kind, words in ASKS.items() if ask[1][:18] == words[:18]}
    assert kinds == set(ASKS)


def test_answers_are_true(maker: LessonMaker) -> None:
    counted = 0
    for seed in range(12):
        course, sheet = draw_row(maker, seed)
        for ids in segments(sheet):
            text = text_of(ids)
            found = re.search(r'\{"answer": "(.*)"\}<\|im_end\|>$', text)
            assert found is not None
            assert answer_is_true(course, text, found[1]), text
            counted += 1
    assert counted > 50


def answer_is_true(course: Course, text: str, answer: str) -> bool:
    shown = list(zip(course.seconds, course.pairs, strict=True))
    if code := re.search(r"At what time, in seconds, is the code (\w+) on", text):
        if answer == NONE:
            return all(pair.code != code[1] for _, pair in shown)
        return any(s == float(answer) and pair.code == code[1] for s, pair in shown)
    if at := re.search(r"Which code is on screen at ([\d.]+) ", text):
        return [pair.code for s, pair in shown if s == float(at[1])] == [answer]
    if at := re.search(r"Which thing is on screen at ([\d.]+) ", text):
        return [[CLASSES[t] for t in p.things] for s, p in shown if s == float(at[1])] == [[answer]]
    if thing := re.search(r"Which code is on screen together with a (.*)\? Answer n", text):
        number = CLASSES.index(thing[1])
        codes = {pair.code for _, pair in shown if pair.code and number in pair.things}
        return codes == ({answer} - {NONE})
    code = re.search(r"together with the code (\w+)\?", text)
    assert code is not None
    return {tuple(CLASSES[t] for t in p.things) for _, p in shown if p.code == code[1]} == {
        (answer,)
    }


def test_heads_are_told_to_look_where_the_time_stands(maker: LessonMaker) -> None:
    course, sheet = draw_row(maker, 3)
    checked = 0
    for layer, head, row, columns in sheet.looks:
        pair = sheet.owner[row]
        if layer or pair < 0:
            continue
        if head == 0:  # A picture looks at itself.
            assert columns == [row]
            continue
        pieces = maker.encode(timestamp_text(course.seconds[pair]))
        tenths, units = pieces[-2], pieces[-4]
        hundreds = pieces[-5]
        assert [sheet.ids[c] for c in columns] == [{3: tenths, 1: units, 2: hundreds}[head]]
        assert sheet.owner[columns[0]] == pair
        checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("seconds", "classes"),
    [(0.2, (100, 0, 2)), (99.9, (100, 99, 9)), (305.5, (3, 5, 5)), (9999.0, (99, 99, 0))],
)
def test_a_time_falls_into_its_pieces(seconds: float, classes: tuple[int, ...]) -> None:
    assert clock_classes(seconds) == classes


def test_times_come_again_some_hundreds_of_seconds_later() -> None:
    alike = 0
    for seed in range(40):
        seconds = draw_course(np.random.default_rng(seed), 12, 12).seconds
        tenths = [round(float(s) * 10) for s in seconds]
        assert tenths == sorted(set(tenths))
        alike += len({t % 1000 for t in tenths}) < len(tenths)
    assert 12 < alike < 32


def test_times_lie_anywhere_within_a_hundred_seconds_by_twos() -> None:
    found = 0
    for seed in range(60):
        seconds = draw_course(np.random.default_rng(seed), 12, 12).seconds
        steps = np.diff(np.floor(seconds + 1e-6))
        found += bool((steps[::2] == 1).all()) and steps[1::2].max() > 3
    assert 8 < found < 28


def test_a_letter_that_is_half_another_is_mostly_itself() -> None:
    words = letter_codes()
    own = unsure = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        course = draw_course(rng, 12, 12)
        features = iter(worded_features(rng, course) - ground_code())
        for pair in course.pairs:
            rows = [next(features) for _ in pair.kept]
            if not pair.code:
                continue
            row = rows[pair.kept.index(pair.code_at)]
            shares = words @ row / words.square().sum(-1)
            for letter, slot in zip(pair.code, shares, strict=True):
                (_, less), (first, _) = slot.topk(2)
                if less > 0.25:
                    unsure += 1
                    own += ALPHABET[first] == letter
    assert unsure > 8
    assert own / unsure > 0.9


def test_positions_are_those_of_a_long_video(maker: LessonMaker) -> None:
    farthest = 0
    for seed in range(40):
        course, sheet = draw_row(maker, seed, questions=1)
        video = [p for p, owner in zip(sheet.positions, sheet.owner, strict=True) if owner >= 0]
        times = [p[0] for p in video]
        assert times == sorted(times)
        assert max(times) <= FAR
        farthest = max(farthest, *times)
        first_pads = [k for k, token in enumerate(sheet.ids) if token == 6]
        for column in first_pads:
            kept = course.pairs[sheet.owner[column]].kept
            t, row, col = sheet.positions[column]
            assert (row - t) * 4 + (col - t) in kept
    assert farthest > FAR / 2


def test_what_is_not_asked_for_is_louder_and_questions_are_alone(maker: LessonMaker) -> None:
    sheets, lesson = joined(maker, range(2), Loudness(ground=5, things=3, codes=1))
    heard = set()
    for sheet, bias in zip(sheets, lesson.bias.written_out()[:, 0], strict=True):
        exempt = {row: set(columns) for row, columns in sheet.exempt}
        for row in range(0, len(sheet.ids), 3):
            for column in range(len(sheet.ids)):
                asks, holds = sheet.owner[row], sheet.owner[column]
                value = float(bias[row, column])
                if column > row or (holds < -1 and holds != asks):
                    assert value < -1e8
                elif holds < 0 or asks in (-1, holds) or column in exempt.get(row, ()):
                    assert value == 0
                else:
                    assert value == {THING: 3, LETTERS: 1}.get(sheet.holds.get(column, -1), 5)
                    heard.add(value)
    assert heard == {1, 3, 5}


def test_lessons_run_as_the_library_runs(maker: LessonMaker) -> None:
    model = tower(0)
    _, sheet = draw_row(maker, 5, questions=1)
    course, _ = draw_row(maker, 5, questions=1)
    features = worded_features(np.random.default_rng(0), course)
    lesson = join([sheet], [features], [Loudness(0, 0, 0)])
    with torch.inference_mode():
        own = run(model, lesson, [])[-1]
        text = model.model.language_model
        embedded = text.embed_tokens(lesson.ids)
        embedded = embedded.masked_scatter(lesson.visual[..., None], lesson.features)
        theirs = text(inputs_embeds=embedded, position_ids=lesson.positions).last_hidden_state
    assert lesson.tail > 50
    assert torch.allclose(own, theirs[:, lesson.tail :], atol=2e-4)


def test_training_goes_on_from_what_is_published() -> None:
    trainer = new_trainer(0, 1e-3, LAYERS + 1)
    reader = new_reader(0, 1e-3, depth=count_parts(published_part("model.visual."), "blocks"))
    trainer.begin_as_published()
    reader.begin_as_published()
    held = {
        f"layers.{layer}.self_attn.{side}_{part}.weight"
        for layer in GAINS
        for side in "qk"
        for part in ("norm", "proj")
    }
    for part, prefix in (
        (trainer.model.model.language_model, "model.language_model."),
        (reader.model.model.visual, "model.visual."),
    ):
        own, published = part.state_dict(), published_part(prefix)
        assert own.keys() == published.keys()
        changed = {name for name in own if not torch.equal(own[name], published[name].float())}
        assert changed <= held


def test_parts_of_the_loss_weigh_as_they_are_told_to(maker: LessonMaker) -> None:
    trainer = new_trainer(0, 1e-3)
    _, lesson = joined(maker, range(3), Loudness(0, 0, 0))

    def loss(naming: float = 0, **weights: float) -> tuple[float, dict[str, float]]:
        total, told = lesson_loss(
            trainer.model, trainer.probes, lesson, looking=0, knowing=0, naming=naming, **weights
        )
        return float(total.detach()), told

    without, told = loss()
    assert told["choice"] > 0
    assert without == pytest.approx(told["answer"], rel=1e-5)
    names = told[f"know{THING}"] + told[f"know{NAMED}"]
    assert loss(1)[0] - without == pytest.approx(names, rel=1e-4)
    assert loss(answering=3)[0] == pytest.approx(3 * without, rel=1e-5)
    assert loss(choosing=2)[0] - without == pytest.approx(2 * told["choice"], rel=1e-4)


def test_every_time_at_which_a_code_shows_is_right(maker: LessonMaker) -> None:
    (opening,) = maker.encode(ANSWER)
    several = 0
    for seed in range(20):
        course, sheet = draw_row(maker, seed)
        features = [worded_features(np.random.default_rng(0), course)]
        lesson = join([sheet], features, [Loudness(0, 0, 0)])
        rows = ((lesson.labels[0] >= 0).nonzero()[:, 0] + lesson.tail).tolist()
        allowed = dict(zip(rows, lesson.right_tokens(TOKENIZER.get_vocab_size()), strict=True))
        for row in (row for row in rows if sheet.ids[row] == opening):
            own = [t for t, o in zip(sheet.ids, sheet.owner, strict=True) if o == sheet.owner[row]]
            right = {int(token) for token in allowed[row].nonzero()[:, 0]}
            asked = re.search(r"is the code (\w+) on screen", text_of(own))
            shown = zip(course.seconds, course.pairs, strict=True)
            times = [f"{s:.1f}" for s, pair in shown if asked and pair.code == asked[1]]
            firsts = {maker.encode(time)[0] for time in times}
            assert right == (firsts or {sheet.labels[row]})
            several += len(right) > 1
    assert several > 5


def test_whatever_is_shown_shows_in_full_once() -> None:
    for seed in range(20):
        course = draw_course(np.random.default_rng(seed), 10, 12)
        shown = [(pair.code, pair.things) for pair in course.pairs]
        features = worded_features(np.random.default_rng(seed), course)
        first = np.cumsum([0, *(len(pair.kept) for pair in course.pairs)])
        best: dict[int, float] = {}
        run_of = np.cumsum([i == 0 or shown[i] != shown[i - 1] for i in range(len(shown))])
        for number, pair in enumerate(course.pairs):
            for thing, at in zip(pair.things, pair.things_at, strict=True):
                row = features[first[number] + pair.kept.index(at)] - ground_code()
                code = class_codes()[thing]
                share = float(row @ code / code.square().sum())
                own = int(run_of[number]) * 100 + thing
                best[own] = max(best.get(own, 0), share)
        assert min(best.values(), default=1) > 0.8


def test_whole_answers_are_counted() -> None:
    answers = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1, 1, 1]).bool()
    faults = torch.tensor([1, 0, 0, 0, 1, 0, 1, 0, 0, 0]).bool()
    assert whole_answers(answers, faults) == (2, 3)


def test_the_asks_have_a_token_before_and_behind_their_gap() -> None:
    for kind in ASKS:
        ask = ask_for(kind, code="KRX", thing="red circle", seconds=12.5)
        ids: Tensor = torch.tensor(TOKENIZER.encode(f" seconds. {ask} Answer in JSON.").ids)
        assert len(ids) <= 5
