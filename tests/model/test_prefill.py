"""Chunked equals unchunked, and both equal the library's own forward, on random weights."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model import attention
from model.facts import Checkpoint, load_checkpoint
from model.kv_cache import CacheForm, KvCache
from model.positions import Cursor
from model.prefill import run_tokens
from model.timeline import TimedTokens, text_tokens, video_tokens
from model.vision import VisionEncoder
from model.weights import Weights, load_weights
from schemas.media import RgbArray
from schemas.ports import Question
from tests.model.tiny import (
    VOCAB,
    Shape,
    Tiny,
    library_inputs,
    make_frames,
    make_plan,
    make_tiny,
)


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return make_tiny()


QUESTION = Question("q", "\nWhen is a bar on screen?", "events")
SHAPES = [
    Shape(),
    Shape(tied=False, deepstack=()),
    Shape(deepstack=(0,), kv_heads=4),
    Shape(deepstack=(0, 1, 2), kv_heads=1),
    Shape(deepstack=(0, 1, 2), layers=2),
    Shape(moe=True, tied=False),
    Shape(
        rope=(("rope_type", "yarn"), ("factor", 3.0), ("original_max_position_embeddings", 1024))
    ),
]


class Case:
    """One checkpoint, one video and one question, as tokens with features."""

    def __init__(self, tiny: Tiny, pairs: int = 3, rows: int = 2, cols: int = 3) -> None:
        self.tiny = tiny
        self.checkpoint: Checkpoint = load_checkpoint(str(tiny.folder))
        self.weights: Weights = load_weights(tiny.folder, self.checkpoint.spec, "float32")
        self.rgb: RgbArray = make_frames(2 * pairs, rows, cols)
        layout = self.checkpoint.counter
        plan = make_plan(layout, pairs=pairs, rows=rows, cols=cols, pairs_per_chunk=pairs)
        encoder = VisionEncoder(self.weights.vision, self.checkpoint.spec.vision)
        features = encoder.encode(self.rgb)
        self.prefix, cursor = text_tokens(layout.prefix_ids(), Cursor())
        self.video, cursor = video_tokens(
            plan.chunks[0].pairs, plan.sampling.grid, features, layout, cursor
        )
        self.question, _ = text_tokens(layout.question_ids(QUESTION), cursor)
        self.ids = [
            *self.prefix.ids.tolist(),
            *self.video.ids.tolist(),
            *self.question.ids.tolist(),
        ]

    def cache(self, dtype: torch.dtype = torch.float32) -> KvCache:
        form = CacheForm(
            self.checkpoint.spec.text, dtype, self.weights.dtype, self.weights.layer_devices
        )
        return KvCache(form, len(self.ids))

    def logits(self, parts: Sequence[TimedTokens], step: int, cache: KvCache) -> Tensor:
        """Logits behind the last token of `parts`, run in pieces of `step`."""
        hidden = torch.empty(0)
        for part in parts:
            for start in range(0, len(part), step):
                hidden = run_tokens(self.weights, part.slice(start, start + step), cache, 1)
        return self.weights.logits(hidden)[-1]

    @torch.no_grad()
    def expected(self) -> Tensor:
        inputs = library_inputs(self.ids, self.rgb)
        logits: Tensor = self.tiny.reference(**inputs, logits_to_keep=1).logits
        return logits[0, -1]


def held(cache: KvCache, layer: int) -> tuple[Tensor, Tensor]:
    """Keys and values that a cache holds of one layer."""
    (segment,) = cache.segments(layer)
    return segment.plain(0, segment.count, torch.float32)


@pytest.fixture(scope="module")
def case(tiny: Tiny) -> Case:
    return Case(tiny)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_logits_equal_the_librarys(shape: Shape) -> None:
    case = Case(make_tiny(shape))
    expected = case.expected()
    assert expected.std() > 0.1
    for step in (1, 7, len(case.ids)):
        got = case.logits([case.prefix, case.video, case.question], step, case.cache())
        assert got.shape == (VOCAB,)
        assert (got - expected).abs().max() <= 1e-4


def test_any_piece_size_leaves_the_same_cache(case: Case) -> None:
    whole = case.cache()
    expected = case.logits([case.prefix, case.video, case.question], 10_000, whole)
    pair = len(case.video) // 3
    for step in (1, 2, 7, pair - 1, pair, pair + 1, 2 * pair + 3):
        cache = case.cache()
        got = case.logits([case.prefix, case.video, case.question], step, cache)
        assert (got - expected).abs().max() <= 1e-4
        for layer in range(case.tiny.shape.layers):
            for ours, theirs in zip(held(cache, layer), held(whole, layer), strict=True):
                assert (ours - theirs).abs().max() <= 1e-4


def test_unread_tokens_change_nothing(case: Case) -> None:
    """With nothing read the last layer stops at K and V; the next read sees the same."""
    expected = case.expected()
    cache = case.cache()
    run_tokens(case.weights, case.prefix, cache, 0)
    run_tokens(case.weights, case.video, cache, 0)
    got = case.logits([case.question], 10_000, cache)
    assert (got - expected).abs().max() <= 1e-4


def test_a_read_may_end_on_a_visual_token() -> None:
    """DeepStack as deep as the decoder: the last layer's level joins the rows that are read."""
    case = Case(make_tiny(Shape(deepstack=(0, 1, 2), layers=2)))
    cut = len(case.prefix) + len(case.video) - 4
    assert bool(case.video.visual[-4 - 1])
    inputs = library_inputs(case.ids, case.rgb)
    with torch.no_grad():
        expected = case.tiny.reference(**inputs).logits[0, cut - 1]
    cache = case.cache()
    run_tokens(case.weights, case.prefix, cache, 0)
    hidden = run_tokens(case.weights, case.video.slice(0, len(case.video) - 4), cache, 1)
    assert (case.weights.logits(hidden)[-1] - expected).abs().max() <= 1e-4


