"""The loaded model behind the ports: begin a session, feed it chunks, finish it, ask.

A filling and a filled session are two types, so a half-filled one cannot be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.devices import compute_devices, free_on
from model.facts import Checkpoint, load_checkpoint
from model.generate import GrammarTable, generate_answer
from model.kv_cache import KvCache
from model.memory import RUNTIME_BYTES
from model.positions import Cursor
from model.prefill import run_tokens
from model.prompt import PromptLayout
from model.timeline import TimedTokens, text_tokens, video_tokens
from model.vision import VisionEncoder
from model.weights import DTYPES, Weights, load_weights
from schemas.errors import InvariantError, ResourceError
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts, Question, Reply


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    context: int | None = None,
    yarn: float | None = None,
    prefill_chunk: int = 8192,
    threads: int | None = None,
    outer_wrapper: bool = False,
) -> LoadedModel:
    """Load a checkpoint. Raises ConfigError, or ResourceError where it does not fit.

    `threads` is torch's own choice when None; `outer_wrapper` is a matter of the prompt's layout.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(
        name,
        dtype=dtype,
        kv_dtype=kv_dtype,
        outer_wrapper=outer_wrapper,
        context=context,
        yarn=yarn,
    )
    facts, free = checkpoint.facts, free_bytes()
    if (need := facts.weight_bytes + facts.fixed_bytes - RUNTIME_BYTES) > free:
        raise ResourceError(
            f"the weights of {name} need {_gib(need)} and {_gib(free)} are free; choose a smaller "
            "checkpoint, model.dtype bfloat16, or a larger machine.",
            reason="out_of_memory",
        )
    weights = load_weights(checkpoint.folder, checkpoint.spec, checkpoint.dtype, checkpoint.yarn)
    return LoadedModel(checkpoint, weights, prefill_chunk)


def list_devices() -> list[str]:
    """Devices that torch can use here, by name."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*names, f"cpu ({torch.get_num_threads()} threads)"]


def free_bytes() -> int:
    """Memory that this process may still plan with, in bytes, on all devices together."""
    return sum(free_on(compute_devices()))


def _gib(count: int) -> str:
    return f"{count / 1024**3:.2f} GiB"


class LoadedModel:
    """A checkpoint in memory; holds no state of any session."""

    def __init__(self, checkpoint: Checkpoint, weights: Weights, prefill_chunk: int) -> None:
        self.checkpoint = checkpoint
        self.weights = weights
        self.prefill_chunk = prefill_chunk
        self.vision = VisionEncoder(weights.vision, checkpoint.spec.vision)
        vocab = weights.text.embed_tokens.weight.shape[0]
        self.grammars = GrammarTable(
            checkpoint.counter.tokenizer, vocab, min(checkpoint.counter.end_ids)
        )

    @property
    def facts(self) -> ModelFacts:
        return self.checkpoint.facts

    @property
    def counter(self) -> PromptLayout:
        return self.checkpoint.counter

    def begin(self, plan: VideoPlan) -> Filling:
        """Reserve the KV cache for `plan`. Raises ResourceError when memory is short."""
        if plan.sampling.grid.token_px != self.facts.token_px:
            raise InvariantError(
                f"the plan's tokens cover {plan.sampling.grid.token_px} pixels a side; those of "
                f"{self.facts.name} cover {self.facts.token_px}."
            )
        # The libraries are loaded by now.
        kv, chunk = plan.memory.kv_bytes, max(0, plan.memory.chunk_bytes - RUNTIME_BYTES)
        free = free_bytes()
        if kv + chunk > free:
            fits = max(0, free - chunk) // self.facts.kv_bytes_per_token
            raise ResourceError(
                f"{plan.total_tokens} tokens need {_gib(kv)} for the KV cache and {_gib(chunk)} "
                f"for a chunk, and {_gib(free)} are free; {fits} tokens would fit: lower "
                "model.context, model.prefill_chunk or sampling.fps.",
                reason="out_of_memory",
            )
        return Filling(self, plan)

    def new_cache(self, capacity: int) -> KvCache:
        """An empty cache of this checkpoint's geometry."""
        dtype = DTYPES[self.checkpoint.kv_dtype]
        try:
            return KvCache(self.checkpoint.spec.text, capacity, dtype, self.weights.device)
        except RuntimeError as error:  # what torch raises where the system refuses memory
            raise ResourceError(
                f"a KV cache of {capacity} tokens could not be reserved ({error}); lower "
                "model.context or sampling.fps.",
                reason="out_of_memory",
            ) from None

    def prefill(self, tokens: TimedTokens, cache: KvCache) -> None:
        """Append tokens that nobody reads, `prefill_chunk` at a time."""
        for start in range(0, len(tokens), self.prefill_chunk):
            stop = min(len(tokens), start + self.prefill_chunk)
            run_tokens(self.weights, tokens.slice(start, stop), cache, read=0)


