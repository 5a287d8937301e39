"""The ports, end to end on a tiny checkpoint: chunks in, replies out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from model import engine
from model.engine import LoadedModel, list_devices, load_model
from schemas.errors import InvariantError, ResourceError
from schemas.media import FrameBatch
from schemas.plan import FrameGrid, MemoryNeed, VideoPlan
from schemas.ports import EventField, FilledSession, FillingSession, Question, Reply, VideoModel
from tests.model.tiny import Shape, cut_batches, make_frames, make_plan, make_tiny

QUESTIONS = [
    Question("spans", "\nWhen is a bar on screen?", "events", (), 60),
    Question("kinds", "\nWhich?", "events", (EventField("kind", ("bar", "line")),), 90),
    Question("gist", "\nWhat happens? Answer in JSON.", "text", (), 40),
    Question("sky", "\nWhich?", "choice", options=("a bar", "a line", "nothing at all")),
]


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(str(make_tiny().folder), prefill_chunk=7)


def read(model: LoadedModel, plan: VideoPlan, seed: int = 0) -> FilledSession:
    session = model.begin(plan)
    for batch in cut_batches(plan, make_frames(plan.sampling.num_frames, seed=seed)):
        session.feed(batch)
    return session.finish()


def answer(model: LoadedModel, questions: Sequence[Question], seed: int = 0) -> list[Reply]:
    return read(model, make_plan(model.counter), seed).ask(questions)


def assert_same(ours: list[Reply], theirs: list[Reply]) -> None:
    """Equal but for the rounding of a mean."""
    for one, other in zip(ours, theirs, strict=True):
        assert replace(one, mean_logprob=0.0) == replace(other, mean_logprob=0.0)
        assert abs(one.mean_logprob - other.mean_logprob) < 1e-3


def test_it_keeps_the_ports(model: LoadedModel) -> None:
    as_model: VideoModel = model
    filling: FillingSession = as_model.begin(make_plan(model.counter))
    assert not hasattr(filling, "ask")


def test_replies_are_in_order_and_in_form(model: LoadedModel) -> None:
    replies = answer(model, QUESTIONS)
    assert [reply.query_id for reply in replies] == ["spans", "kinds", "gist", "sky"]
    for reply, question in zip(replies, QUESTIONS, strict=True):
        assert 0 < reply.num_tokens <= question.max_tokens
        assert reply.mean_logprob < 0
        if reply.finish == "complete":
            json.loads(reply.text)
        else:
            assert reply.num_tokens == question.max_tokens


def test_a_choice_is_one_of_the_options(model: LoadedModel) -> None:
    (reply,) = answer(model, QUESTIONS[-1:])
    assert json.loads(reply.text)["answer"] in QUESTIONS[-1].options
    assert reply.finish == "complete"


def test_forked_questions_equal_separate_runs(model: LoadedModel) -> None:
    together = answer(model, QUESTIONS)
    assert_same([answer(model, [question])[0] for question in QUESTIONS], together)


def test_asking_again_gives_the_same(model: LoadedModel) -> None:
    session = read(model, make_plan(model.counter))
    first = session.ask(QUESTIONS)
    assert_same(session.ask(QUESTIONS[::-1]), first[::-1])


@pytest.mark.parametrize("prefill_chunk", [1, 5, 64, 8192])
@pytest.mark.parametrize("pairs_per_chunk", [1, 3, 4])
def test_chunking_changes_no_reply(
    model: LoadedModel, prefill_chunk: int, pairs_per_chunk: int
) -> None:
    expected = answer(model, QUESTIONS)
    other = load_model(str(make_tiny().folder), prefill_chunk=prefill_chunk)
    plan = make_plan(other.counter, pairs_per_chunk=pairs_per_chunk)
    assert_same(read(other, plan).ask(QUESTIONS), expected)


def test_the_video_matters(model: LoadedModel) -> None:
    assert answer(model, QUESTIONS, seed=1) != answer(model, QUESTIONS, seed=2)


def test_two_videos_may_be_read_at_once(model: LoadedModel) -> None:
    plan = make_plan(model.counter)
    sessions = [model.begin(plan), model.begin(plan)]
    videos = [cut_batches(plan, make_frames(8, seed=seed)) for seed in (1, 2)]
    for batches in zip(*videos, strict=True):
        for session, batch in zip(sessions, batches, strict=True):
            session.feed(batch)
    for session, seed in zip(sessions, (1, 2), strict=True):
        replies = session.finish().ask(QUESTIONS)
        assert_same(replies, answer(model, QUESTIONS, seed))


def test_chunks_come_in_order_and_all_of_them(model: LoadedModel) -> None:
    plan = make_plan(model.counter)
    first, second = cut_batches(plan, make_frames(8))
    session = model.begin(plan)
    with pytest.raises(InvariantError, match="chunk 1"):
        session.feed(second)
    session.feed(first)
    with pytest.raises(InvariantError, match="chunk 0"):
        session.feed(first)
    with pytest.raises(InvariantError, match="1 of 2"):
        session.finish()
    session.feed(second)
    with pytest.raises(InvariantError, match="2"):
        session.feed(second)
    session.finish()


def test_frames_must_be_the_plans(model: LoadedModel) -> None:
    plan = make_plan(model.counter)
    pts = plan.chunks[0].frame_pts
    session = model.begin(plan)
    with pytest.raises(InvariantError, match="fit"):
        session.feed(FrameBatch(0, pts, np.zeros((4, 64, 64, 3), np.uint8), 0))
    with pytest.raises(InvariantError, match="fit"):
        session.feed(FrameBatch(0, pts[:2], make_frames(2), 0))
    with pytest.raises(InvariantError, match="pts"):
        session.feed(FrameBatch(0, tuple(t + 1 for t in pts), make_frames(4), 0))


def test_a_plan_of_another_checkpoint_is_refused(model: LoadedModel) -> None:
    plan = make_plan(model.counter)
    grid = FrameGrid(2, 3, 28)
    wrong = replace(plan, sampling=replace(plan.sampling, grid=grid))
    with pytest.raises(InvariantError, match="28"):
        model.begin(wrong)


def test_a_session_that_does_not_fit_is_refused(model: LoadedModel) -> None:
    free = psutil.virtual_memory().available
    plan = replace(make_plan(model.counter), memory=MemoryNeed(0, 2 * free, 1024))
    with pytest.raises(ResourceError, match=r"GiB.*tokens would fit") as caught:
        model.begin(plan)
    assert caught.value.exit_code == 5


def test_a_cache_that_the_system_refuses(model: LoadedModel) -> None:
    with pytest.raises(ResourceError, match="KV cache"):
        model.new_cache(1 << 50)


def test_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "free_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match="GiB"):
        load_model(str(make_tiny().folder))


def test_bfloat16_answers_in_form() -> None:
    narrow = load_model(str(make_tiny(Shape(tied=False)).folder), dtype="bfloat16")
    for reply in answer(narrow, QUESTIONS):
        assert reply.text.startswith('{"')


def test_loading_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    load_model(str(make_tiny().folder))
    assert capfd.readouterr() == ("", "")


def test_threads() -> None:
    before = torch.get_num_threads()
    load_model(str(make_tiny().folder), threads=1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_devices_are_named() -> None:
    assert any("cpu" in name for name in list_devices())
