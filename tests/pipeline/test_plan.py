"""The plan's integers: exact counts, chunks that cover once, refusals that say what would fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.plan import group_chunks, plan_video, resolve_limits
from pipeline.sampling import sample
from pipeline.windows import plan_windows
from schemas.errors import ConfigError, ResourceError
from schemas.job import JobSpec, read_job
from schemas.plan import PatchPair, VideoPlan
from schemas.ports import ModelFacts, Question
from tests.counter import Counter
from tests.pipeline.test_sampling import limits, make_index, steady

FACTS = ModelFacts("m", "d" * 64, 32, 4096, 1000, 10, 5, 100)
NARROW = replace(FACTS, int8_kv_bytes_per_token=3, int8_kv_tail_bytes=77)
QUESTIONS = [
    Question("a", "?", "events", max_tokens=30),
    Question("b", "?", "events", max_tokens=50),
]


def plan_of(
    seconds: int,
    *,
    context: int = 4096,
    chunk: int = 100,
    free: int | None = None,
    facts: ModelFacts = FACTS,
) -> VideoPlan:
    sampling = sample(make_index(steady(seconds), seconds * 1000), limits(pair_tokens=12))
    return plan_video(
        sampling,
        facts,
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
    # The video's cache and one per question, each in whole blocks of 64 tokens.
    session = plan.prefix_tokens + plan.video_tokens
    assert session % 64
    assert plan.memory.kv_bytes == 10 * 64 * (session // 64 + 1 + 1 + 2)
    assert plan.memory.chunk_bytes == 5 * longest + 100
    assert plan.memory.waiting_bytes == 0


@pytest.mark.parametrize(("seconds", "waiting"), [(60, 3), (2, 0)])
def test_frames_that_wait_are_planned(seconds: int, waiting: int) -> None:
    sampling = sample(make_index(steady(seconds), seconds * 1000), limits(pair_tokens=12))
    plan = plan_video(
        sampling, FACTS, Counter(), QUESTIONS, context=4096, prefill_chunk=50, waiting_chunks=3
    )
    assert min(3, len(plan.chunks) - 1) == waiting
    assert plan.memory.waiting_bytes == waiting * plan.frame_bytes
    alone = plan_of(seconds, chunk=50).memory
    assert plan.memory.total_bytes == alone.total_bytes + plan.memory.waiting_bytes


def test_frames_that_wait_count_where_memory_is_short() -> None:
    job = make_job(model={"prefill_chunk": 100}, cluster={"lookahead_chunks": 2})
    index = make_index(steady(300), 300_000)
    (window,) = plan_windows(index, job, FACTS, Counter())
    plan = window.plan
    assert plan.memory.waiting_bytes == 3 * plan.frame_bytes
    short = plan.memory.total_bytes - 1
    with pytest.raises(ResourceError, match="frames ahead"):
        plan_windows(index, job, FACTS, Counter(), short)


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


def test_a_session_has_a_tail_and_forks_keep_their_numbers() -> None:
    tailed = replace(FACTS, kv_tail_bytes=7)
    assert plan_of(60, facts=tailed).memory.kv_bytes == plan_of(60).memory.kv_bytes + 7
    wide = FACTS.memory(640, 1, [64, 65]).kv_bytes
    forks = replace(FACTS, fork_bytes_per_token=2 * FACTS.kv_bytes_per_token)
    assert forks.memory(640, 1, [64, 65]).kv_bytes - wide == 192 * FACTS.kv_bytes_per_token


def test_no_more_forks_than_are_answered_at_once() -> None:
    one, all_ = FACTS.memory(640, 1, [64] * 64), FACTS.memory(640, 1, [64] * 200)
    assert one.kv_bytes == all_.kv_bytes


@given(
    st.integers(0, 40_000),
    st.integers(0, 300),
    st.lists(st.integers(1, 200), max_size=3),
    st.integers(0, 90),
)
def test_the_longest_session_fits_and_no_longer_one(
    free: int, chunk: int, questions: list[int], tail: int
) -> None:
    facts = replace(FACTS, kv_tail_bytes=tail)
    most = facts.session_tokens(free, chunk, questions)
    assert facts.memory(most + 1, chunk, questions).total_bytes > free
    if most:
        assert facts.memory(most, chunk, questions).total_bytes <= free


def plan_in(free: int | None, context: int, facts: ModelFacts) -> VideoPlan:
    """Five minutes of video in as much of the context as they take."""
    job = make_job(model={"context": context, "prefill_chunk": 100})
    index = make_index(steady(300), 300_000)
    return plan_video(
        sample(index, resolve_limits(job, facts, Counter(), QUESTIONS)),
        facts,
        Counter(),
        QUESTIONS,
        context=context,
        prefill_chunk=100,
        available_bytes=free,
    )


def refusal(free: int, facts: ModelFacts = FACTS) -> str:
    with pytest.raises(ResourceError) as caught:
        plan_in(free, 4096, facts)
    assert caught.value.exit_code == 5
    return caught.value.message


@pytest.mark.parametrize("free", [6000, 9000, 20_000])
def test_a_plan_beyond_the_memory_says_what_would_fit(free: int) -> None:
    message = refusal(free)
    assert "int8" not in message
    context = int(message.split(" tokens would fit")[0].split()[-1])
    assert plan_in(free, context, FACTS).memory.total_bytes <= free
    # The figure is the longest: what a context one block longer may take is too much.
    questions = [50, 70]
    longer = FACTS.memory(context - 70 + 64, 100, questions)
    assert longer.total_bytes > free


def test_int8_is_offered_where_it_holds_all_of_it() -> None:
    message = refusal(20_000, NARROW)
    assert "model.kv_cache int8 all of it fits" in message
    narrow = NARROW.as_int8()
    assert narrow is not None
    assert plan_in(20_000, 4096, narrow).memory.total_bytes <= 20_000


def test_int8_is_offered_with_its_own_context() -> None:
    message = refusal(9000, NARROW)
    wide = int(message.split(" tokens would fit")[0].split()[-1])
    context = int(message.split("int8 a context of ")[1].split()[0])
    assert context > wide
    narrow = NARROW.as_int8()
    assert narrow is not None
    assert plan_in(9000, context, narrow).memory.total_bytes <= 9000


def test_no_context_is_offered_where_the_chunk_alone_is_too_much() -> None:
    message = refusal(1800)
    assert "would fit" not in message
    assert "smaller model.prefill_chunk" in message


def make_job(**changes: object) -> JobSpec:
    base = {"videos": ["a.mp4"], "queries": [{"id": "a", "find": "x"}], **changes}
    return read_job(base, where="t")


def test_the_sampling_takes_what_the_context_leaves() -> None:
    short = {"id": "a", "find": "x", "max_answer_tokens": 50}
    job = make_job(model={"context": 400}, queries=[short])
    index = make_index(steady(300), 300_000)
    (window,) = plan_windows(index, job, FACTS, Counter())
    plan = window.plan
    assert plan.total_tokens <= 400
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
