"""What to say when a plan does not fit the memory: the settings that would.

Promises figures that hold: a plan made again under the offered setting fits the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from schemas.ports import ModelFacts

_GIB = 1024**3


def explain_lack(
    facts: ModelFacts,
    video_tokens: int,
    chunk_tokens: int,
    question_tokens: Sequence[int],
    available_bytes: int,
    waiting_bytes: int = 0,
) -> str:
    """The error's text: what is needed, what is free, and what would fit.

    `video_tokens` has the prefix in it, `chunk_tokens` is the largest chunk that a plan of the same
    settings may have, `question_tokens` is each question with its answer, and `waiting_bytes` is
    the most that decoded chunks may take.
    """
    need = replace(
        facts.memory(video_tokens, chunk_tokens, question_tokens), waiting_bytes=waiting_bytes
    )
    said = (
        f"{video_tokens + sum(question_tokens)} tokens of {facts.name} need "
        f"{need.total_bytes / _GIB:.1f} GiB (weights {need.weight_bytes / _GIB:.1f}, KV cache "
        f"{need.kv_bytes / _GIB:.1f}, chunk {need.chunk_bytes / _GIB:.1f}, "
        f"frames ahead {need.waiting_bytes / _GIB:.1f}) and "
        f"{available_bytes / _GIB:.1f} GiB are free; "
    )
    offers = []
    room = available_bytes - waiting_bytes
    if context := fitting_context(facts, chunk_tokens, question_tokens, room):
        offers.append(f"{context} tokens would fit: set model.context to that, or lower the fps")
    narrow = facts.as_int8()
    if narrow and (context := fitting_context(narrow, chunk_tokens, question_tokens, room)):
        enough = context >= video_tokens + max(question_tokens, default=0)
        offers.append(
            f"with model.kv_cache int8 {'all of it' if enough else f'a context of {context}'} fits"
        )
    if not offers:
        return said + "choose a smaller checkpoint or a smaller model.prefill_chunk."
    return said + "; ".join(offers) + "."


def fitting_context(
    facts: ModelFacts, chunk_tokens: int, question_tokens: Sequence[int], available_bytes: int
) -> int:
    """The longest context, in tokens, whose session fits; 0 where not even one chunk does."""
    session = facts.session_tokens(available_bytes, chunk_tokens, question_tokens)
    # A context holds the video and one question at a time.
    return session + max(question_tokens, default=0) if session > chunk_tokens else 0
