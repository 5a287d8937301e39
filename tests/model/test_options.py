"""Options as tokens, and their probabilities against whole forwards."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.decoding import Generated, choose, score_options
from model.engine import load_model
from model.generate import generate_answers
from model.lanes import Lanes
from model.options import OptionIds, split_options
from model.rounds import MAX_READS, Making, run_together
from model.session import SessionLanes
from model.tokenizer import TextTokenizer
from schemas.ports import Question
from tests.model.scripted import ScriptedLanes, encode
from tests.model.test_generate import read_video
from tests.model.tiny import library_inputs, make_frames, make_tiny

TOKENIZER = TextTokenizer(make_tiny().folder)
OPTIONS = (
    "a bar",
    "a bar on screen",
    "a line",
    "x",
    "événement",
    'so "so"',
    "seconds when is a bar",
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=2, unique=True))
@example(["a", 'a"}', 'a"} and more'])
@example(["<|im_end|>", "<|im_end|>s"])
def test_prefix_and_rest_are_the_answers_own_tokens(options: list[str]) -> None:
    ids = split_options(TOKENIZER.encode, options)
    answers = [json.dumps({"answer": option}, ensure_ascii=False) for option in options]
    assert [[*ids.prefix, *rest] for rest in ids.rests] == [TOKENIZER.encode(a) for a in answers]
    assert all(ids.rests)
    assert len({rest[0] for rest in ids.rests}) > 1


def test_scores_equal_whole_forwards() -> None:
    """Every option behind the whole video in one forward of the library's, no cache, no fork."""
    tiny = make_tiny()
    model = load_model(str(tiny.folder), prefill_chunk=5)
    rgb = make_frames(4)
    cache, cursor, video = read_video(model, rgb)
    question = Question("q", "\nWhich?", "choice", options=OPTIONS)
    prompt, ids = model.counter.question_ids(question), model.counter.option_ids(question)
    expected = []
    for rest in ids.rests:
        before = [*video, *prompt, *ids.prefix]
        with torch.no_grad():
            logits = tiny.reference(**library_inputs([*before, *rest], rgb)).logits[0]
        scores = torch.log_softmax(logits[len(before) - 1 : -1].float(), dim=-1)
        expected.append(float(scores[range(len(rest)), rest].sum()))

    lanes = SessionLanes(model, cache, cursor)
    lane = lanes.fork(model.counter.lane_tokens(question))
    (ours,) = run_together(lanes, [score_options(lanes, lane, prompt, ids)])
    assert ours == pytest.approx(expected, abs=1e-4)
    assert np.ptp(expected) > 1

    (made,) = generate_answers(lanes, [question], model.counter, model.grammars)
    best = int(np.argmax(expected))
    shares = np.exp(expected) / np.exp(expected).sum()
    assert json.loads(model.counter.tokenizer.decode(made.ids)) == {"answer": OPTIONS[best]}
    assert made.mean_logprob == pytest.approx(math.log(shares[best]), abs=1e-4)


def choice(lanes: Lanes, options: OptionIds) -> Making[Generated]:
    lane = lanes.fork(1 + len(options.prefix))
    try:
        return (yield from choose(lanes, lane, [0], options))
    finally:
        lanes.drop(lane)


@pytest.mark.parametrize("wanted", OPTIONS)
def test_the_wanted_option_wins(wanted: str) -> None:
    options = split_options(encode, OPTIONS)
    lanes = ScriptedLanes((1, encode(json.dumps({"answer": wanted}, ensure_ascii=False))))
    (made,) = run_together(lanes, [choice(lanes, options)])
    assert TOKENIZER.decode(made.ids) == json.dumps({"answer": wanted}, ensure_ascii=False)
    assert made.finish == "complete"
    assert -0.1 < made.mean_logprob < 0
    assert [len(steps) for steps in lanes.rounds] == [1, len(OPTIONS)]
    assert not lanes.lanes


def test_options_of_one_token_need_one_forward() -> None:
    lanes = ScriptedLanes((1, [5, 8]))
    (made,) = run_together(lanes, [choice(lanes, OptionIds([5], ([7], [8], [9])))])
    assert made.ids == [5, 8]
    assert made.mean_logprob == pytest.approx(5 - math.log(math.exp(5) + 2), abs=1e-5)
    assert len(lanes.rounds) == 1


def test_many_long_options_are_scored_in_groups() -> None:
    rests = tuple([number, *[number] * 40] for number in range(10, 20))
    lanes = ScriptedLanes((1, [5, *rests[7]]))
    (made,) = run_together(lanes, [choice(lanes, OptionIds([5], rests))])
    assert made.ids == [5, *rests[7]]
    reads = [sum(step.read for step in steps) for steps in lanes.rounds]
    assert sum(reads) == 1 + 10 * 40
    assert max(reads) <= MAX_READS
    assert max(lanes.alive) <= 1 + MAX_READS // 40
    assert not lanes.lanes
