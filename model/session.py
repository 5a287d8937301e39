"""A session in its two types: `Filling` takes chunks, `Filled` answers.

A half-filled one has no `ask`, so it cannot be sampled. How far a session is follows from its plan
and the number of chunks that are in: tokens and positions are arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Protocol

from torch import Tensor

from model import snapshot
from model.generate import GrammarTable, generate_answers, reply_of
from model.kv_cache import CacheForm, KvCache
from model.lanes import Step
from model.positions import Cursor
from model.prefill import LaneTokens, run_lanes
from model.prompt import PromptLayout
from model.timeline import TimedTokens, text_tokens, video_tokens
from model.vision import VisionEncoder
from model.weights import Weights
from schemas.errors import InvariantError
from schemas.media import FrameBatch
from schemas.plan import VideoPlan
from schemas.ports import ModelFacts, Question, Reply


class Model(Protocol):
    """What a session needs of the loaded model."""

    weights: Weights
    vision: VisionEncoder
    grammars: GrammarTable
    slice_tokens: int

    @property
    def facts(self) -> ModelFacts: ...
    @property
    def counter(self) -> PromptLayout: ...
    def new_cache(self, capacity: int) -> KvCache: ...
    def prefill(self, tokens: TimedTokens, cache: KvCache) -> None: ...


def tokens_until(plan: VideoPlan, num_chunks: int) -> int:
    """Tokens of the prefix and the plan's first chunks."""
    return plan.prefix_tokens + sum(chunk.num_tokens for chunk in plan.chunks[:num_chunks])


def cursor_at(plan: VideoPlan, num_chunks: int) -> Cursor:
    """The position behind the prefix and the plan's first chunks."""
    grid = plan.sampling.grid
    # A pair's visual tokens take as many positions as the grid's longer side.
    saved = grid.tokens - max(grid.rows, grid.cols)
    pairs = sum(len(chunk.pairs) for chunk in plan.chunks[:num_chunks])
    return Cursor(tokens_until(plan, num_chunks) - pairs * saved)


def _facts(
    model: Model, plan: VideoPlan, num_chunks: int, video_id: str, form: CacheForm
) -> snapshot.Facts:
    return snapshot.describe(
        plan,
        num_chunks,
        model_digest=model.facts.digest,
        prefix_ids=model.counter.prefix_ids(),
        video_id=video_id,
        form=form,
    )


class Filling:
    """A session that takes chunks in order."""

    def __init__(self, model: Model, plan: VideoPlan, cache: KvCache, num_chunks: int) -> None:
        self._model = model
        self._plan = plan
        self._cache = cache
        self.num_chunks = num_chunks
        """Chunks that are in."""
        self._corrupt: list[int] = [0] * num_chunks

    @property
    def num_corrupt(self) -> int:
        """Frames of the chunks that are in which could not be decoded."""
        return sum(self._corrupt)

    @staticmethod
    def start(model: Model, plan: VideoPlan) -> Filling:
        """A session with the prompt's prefix in it."""
        cache = model.new_cache(plan.prefix_tokens + plan.video_tokens)
        prefix, _ = text_tokens(model.counter.prefix_ids(), Cursor())
        model.prefill(prefix, cache)
        return Filling(model, plan, cache, 0)

    @staticmethod
    def resume(model: Model, plan: VideoPlan, path: Path, video_id: str) -> Filling:
        """A saved session, as far as it was filled. Raises ConfigError where the file is none, or
        one of another model, video or plan."""
        found = snapshot.read_facts(path)
        num_chunks = min(int(found["num_chunks"]), len(plan.chunks))
        cache = model.new_cache(plan.prefix_tokens + plan.video_tokens)
        expected = _facts(model, plan, num_chunks, video_id, cache.form)
        snapshot.refuse_others(path, found, expected)
        snapshot.restore(path, cache, tokens_until(plan, num_chunks))
        session = Filling(model, plan, cache, num_chunks)
        session._corrupt = snapshot.corrupt_of(found)[:num_chunks]
        return session

    def feed(self, frames: FrameBatch) -> None:
        """Encode and prefill the next chunk; its features are dropped at once. A chunk that failed
        is not in and may be fed again."""
        if frames.chunk_index != self.num_chunks or self.num_chunks == len(self._plan.chunks):
            raise InvariantError(
                f"chunk {frames.chunk_index} came where chunk {self.num_chunks} of "
                f"{len(self._plan.chunks)} was due."
            )
        chunk, grid = self._plan.chunks[self.num_chunks], self._plan.sampling.grid
        if frames.rgb.shape[:3] != (2 * len(chunk.pairs), grid.height, grid.width):
            raise InvariantError(f"frames of {frames.rgb.shape} do not fit the plan's chunk.")
        if frames.frame_pts != chunk.frame_pts:
            raise InvariantError(f"chunk {chunk.index} has other pts than the plan's.")
        features = self._model.vision.encode(frames.rgb)
        cursor = cursor_at(self._plan, self.num_chunks)
        layout = self._model.counter
        tokens, _ = video_tokens(chunk.pairs, grid, features, layout, cursor)
        try:
            self._model.prefill(tokens, self._cache)
        except BaseException:
            # Some layers hold tokens that others lack.
            self.rewind(self.num_chunks)
            raise
        self._corrupt.append(frames.num_corrupt)
        self.num_chunks += 1

    def rewind(self, num_chunks: int) -> None:
        """Forget all but the first `num_chunks`: another ending can be fed."""
        if not 0 <= num_chunks <= self.num_chunks:
            raise InvariantError(f"{self.num_chunks} chunks are in; {num_chunks} cannot be kept.")
        self._cache.trim(tokens_until(self._plan, num_chunks))
        del self._corrupt[num_chunks:]
        self.num_chunks = num_chunks

    def replan(self, plan: VideoPlan) -> None:
        """Go on under another plan that begins with the chunks that are in: a shorter or longer
        part of the same frames. Raises InvariantError where it begins otherwise."""
        filled, size = self.num_chunks, self._plan.sampling.grid
        is_same = plan.chunks[:filled] == self._plan.chunks[:filled]
        if (
            not is_same
            or plan.sampling.grid != size
            or plan.prefix_tokens != self._plan.prefix_tokens
        ):
            raise InvariantError("a session can go on only under a plan that begins as its own.")
        if plan.prefix_tokens + plan.video_tokens > self._cache.capacity:
            raise InvariantError("the plan is longer than the cache that the session began with.")
        self._plan = plan

    def save(self, path: Path, video_id: str) -> None:
        """Write what is filled to one file, whole or not at all; `resume` of the model takes it up.

        `video_id` names the pixels behind the plan. Costs as many bytes as the cache holds.
        """
        facts = _facts(self._model, self._plan, self.num_chunks, video_id, self._cache.form)
        snapshot.save(path, self._cache, facts | snapshot.corrupt_facts(self._corrupt))

    def finish(self) -> Filled:
        """The whole video is in. Raises InvariantError where chunks are missing."""
        if self.num_chunks != len(self._plan.chunks):
            raise InvariantError(
                f"{self.num_chunks} of {len(self._plan.chunks)} chunks were fed; feed the rest."
            )
        return Filled(self._model, self._cache, cursor_at(self._plan, self.num_chunks))


