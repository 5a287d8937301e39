"""The cache holds what was written, refuses what it has no room for, forks without copying, and
forgets what it is told to, in every form."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import fused
from model.facts import load_checkpoint
from model.kv_cache import CacheForm, KvCache
from model.segments import key_blocks, put, reserve, take, value_blocks
from schemas.errors import InvariantError
from tests.model.tiny import make_tiny

FORMS = ["float32", "bfloat16", "int8"]


def form(dtype: str = "float32") -> CacheForm:
    """Float32 in rows; bfloat16 and int8 in pairs where this CPU reads them."""
    spec = load_checkpoint(str(make_tiny().folder)).spec.text
    kept = getattr(torch, dtype)
    compute = torch.float32 if dtype == "float32" else torch.bfloat16
    return CacheForm(spec, kept, compute, (torch.device("cpu"),) * spec.layers)


def append(cache: KvCache, tokens: Tensor) -> None:
    """Write tokens (2, n, 32) to every layer, a layer's own number added."""
    for layer in range(3):
        block = (tokens + layer).to(cache.form.compute_dtype)
        cache.append(layer, block, -block)
    cache.advance()


def read(cache: KvCache, layer: int) -> tuple[Tensor, Tensor]:
    """Everything that a layer may look back on, as float32 (2, n, 32)."""
    parts = [
        segment.plain(0, segment.count, torch.float32)
        for one in cache.chain
        for segment in one.segments(layer)
    ]
    return torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts], 1)


def numbers(count: int, seed: int = 0) -> Tensor:
    return torch.randn(2, count, 32, generator=torch.Generator().manual_seed(seed))


def closeness(dtype: str) -> float:
    """How far numbers up to 8 may move: int8 has 127 steps."""
    return {"float32": 1e-6, "bfloat16": 2**-6, "int8": 0.06}[dtype]


@pytest.mark.parametrize("dtype", FORMS)
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 150), min_size=1, max_size=6))
def test_tokens_come_back_in_order_however_they_came(dtype: str, sizes: list[int]) -> None:
    tokens = numbers(sum(sizes))
    cache = KvCache(form(dtype), sum(sizes))
    for part in tokens.split(sizes, 1):  # type: ignore[no-untyped-call]
        append(cache, part)
    assert cache.num_tokens == sum(sizes)
    for layer in (0, 2):
        keys, values = read(cache, layer)
        assert (keys - tokens - layer).abs().max() <= closeness(dtype)
        assert (keys + values).abs().max() <= 2 * closeness(dtype)


@pytest.mark.parametrize("dtype", FORMS)
@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(1, 200),
    kept=st.integers(0, 200),
    second=st.integers(1, 200),
    fork=st.booleans(),
)
def test_trimmed_tokens_are_forgotten(
    dtype: str, first: int, kept: int, second: int, fork: bool
) -> None:
    kept = min(kept, first)
    cache = KvCache(form(dtype), first + second)
    if fork:
        append(cache, numbers(5, seed=3))
        cache = cache.fork(first + second)
    append(cache, numbers(first, seed=1))
    cache.trim(kept)
    append(cache, numbers(second, seed=2))
    expected = torch.cat([numbers(first, seed=1)[:, :kept], numbers(second, seed=2)], 1)
    keys, _ = read(cache, 1)
    # A block that was opened again is rounded twice.
    assert (keys[:, 5 if fork else 0 :] - expected - 1).abs().max() <= 2 * closeness(dtype)


def test_what_is_not_there_cannot_be_kept() -> None:
    cache = KvCache(form(), 10)
    append(cache, numbers(3))
    with pytest.raises(InvariantError, match="3"):
        cache.trim(4)


def test_pending_tokens_are_seen_and_not_counted() -> None:
    cache = KvCache(form(), 4)
    append(cache, numbers(2))
    cache.append(0, numbers(1), numbers(1))
    assert cache.segments(0)[-1].count == 3
    assert cache.num_tokens == 2


def test_a_full_cache_refuses() -> None:
    cache = KvCache(form(), 3)
    assert cache.capacity == 64
    append(cache, numbers(64))
    with pytest.raises(InvariantError, match="64"):
        append(cache, numbers(1))


@pytest.mark.parametrize("dtype", FORMS)
def test_forks_read_the_prefix_where_it_lies(dtype: str) -> None:
    cache = KvCache(form(dtype), 70)
    append(cache, numbers(70))
    first, second = cache.fork(3), cache.fork(1)
    append(first, numbers(3, seed=1))
    append(second, numbers(1, seed=2))
    last = first.fork(1)
    append(last, numbers(1, seed=3))
    for fork, seeds in ((first, [(3, 1)]), (second, [(1, 2)]), (last, [(3, 1), (1, 3)])):
        keys, _ = read(fork, 0)
        expected = torch.cat([numbers(70), *(numbers(n, seed) for n, seed in seeds)], 1)
        assert (keys - expected).abs().max() <= closeness(dtype)
        assert fork.num_tokens == 70 + sum(n for n, _ in seeds)
    assert first.chain[0] is cache
    assert read(cache, 0)[0].shape[1] == 70


def test_int8_takes_little_more_than_half() -> None:
    spec = replace(form().spec, layers=1, kv_heads=2, head_dim=32)
    sizes = {}
    for dtype in ("bfloat16", "int8"):
        one = CacheForm(spec, getattr(torch, dtype), torch.bfloat16, (torch.device("cpu"),))
        sizes[dtype] = KvCache(one, 32_768).num_bytes
    assert sizes["int8"] <= 0.55 * sizes["bfloat16"]


def test_int8_keeps_what_a_session_said_short_as_numbers() -> None:
    cache = KvCache(form("int8"), 64)
    append(cache, numbers(64))
    assert cache.segments(0)[0].key_scales is not None
    fork = cache.fork(64)
    append(fork, numbers(64))
    assert fork.segments(0)[0].key_scales is None


@pytest.mark.skipif(not fused.runs_here(), reason="pairs are for CPUs with AVX2")
def test_pairs_where_the_kernel_reads_them() -> None:
    assert form("float32").layout == "rows"
    assert form("bfloat16").layout == form("int8").layout == "pairs"
    assert replace(form("bfloat16"), compute_dtype=torch.float32).layout == "rows"
    odd = replace(form("bfloat16").spec, head_dim=24)
    assert replace(form("bfloat16"), spec=odd).layout == "rows"


@pytest.mark.parametrize("layout", ["rows", "pairs"])
@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, 130), count=st.integers(1, 130), data=st.data())
def test_what_is_put_can_be_taken(layout: str, start: int, count: int, data: st.DataObject) -> None:
    keys, values = reserve(
        layout,
        2,
        260,
        32,
        dtype=torch.float32,
        device=torch.device("cpu"),  # type: ignore[arg-type]
    )
    tokens = numbers(count)
    first = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(first + 1, count))
    for memory, blocks in ((keys, key_blocks), (values, value_blocks)):
        view = blocks(layout, memory)  # type: ignore[arg-type]
        put(view, start, tokens)
        assert torch.equal(take(view, start + first, start + stop), tokens[:, first:stop])
