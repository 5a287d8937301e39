"""Where `pipeline` and `model` meet: neither imports the other, both know these.

A session goes through two types: `FillingSession` takes frames, `FilledSession` answers.
A half-filled session has no `ask`, so it cannot be sampled by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from schemas.media import FrameBatch
from schemas.plan import MemoryNeed, VideoPlan

Finish = Literal["complete", "truncated"]
Form = Literal["events", "text", "choice"]
KV_BLOCK_TOKENS = 64
"""Every KV cache is reserved in whole blocks of so many tokens."""
MAX_TOGETHER = 64
"""Questions on one video that are answered at once; each has a cache of its own meanwhile."""


@dataclass(frozen=True, slots=True)
class EventField:
    """One extra column of an event: a choice among `options`, or free text where there are none."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """One question as the model gets it: the text and the form its answer must have."""

    query_id: str
    text: str
    form: Form
    fields: tuple[EventField, ...] = ()
    max_tokens: int = 512
    """Longest answer; a longer one ends as `truncated`. A choice is scored, not decoded."""
    options: tuple[str, ...] = ()
    """What a choice is made among: two or more, all different."""
    think_tokens: int = 0
    """Longest thought before the answer, of checkpoints that think; a longer one is ended there."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said, as text, with how it ended."""

    query_id: str
    text: str
    finish: Finish
    num_tokens: int
    """Tokens of the answer, forced literals included; a thought before it is not."""
    mean_logprob: float
    """Mean natural-log probability of the tokens that the model was free to choose; 0 if none. Of a
    choice: the natural log of the option's probability, where those of all options sum to 1."""
    num_think_tokens: int = 0
    """Tokens of the thought before the answer."""


@dataclass(frozen=True, slots=True)
class SamplingAdvice:
    """What a checkpoint asks for where the job is silent; None: the project's default."""

    fps: Fraction | None = None
    pair_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a plan needs to know of a checkpoint; read from its config without loading weights."""

    name: str
    digest: str
    """SHA-256 over config, tokenizer, weight files and YaRN: the model by what it computes."""
    token_px: int
    """Pixels covered by one merged token per side: patch size × merge size."""
    context_tokens: int
    """Longest sequence: what the checkpoint is made for, or the job's own where YaRN is on."""
    weight_bytes: int
    kv_bytes_per_token: int
    """K and V of one token in all layers, shares of a block rounded up to a byte."""
    chunk_bytes_per_token: int
    """Peak bytes per token of one prefill chunk: activations, vision features, pixels."""
    fixed_bytes: int
    """Bytes that depend on neither tokens nor chunk: logits, rope tables, workspace."""
    advice: SamplingAdvice = SamplingAdvice()
    kv_tail_bytes: int = 0
    """Bytes of a session's cache that no token count changes: the block not yet narrowed."""
    fork_bytes_per_token: int = 0
    """K and V of one token of a question's own cache, which is never narrowed to int8; 0: as the
    session's."""
    int8_kv_bytes_per_token: int = 0
    """`kv_bytes_per_token` of an int8 cache, to offer it; 0 where it is not offered."""
    int8_kv_tail_bytes: int = 0
    yarn_factor: float | None = None
    """How far YaRN stretches the positions; None where it is off."""

    def memory(
        self, session_tokens: int, chunk_tokens: int, question_tokens: Sequence[int] = ()
    ) -> MemoryNeed:
        """Predicted bytes of a session, prefilled `chunk_tokens` at a time, with a fork for each
        question."""
        tokens = _whole_blocks(session_tokens)
        together = sorted(question_tokens, reverse=True)[:MAX_TOGETHER]
        forks = sum(_whole_blocks(count) for count in together)
        per_fork_token = self.fork_bytes_per_token or self.kv_bytes_per_token
        return MemoryNeed(
            self.weight_bytes,
            self.kv_bytes_per_token * tokens + self.kv_tail_bytes + per_fork_token * forks,
            self.chunk_bytes_per_token * chunk_tokens + self.fixed_bytes,
        )

    def session_tokens(
        self, available_bytes: int, chunk_tokens: int, question_tokens: Sequence[int] = ()
    ) -> int:
        """Tokens of the longest session that `available_bytes` hold: the inverse of `memory`."""
        room = available_bytes - self.memory(0, chunk_tokens, question_tokens).total_bytes
        blocks = room // (self.kv_bytes_per_token * KV_BLOCK_TOKENS)
        return max(0, blocks) * KV_BLOCK_TOKENS

    def as_int8(self) -> ModelFacts | None:
        """The same checkpoint with an int8 cache; None where that would save nothing."""
        if not 0 < self.int8_kv_bytes_per_token < self.kv_bytes_per_token:
            return None
        return replace(
            self,
            kv_bytes_per_token=self.int8_kv_bytes_per_token,
            kv_tail_bytes=self.int8_kv_tail_bytes,
            fork_bytes_per_token=self.fork_bytes_per_token or self.kv_bytes_per_token,
        )


def _whole_blocks(tokens: int) -> int:
    return -(-tokens // KV_BLOCK_TOKENS) * KV_BLOCK_TOKENS


class PromptCounter(Protocol):
    """Exact token counts of every piece of the prompt, as the pieces will be fed."""

    def prefix_tokens(self) -> int:
        """Everything before the first patch pair."""
        ...

    def pair_tokens(self, text: str, visual_tokens: int) -> int:
        """One patch pair: its timestamp `text`, the delimiters and its visual tokens."""
        ...

    def question_tokens(self, question: Question) -> int:
        """The question with the turn around it, the longest thought and answer it may get, and all
        its options."""
        ...


class FilledSession(Protocol):
    """A whole video in the KV cache, ready for questions."""

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer each question on its own fork of the session, in order."""
        ...


class FillingSession(Protocol):
    """A session that still takes chunks."""

    @property
    def num_chunks(self) -> int:
        """Chunks that are in."""
        ...

    @property
    def num_corrupt(self) -> int:
        """Frames of them that could not be decoded."""
        ...

    def feed(self, frames: FrameBatch) -> None:
        """Encode and prefill the next chunk. Raises InvariantError when out of order."""
        ...

    def rewind(self, num_chunks: int) -> None:
        """Forget all but the first chunks, so that another ending can be fed. Exact but for an int8
        cache, which rounds the block at the cut once more."""
        ...

    def replan(self, plan: VideoPlan) -> None:
        """Go on under another plan that begins with the chunks that are in and is no longer than
        the first. Raises InvariantError where it is not such a plan."""
        ...

    def save(self, path: Path, video_id: str) -> None:
        """Write what is filled to a file, whole or not at all. Raises OSError."""
        ...

    def finish(self) -> FilledSession:
        """All chunks of the plan are in. Raises InvariantError when some are missing."""
        ...


class VideoModel(Protocol):
    """A loaded checkpoint."""

    @property
    def facts(self) -> ModelFacts: ...

    @property
    def counter(self) -> PromptCounter: ...

    def pair_seconds(self) -> float:
        """Seconds that one token costs per token before it, in a long context; measured anew."""
        ...

    def begin(self, plan: VideoPlan) -> FillingSession:
        """Reserve the KV cache for `plan`. Raises ResourceError when memory is short."""
        ...

    def resume(self, plan: VideoPlan, path: Path, video_id: str) -> FillingSession:
        """Take up a saved session. Raises ConfigError where the file is of something else."""
        ...