class Filling:
    """A session that takes chunks in order."""

    def __init__(self, model: LoadedModel, plan: VideoPlan) -> None:
        self._model = model
        self._plan = plan
        self._next_chunk = 0
        self._cache = model.new_cache(plan.prefix_tokens + plan.video_tokens)
        prefix, self._cursor = text_tokens(model.counter.prefix_ids(), Cursor())
        model.prefill(prefix, self._cache)

    def feed(self, frames: FrameBatch) -> None:
        """Encode and prefill the next chunk; its features are dropped at once."""
        if frames.chunk_index != self._next_chunk or self._next_chunk == len(self._plan.chunks):
            raise InvariantError(
                f"chunk {frames.chunk_index} came where chunk {self._next_chunk} of "
                f"{len(self._plan.chunks)} was due."
            )
        chunk, grid = self._plan.chunks[self._next_chunk], self._plan.sampling.grid
        if frames.rgb.shape[:3] != (2 * len(chunk.pairs), grid.height, grid.width):
            raise InvariantError(f"frames of {frames.rgb.shape} do not fit the plan's chunk.")
        if frames.frame_pts != chunk.frame_pts:
            raise InvariantError(f"chunk {chunk.index} has other pts than the plan's.")
        features = self._model.vision.encode(frames.rgb)
        tokens, self._cursor = video_tokens(
            chunk.pairs, grid, features, self._model.counter, self._cursor
        )
        self._model.prefill(tokens, self._cache)
        self._next_chunk += 1

    def finish(self) -> Filled:
        """The whole video is in. Raises InvariantError where chunks are missing."""
        if self._next_chunk != len(self._plan.chunks):
            raise InvariantError(
                f"{self._next_chunk} of {len(self._plan.chunks)} chunks were fed; feed the rest."
            )
        return Filled(self._model, self._cache, self._cursor)


class Filled:
    """A whole video in the cache, ready for questions."""

    def __init__(self, model: LoadedModel, cache: KvCache, cursor: Cursor) -> None:
        self._model = model
        self._cache = cache
        self._cursor = cursor

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer each question on its own fork of the session, in order."""
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Reply:
        layout = self._model.counter
        prompt = layout.question_ids(question)
        fork = Fork(self._model, self._cache, self._cursor, len(prompt) + question.max_tokens)
        matcher = self._model.grammars.matcher(question)
        made = generate_answer(fork.forward, prompt, matcher, question.max_tokens)
        ids = [token for token in made.ids if token not in layout.end_ids]
        text = layout.tokenizer.decode(ids)
        return Reply(question.query_id, text, made.finish, len(made.ids), made.mean_logprob)


class Fork:
    """One question's own suffix behind the shared video."""

    def __init__(self, model: LoadedModel, prefix: KvCache, cursor: Cursor, capacity: int) -> None:
        self._model = model
        self._cache = prefix.fork(capacity)
        self._cursor = cursor

    def forward(self, ids: list[int]) -> Tensor:
        """Append tokens; returns the (vocabulary,) logits behind the last."""
        tokens, self._cursor = text_tokens(ids, self._cursor)
        hidden: Any = run_tokens(self._model.weights, tokens, self._cache, read=1)
        return self._model.weights.logits(hidden)[0]
