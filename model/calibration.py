"""How fast attention over a long context is here, measured without filling one."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import torch

from model.attention import attend
from model.kv_cache import CacheForm, KvCache
from model.segments import View

KEYS, QUERIES = 32_768, 512


def pair_seconds(form: CacheForm, keys: int = KEYS, queries: int = QUERIES) -> float:
    """Seconds that one token's attention costs per token before it, in all layers together but for
    the last, where tokens of a video are not asked for.

    Random keys of one layer; takes as long as a slice of a context of `keys` tokens, four times.
    """
    device, spec = form.devices[0], form.spec
    one = replace(form, spec=replace(spec, layers=1), devices=(device,))
    cache = KvCache(one, keys)
    generator = torch.Generator().manual_seed(0)
    shape = (spec.kv_heads, keys, spec.head_dim)
    numbers = torch.randn(shape, generator=generator).to(device, form.compute_dtype)
    cache.append(0, numbers, numbers)
    asking = torch.randn((spec.heads, queries, spec.head_dim), generator=generator)
    asking = asking.to(device, form.compute_dtype)
    views = [View(0, queries, segment) for segment in cache.segments(0)]
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        # Reading one number waits for a GPU.
        float(attend(asking, views, spec.kv_heads, spec.head_dim**-0.5)[0, 0])
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:]) / (keys * queries) * (spec.layers - 1)
