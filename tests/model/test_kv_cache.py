"""The cache holds what was written, refuses what it has no room for, and forks without copying."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.facts import load_checkpoint
from model.kv_cache import KvCache
from schemas.errors import InvariantError
from tests.model.tiny import make_tiny


def new_cache(capacity: int) -> KvCache:
    spec = load_checkpoint(str(make_tiny().folder)).spec.text
    return KvCache(spec, capacity, torch.float32, torch.device("cpu"))


def append(cache: KvCache, count: int, value: float) -> None:
    for layer in range(3):
        block = torch.full((2, count, 32), value + layer)
        cache.append(layer, block, -block)
    cache.advance()


def keys_of(cache: KvCache, layer: int) -> Tensor:
    return torch.cat([segment.keys for segment in cache.segments(layer)], dim=1)[0, :, 0]


def test_tokens_come_back_in_order() -> None:
    cache = new_cache(5)
    append(cache, 2, 1.0)
    append(cache, 3, 10.0)
    assert keys_of(cache, 0).tolist() == [1, 1, 10, 10, 10]
    assert keys_of(cache, 2).tolist() == [3, 3, 12, 12, 12]
    assert cache.num_tokens == 5


def test_pending_tokens_are_their_own_segment() -> None:
    cache = new_cache(4)
    append(cache, 2, 1.0)
    cache.append(0, torch.ones(2, 1, 32), torch.ones(2, 1, 32))
    assert [segment.keys.shape[1] for segment in cache.segments(0)] == [2, 1]
    assert cache.num_tokens == 2


def test_a_full_cache_refuses() -> None:
    cache = new_cache(3)
    append(cache, 3, 1.0)
    with pytest.raises(InvariantError, match="3"):
        append(cache, 1, 1.0)


def test_forks_read_the_prefix_where_it_lies() -> None:
    cache = new_cache(2)
    append(cache, 2, 1.0)
    first, second = cache.fork(3), cache.fork(1)
    append(first, 3, 5.0)
    append(second, 1, 7.0)
    assert keys_of(first, 0).tolist() == [1, 1, 5, 5, 5]
    assert keys_of(second, 0).tolist() == [1, 1, 7]
    assert keys_of(cache, 0).tolist() == [1, 1]
    ours, theirs = first.segments(1)[0].keys, cache.segments(1)[0].keys
    assert ours.data_ptr() == theirs.data_ptr()
    assert first.num_bytes == 3 * cache.num_bytes // 2


def test_a_forks_fork() -> None:
    cache = new_cache(1)
    append(cache, 1, 1.0)
    fork = cache.fork(1)
    append(fork, 1, 2.0)
    last = fork.fork(1)
    append(last, 1, 3.0)
    assert keys_of(last, 0).tolist() == [1, 2, 3]
    assert last.num_tokens == 3
