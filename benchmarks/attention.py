"""Attention of 2,048 queries over 65,536 keys against the library's own function, bfloat16.

Error is that of 256 of the queries against float64, both sides' results in bfloat16. Scores there
are broad: every key counts. Where queries look near them, the rest needs no second product.

First the library's operator as one step of an unfinished softmax, which CPUs without the fused
kernel take, against plain products: over the whole cache, and eight rows as in decoding.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks._claim import claim
from benchmarks._shapes import median_s
from model import attention
from model.attention import attend
from model.facts import NANO
from model.kv_cache import CacheForm, KvCache
from model.segments import Segment, View, lay_out
from model.spec import read_spec

QUERIES, KEYS, HEADS = 2048, 65_536, 4
GOALS = {32: 1.3, 64: 1.6, 128: 2.2}


def laid_out(keys: Tensor, values: Tensor) -> Segment:
    """Keys and values as a session's cache of this machine holds them."""
    heads, count, dim = keys.shape
    spec = replace(read_spec(NANO).text, layers=1, heads=heads, kv_heads=heads, head_dim=dim)
    form = CacheForm(spec, torch.bfloat16, torch.bfloat16, (torch.device("cpu"),))
    cache = KvCache(form, count)
    cache.append(0, keys, values)
    (segment,) = cache.segments(0)
    return segment


def by_operator(dim: int, queries: int) -> float:
    """How many times as fast torch's operator goes over a cache in rows as plain products do."""
    torch.manual_seed(dim)
    rows = torch.randn(HEADS, queries, dim).bfloat16()
    keys, values = (torch.randn(HEADS, KEYS, dim).bfloat16() for _ in range(2))
    views = [View(0, queries, lay_out("rows", keys, values))]

    def either(is_flash: bool) -> float:
        with patch.object(attention, "takes_flash", lambda _queries: is_flash):
            return median_s(lambda: attend(rows, views, HEADS, dim**-0.5))

    return either(False) / either(True)


def looking_near(dim: int) -> float:
    """How many times as fast as the library, where queries look at the last keys alone."""
    torch.manual_seed(dim)
    queries = torch.randn(HEADS, QUERIES, dim).bfloat16()
    keys, values = (torch.randn(HEADS, KEYS, dim).bfloat16() for _ in range(2))
    keys[:, -QUERIES:] += 8 * queries.mean(1, keepdim=True).sign()
    queries += 8 * queries.mean(1, keepdim=True).sign()
    views = [View(0, QUERIES, laid_out(keys, values))]

    def library() -> Tensor:
        return F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]

    return median_s(library) / median_s(lambda: attend(queries, views, HEADS, dim**-0.5))


def main() -> None:
    for dim in (64, 128):
        claim(f"operator_speed_{dim}", by_operator(dim, QUERIES), 1.2)
    claim("operator_speed_decoding", by_operator(128, 8), 1.5)
    for dim in (64, 128):
        claim(f"attention_near_speed_{dim}", looking_near(dim), 1.5)
    scale_of = {dim: dim**-0.5 for dim in GOALS}
    for dim, goal in GOALS.items():
        torch.manual_seed(dim)
        queries = torch.randn(HEADS, QUERIES, dim).bfloat16()
        keys, values = (torch.randn(HEADS, KEYS, dim).bfloat16() for _ in range(2))
        views = [View(0, QUERIES, laid_out(keys, values))]

        def ours(q: Tensor = queries, v: list[View] = views, s: float = scale_of[dim]) -> Tensor:
            return attend(q, v, HEADS, s)

        def library(q: Tensor = queries, k: Tensor = keys, v: Tensor = values) -> Tensor:
            return F.scaled_dot_product_attention(q[None], k[None], v[None])[0]

        results = ours(), library().transpose(0, 1).flatten(1)
        shown = slice(0, 256)
        scores = queries[:, shown].double() @ keys.double().transpose(1, 2) * scale_of[dim]
        exact = (scores.softmax(-1) @ values.double()).transpose(0, 1).flatten(1)
        errors = [float((r[shown].double() - exact).norm() / exact.norm()) for r in results]
        times = median_s(ours), median_s(library)
        rates = [4 * HEADS * QUERIES * KEYS * dim / t / 1e9 for t in times]
        print(
            f"dim {dim}: {times[0]:.2f} s and {times[1]:.2f} s, {rates[0]:.0f} and {rates[1]:.0f} "
            f"GFLOP/s on {torch.get_num_threads()} threads; error {errors[0]:.3e} and "
            f"{errors[1]:.3e}"
        )
        claim(f"attention_speed_{dim}", times[1] / times[0], goal)
        # Both round the weights once and the result once: equal but for chance.
        claim(f"attention_error_{dim}", errors[0] / errors[1], 1.005, at_most=True)


if __name__ == "__main__":
    main()
