"""Where `pipeline` and `model` meet: neither imports the other, both know these.

A session goes through two types: `FillingSession` takes frames, `FilledSession` answers.
A half-filled session has no `ask`, so it cannot be sampled by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

from schemas.media import FrameBatch
from schemas.plan import MemoryNeed, VideoPlan

Finish = Literal["complete", "truncated"]
Form = Literal["events", "text", "choice"]


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
    """SHA-256 over config, tokenizer and weight files: the model's name by content."""
    token_px: int
    """Pixels covered by one merged token per side: patch size × merge size."""
    context_tokens: int
    """Longest sequence that the checkpoint is made for."""
    weight_bytes: int
    kv_bytes_per_token: int
    chunk_bytes_per_token: int
    """Peak bytes per token of one prefill chunk: activations, vision features, pixels."""
    fixed_bytes: int
    """Bytes that depend on neither tokens nor chunk: logits, rope tables, workspace."""
    advice: SamplingAdvice = SamplingAdvice()

    def memory(self, total_tokens: int, chunk_tokens: int) -> MemoryNeed:
        """Predicted bytes of a session of `total_tokens`, prefilled `chunk_tokens` at a time."""
        chunk_bytes = self.chunk_bytes_per_token * chunk_tokens + self.fixed_bytes
        return MemoryNeed(self.weight_bytes, self.kv_bytes_per_token * total_tokens, chunk_bytes)


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

    def feed(self, frames: FrameBatch) -> None:
        """Encode and prefill the next chunk. Raises InvariantError when out of order."""
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

    def begin(self, plan: VideoPlan) -> FillingSession:
        """Reserve the KV cache for `plan`. Raises ResourceError when memory is short."""
        ...