def test_forks_share_the_prefix_and_not_each_other(case: Case) -> None:
    expected = case.expected()
    cache = case.cache()
    for part in (case.prefix, case.video):
        run_tokens(case.weights, part, cache, 0)
    before = cache.num_tokens
    other = case.video.slice(0, 5)
    for _ in range(2):
        disturbing = cache.fork(5)
        run_tokens(case.weights, other, disturbing, 0)
        fork = cache.fork(len(case.question))
        got = case.logits([case.question], 3, fork)
        assert (got - expected).abs().max() <= 1e-4
    assert cache.num_tokens == before


def test_bfloat16_cache_under_float32_layers(case: Case) -> None:
    """The cache may be narrower than the arithmetic; the error is rounding, not confusion."""
    expected = case.expected()
    got = case.logits([case.prefix, case.video, case.question], 7, case.cache(torch.bfloat16))
    assert (got - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("is_flash", [True, False])
def test_through_torchs_operators_or_plain_products_the_logits_are_the_same(
    case: Case, monkeypatch: pytest.MonkeyPatch, is_flash: bool
) -> None:
    """The whole decoder over the operators that give a log-sum-exp, here the CPU's, or without."""
    monkeypatch.setattr(attention, "takes_flash", lambda _queries: is_flash)
    expected = case.expected()
    for step in (1, 7, len(case.ids)):
        got = case.logits([case.prefix, case.video, case.question], step, case.cache())
        assert (got - expected).abs().max() <= 1e-4
    codes = case.logits([case.prefix, case.video, case.question], 7, case.cache(torch.int8))
    assert (codes - expected).abs().max() <= 0.05 * expected.abs().max()


def test_int8_cache_under_float32_layers(case: Case) -> None:
    expected = case.expected()
    for step in (1, 7, len(case.ids)):
        got = case.logits([case.prefix, case.video, case.question], step, case.cache(torch.int8))
        assert (got - expected).abs().max() <= 0.05 * expected.abs().max()
