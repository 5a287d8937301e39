"""Attention of a lesson, forwards and backwards, block by block: what torch writes out for a row of
1,600 tokens is some hundred megabytes a layer, half of it about what stands behind, and does not
stay in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CELLS = 1 << 19
"""Scores of a block, about: 2 MiB."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """(B, heads, asks, head_dim) what the last `asks` columns, `q`, take from all columns up to
    themselves. `k` and `v` are (B, heads, N, head_dim); `bias` (B, 1, N, N) is added to scores.

    Products are of the type of `q`, sums and shares float32.
    """
    out: Tensor = _Attention.apply(q, k, v, bias)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        out, shares = torch.empty_like(q), []
        for of, asks, seen in _blocks(q, k):
            scores = torch.matmul(q[of, :, asks], k[of, :, seen].mT).float()
            scores += bias[of, :, bias.shape[2] - q.shape[2] :][:, :, asks, seen]
            shares.append(scores.softmax(-1).to(q.dtype))
            out[of, :, asks] = torch.matmul(shares[-1], v[of, :, seen])
        ctx.save_for_backward(q, k, v, out, *shares)
        return out

    @staticmethod
    def backward(ctx: Any, *ups: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, *shares = ctx.saved_tensors
        up = ups[0].to(q.dtype)
        mean = (up.float() * out.float()).sum(-1, keepdim=True)
        of_q = torch.empty_like(q)
        of_k, of_v = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
        for (of, asks, seen), share in zip(_blocks(q, k), shares, strict=True):
            own = up[of, :, asks]
            of_v[of, :, seen] += torch.matmul(share.mT, own)
            slope = torch.matmul(own, v[of, :, seen].mT).float()
            slope = slope.sub_(mean[of, :, asks]).mul_(share).to(q.dtype)
            of_q[of, :, asks] = torch.matmul(slope, k[of, :, seen])
            of_k[of, :, seen] += torch.matmul(slope.mT, q[of, :, asks])
        return of_q, of_k.to(k.dtype), of_v.to(v.dtype), None


def _blocks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """(sequences, their `q`, the columns that these see)."""
    (size, heads, asks, _), total = q.shape, k.shape[2]
    rows = max(1, CELLS // (heads * total * asks))
    columns = max(1, CELLS // (heads * total * rows))
    for first in range(0, size, rows):
        for at in range(0, asks, columns):
            end = min(asks, at + columns)
            yield slice(first, first + rows), slice(at, end), slice(0, total - asks + end)