class Filled:
    """A whole video in the cache, ready for questions."""

    def __init__(self, model: Model, cache: KvCache, cursor: Cursor) -> None:
        self._model = model
        self._cache = cache
        self._cursor = cursor

    def ask(self, questions: Sequence[Question]) -> list[Reply]:
        """Answer each question on its own fork of the session, in order."""
        layout, grammars = self._model.counter, self._model.grammars
        made = generate_answers(self.lanes(), questions, layout, grammars)
        return [reply_of(q, answer, layout) for q, answer in zip(questions, made, strict=True)]

    def lanes(self) -> SessionLanes:
        """Forks of this session, for who wants to see more than answers."""
        return SessionLanes(self._model, self._cache, self._cursor)


class SessionLanes:
    """Forks of a filled session, each with a cache and a cursor of its own, run as one batch."""

    def __init__(self, model: Model, prefix: KvCache, cursor: Cursor) -> None:
        self._model = model
        self._session = (prefix, cursor)
        self._lanes: dict[int, tuple[KvCache, Cursor]] = {}
        self._numbers = count()

    def fork(self, capacity: int, lane: int | None = None) -> int:
        """A new lane of up to `capacity` tokens behind the session or behind `lane`."""
        cache, cursor = self._session if lane is None else self._lanes[lane]
        number = next(self._numbers)
        self._lanes[number] = (cache.fork(capacity), cursor)
        return number

    def run(self, steps: Sequence[Step]) -> list[Tensor]:
        """Append to lanes; (read, vocabulary) float32 logits for each step."""
        return [logits for group in self._groups(steps) for logits in self._run(group)]

    def drop(self, lane: int) -> None:
        """Free a lane."""
        del self._lanes[lane]

    def _groups(self, steps: Sequence[Step]) -> list[list[Step]]:
        """Steps of at most `slice_tokens` tokens together; mostly there is one group."""
        groups: list[list[Step]] = []
        filled = 0
        for step in steps:
            if not groups or filled + len(step.ids) > self._model.slice_tokens:
                groups.append([])
                filled = 0
            groups[-1].append(step)
            filled += len(step.ids)
        return groups

    def _run(self, steps: Sequence[Step]) -> list[Tensor]:
        batch = [self._take(step) for step in steps]
        logits = self._model.weights.logits(run_lanes(self._model.weights, batch))
        return list(logits.split([step.read for step in steps]))  # type: ignore[no-untyped-call]

    def _take(self, step: Step) -> LaneTokens:
        cache, cursor = self._lanes[step.lane]
        tokens, cursor = text_tokens(step.ids, cursor)
        self._lanes[step.lane] = (cache, cursor)
        # A prompt that is longer than a slice goes ahead but for what is read.
        if (ahead := len(tokens) - max(self._model.slice_tokens, step.read)) > 0:
            self._model.prefill(tokens.slice(0, ahead), cache)
            tokens = tokens.slice(ahead, len(tokens))
        return LaneTokens(tokens, cache, step.read)
