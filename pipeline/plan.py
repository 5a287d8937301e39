"""Step 3: SamplingPlan + ModelFacts → VideoPlan.

Promises exact token counts and the bytes they will need, and refuses what cannot fit with the
change that would. Integers only; costs the tokenizer one pass over the timestamps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from pipeline.fit import explain_lack
from pipeline.sampling import SamplingLimits
from schemas.errors import ConfigError, ResourceError
from schemas.job import JobSpec
from schemas.plan import Chunk, PatchPair, SamplingPlan, VideoPlan
from schemas.ports import ModelFacts, PromptCounter, Question
from schemas.time import timestamp_text

DEFAULT_FPS = Fraction(2)
DEFAULT_PAIR_TOKENS = 768
"""Visual tokens per patch pair where neither the job nor the checkpoint says otherwise."""
LONGEST_TIME_S = 99_999.9
"""What each pair leaves room for before its pictures."""


def resolve_limits(
    job: JobSpec, facts: ModelFacts, counter: PromptCounter, questions: Sequence[Question]
) -> SamplingLimits:
    """Fill what the job leaves open: first the checkpoint's advice, then the project's default.

    Raises ConfigError where the context cannot hold the questions.
    """
    asked = job.sampling
    context = context_tokens(job, facts)
    text_tokens = counter.prefix_tokens() + longest_question(counter, questions)
    room = context - text_tokens
    if room <= 0:
        raise ConfigError(
            f"a context of {context} tokens cannot hold the longest question with its answer "
            f"({text_tokens} tokens) and a video; raise model.context above {text_tokens}, or "
            "lower max_answer_tokens."
        )
    return SamplingLimits(
        fps=Fraction(str(asked.fps)) if asked.fps else facts.advice.fps or DEFAULT_FPS,
        max_frames=asked.max_frames,
        video_tokens=asked.video_tokens or room,
        pair_tokens=asked.pair_tokens or facts.advice.pair_tokens or DEFAULT_PAIR_TOKENS,
        overhead_tokens=counter.pair_tokens(timestamp_text(LONGEST_TIME_S), 0),
        token_px=facts.token_px,
    )


def context_tokens(job: JobSpec, facts: ModelFacts) -> int:
    """The job's context, at most what the checkpoint is made for."""
    asked = job.model.context
    if asked is None:
        return facts.context_tokens
    if asked > facts.context_tokens:
        raise ConfigError(
            f"model.context {asked} is more than {facts.name} is made for "
            f"({facts.context_tokens}); lower it."
        )
    return asked


def longest_question(counter: PromptCounter, questions: Sequence[Question]) -> int:
    """Tokens of the longest question with its answer: each has its own fork of the session."""
    return max((counter.question_tokens(question) for question in questions), default=0)


def plan_video(
    sampling: SamplingPlan,
    facts: ModelFacts,
    counter: PromptCounter,
    questions: Sequence[Question],
    *,
    context: int,
    prefill_chunk: int,
    waiting_chunks: int = 0,
    available_bytes: int | None = None,
) -> VideoPlan:
    """Count everything. Raises ConfigError (context too small) or ResourceError (memory).

    `waiting_chunks` may be decoded and wait for the model.
    """
    pairs = _pairs(sampling, counter)
    chunks = group_chunks(pairs, prefill_chunk)
    asked = [counter.question_tokens(question) for question in questions]
    longest = max(chunk.num_tokens for chunk in chunks)
    video_tokens = sum(pair.num_tokens for pair in pairs)
    session = counter.prefix_tokens() + video_tokens
    in_one_fork = session + max(asked, default=0)
    if in_one_fork > context:
        raise ConfigError(
            f"the plan needs {in_one_fork} tokens ({len(pairs)} patch pairs of up to "
            f"{max(pair.num_tokens for pair in pairs)}) and the context holds {context}; set "
            f"sampling.video_tokens to {context - in_one_fork + video_tokens} or less, or "
            f"model.context to {in_one_fork}."
        )
    frame_bytes = max(len(c.pairs) for c in chunks) * 6 * sampling.grid.height * sampling.grid.width
    waiting = min(waiting_chunks, len(chunks) - 1)
    memory = replace(facts.memory(session, longest, asked), waiting_bytes=waiting * frame_bytes)
    if available_bytes is not None and memory.total_bytes > available_bytes:
        # A shorter plan may cut its chunks otherwise, up to the setting.
        chunk = longest if len(chunks) == 1 else max(longest, prefill_chunk)
        frames = waiting * chunk * 6 * facts.token_px**2
        raise ResourceError(explain_lack(facts, session, chunk, asked, available_bytes, frames))
    return VideoPlan(sampling, chunks, counter.prefix_tokens(), sum(asked), memory, frame_bytes)


def _pairs(sampling: SamplingPlan, counter: PromptCounter) -> tuple[PatchPair, ...]:
    pts = sampling.frame_pts
    even = pts if len(pts) % 2 == 0 else (*pts, pts[-1])
    pairs = []
    for first, last in zip(even[::2], even[1::2], strict=True):
        text = PatchPair.text_of(first, last, sampling.span.time_base)
        tokens = counter.pair_tokens(text, sampling.grid.tokens)
        pairs.append(PatchPair(first, last, text, tokens))
    return tuple(pairs)


def group_chunks(pairs: Sequence[PatchPair], chunk_tokens: int) -> tuple[Chunk, ...]:
    """Whole pairs, in order, at most `chunk_tokens` each; a larger pair is a chunk of its own."""
    groups: list[list[PatchPair]] = []
    filled = 0
    for pair in pairs:
        if not groups or filled + pair.num_tokens > chunk_tokens:
            groups.append([])
            filled = 0
        groups[-1].append(pair)
        filled += pair.num_tokens
    return tuple(Chunk(i, tuple(group)) for i, group in enumerate(groups))
