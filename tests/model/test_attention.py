"""Blockwise attention against one softmax over everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import attention
from model.attention import attend
from model.kv_cache import Segment


def plain(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Causal attention with every score at once, float64."""
    heads, count, _ = queries.shape
    repeat = heads // keys.shape[0]
    q, k, v = (t.double() for t in (queries, keys, values))
    scores = q @ k.repeat_interleave(repeat, 0).transpose(1, 2) * scale
    total = keys.shape[1]
    later = torch.arange(total)[None] > torch.arange(total - count, total)[:, None]
    return scores.masked_fill(later, -torch.inf).softmax(-1) @ v.repeat_interleave(repeat, 0)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
@pytest.mark.parametrize(("past", "count"), [(0, 1), (0, 33), (15, 1), (16, 16), (17, 33), (64, 5)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_one_softmax(
    monkeypatch: pytest.MonkeyPatch, block: int, past: int, count: int, kv_heads: int
) -> None:
    monkeypatch.setattr(attention, "ATTENTION_KEYS", block)
    monkeypatch.setattr(attention, "ATTENTION_ROWS", max(1, block // 2))
    queries = random(4, count, 8, seed=1)
    keys = random(kv_heads, past + count, 8, seed=2) * 3
    values = random(kv_heads, past + count, 8, seed=3)
    cut = past // 2
    segments = [
        Segment(keys[:, a:b], values[:, a:b])
        for a, b in ((0, cut), (cut, past), (past, past + count))
        if b > a
    ]
    got = attend(queries, segments, 0.35)
    assert got.shape == queries.shape
    assert (got.double() - plain(queries, keys, values, 0.35)).abs().max() <= 1e-5


def test_huge_scores_stay_finite() -> None:
    queries, keys = random(2, 3, 8, seed=1) * 1e3, random(2, 20, 8, seed=2) * 1e3
    values = random(2, 20, 8, seed=3)
    segments = [Segment(keys[:, :17], values[:, :17]), Segment(keys[:, 17:], values[:, 17:])]
    got = attend(queries, segments, 1.0)
    assert torch.isfinite(got).all()
    assert (got.double() - plain(queries, keys, values, 1.0)).abs().max() <= 1e-3


def test_bfloat16_rounds_no_more_than_its_own() -> None:
    queries, keys, values = (random(2, 300, 16, seed=seed).bfloat16() for seed in (1, 2, 3))
    got = attend(queries, [Segment(keys, values)], 0.25)
    assert got.dtype == torch.bfloat16
    assert (got.double() - plain(queries, keys, values, 0.25)).abs().max() <= 0.02
