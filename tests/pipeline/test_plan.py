"""The plan's integers: exact counts, chunks that cover once, refusals that say what would fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import group_chunks, plan_job_video, plan_video, resolve_limits
from pipeline.sampling import sample
from schemas.errors import ConfigError, ResourceError
from schemas.job import JobSpec, read_job
from schemas.plan import PatchPair, VideoPlan
from schemas.ports import ModelFacts, Question
from tests.pipeline.test_sampling import limits, make_index, steady


class Counter:
    """Ten tokens before the video, eight around each pair, twenty per question."""

    def prefix_tokens(self) -> int:
        return 10

    def pair_tokens(self, text: str, visual_tokens: int) -> int:
        return len(text.split(".")[0]) + 2 + visual_tokens

    def question_tokens(self, question: Question) -> int:
        return 20 + question.max_tokens


FACTS = ModelFacts("m", "d" * 64, 32, 4096, 1000, 10, 5, 100)
QUESTIONS = [
    Question("a", "?", "events", max_tokens=30),
    Question("b", "?", "events", max_tokens=50),
]


def plan_of(
    seconds: int, *, context: int = 4096, chunk: int = 100, free: int | None = None
) -> VideoPlan:
    sampling = sample(make_index(steady(seconds), seconds * 1000), limits(pair_tokens=12))
    return plan_video(
        sampling,
        FACTS,
        Counter(),
        QUESTIONS,
        context=context,
        prefill_chunk=chunk,
        available_bytes=free,
    )


def test_tokens_are_counted_exactly() -> None:
    plan = plan_of(20)
    texts = [pair.text for chunk in plan.chunks for pair in chunk.pairs]
    assert texts[:2] == ["<0.5 seconds>", "<2.5 seconds>"]
    assert plan.num_pairs == 10
    tokens = plan.sampling.grid.tokens
    assert plan.video_tokens == sum(len(t.split(".")[0]) + 2 + tokens for t in texts)
    assert plan.question_tokens == 50 + 70
    assert plan.total_tokens == 10 + plan.video_tokens + 120


def test_an_odd_tail_repeats_its_frame() -> None:
    last = plan_of(5).chunks[-1].pairs[-1]
    assert last.first_pts == last.last_pts == 4000
    assert last.text == "<4.0 seconds>"


def test_memory_is_the_facts_arithmetic() -> None:
    plan = plan_of(60)
    longest = max(chunk.num_tokens for chunk in plan.chunks)
    assert plan.memory.weight_bytes == 1000
    assert plan.memory.kv_bytes == 10 * plan.total_tokens
    assert plan.memory.chunk_bytes == 5 * longest + 100


@given(st.lists(st.integers(1, 50), min_size=1, max_size=80), st.integers(1, 120))
def test_chunks_cover_the_pairs_once_in_order_within_budget(sizes: list[int], budget: int) -> None:
    pairs = [PatchPair(2 * i, 2 * i + 1, "", size) for i, size in enumerate(sizes)]
    chunks = group_chunks(pairs, budget)
    assert [pair for chunk in chunks for pair in chunk.pairs] == pairs
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.num_tokens <= budget or len(chunk.pairs) == 1
    for chunk, following in pairwise(chunks):
        assert chunk.num_tokens + following.pairs[0].num_tokens > budget


def test_a_plan_beyond_the_context_says_what_would_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(60, context=300)
    assert "the context holds 300" in caught.value.message
    budget = int(caught.value.message.split("sampling.video_tokens to ")[1].split()[0])
    assert budget == 300 - 10 - 70
    needed = int(caught.value.message.split("model.context to ")[1].rstrip("."))
    assert plan_of(60, context=needed).num_pairs == 30


def test_a_plan_beyond_the_memory_says_what_would_fit() -> None:
    with pytest.raises(ResourceError) as caught:
        plan_of(60, free=4000)
    assert "tokens would fit" in caught.value.message
    assert caught.value.exit_code == 5


def make_job(**changes: object) -> JobSpec:
    base = {"videos": ["a.mp4"], "queries": [{"id": "a", "find": "x"}], **changes}
    return read_job(base, where="t")


def test_the_sampling_takes_what_the_context_leaves() -> None:
    job = make_job(model={"context": 400})
    index = make_index(steady(300), 300_000)
    plan = plan_job_video(index, job, FACTS, Counter(), QUESTIONS)
    assert plan.total_tokens - plan.question_tokens + 70 <= 400
    assert "video_tokens" in plan.sampling.bound_by


def test_a_context_below_the_question_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cannot hold the longest question .* above 80"):
        resolve_limits(make_job(model={"context": 60}), FACTS, Counter(), QUESTIONS)


def test_a_context_beyond_the_checkpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match="more than m is made for"):
        resolve_limits(make_job(model={"context": "8k"}), FACTS, Counter(), QUESTIONS)


def test_the_job_comes_before_the_checkpoints_advice_before_the_default() -> None:
    advice = replace(FACTS.advice, fps=limits("4").fps, pair_tokens=9)
    facts = replace(FACTS, advice=advice)
    asked = make_job(sampling={"fps": 0.5})
    assert resolve_limits(asked, facts, Counter(), QUESTIONS).fps * 2 == 1
    assert resolve_limits(asked, facts, Counter(), QUESTIONS).pair_tokens == 9
    assert resolve_limits(make_job(), facts, Counter(), QUESTIONS).fps == 4
    assert resolve_limits(make_job(), FACTS, Counter(), QUESTIONS).fps == 2
