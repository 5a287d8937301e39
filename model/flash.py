"""torch's fused attention as one step of an unfinished softmax: on GPUs, and on CPUs without a
kernel of ours.

The library's function gives no log-sum-exp; the operators beneath it do, and with it a segment can
be merged with what was seen before. Exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from model.running import Running
from model.segments import View

_WIDENED_ON_GPU, _WIDENED_ON_CPU = 65_536, 2048
"""Tokens of a segment in another dtype that are widened at a time."""
_ROWS_ON_CPU = 2048
"""Query rows that go over the keys at once: what merging them takes is what `model.memory` reckons
for a tile, and fewer are slower."""

Operator = Callable[[Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor]]
"""(1, heads, n, dim) queries, keys, values, causal, scale → output, log-sum-exp (1, heads, n)."""


def takes_flash(queries: Tensor) -> bool:
    """Whether torch has an operator that is faster than plain products for these queries (kv heads,
    rows, dim)."""
    if queries.is_cuda:
        return queries.dtype in (torch.bfloat16, torch.float16)
    if queries.device.type != "cpu" or queries.dtype is torch.float16:
        return False
    # Only MKL multiplies bfloat16 at float32's rate where the CPU has no such products; a row alone
    # takes it half as long again as plain products.
    has_mkl = bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
    return queries.dtype is torch.float32 or (has_mkl and queries.shape[1] > 1)


def operator_for(device: torch.device) -> Operator:
    """The fastest exact operator: cuDNN's from Hopper on, FlashAttention before, the CPU's."""
    if device.type != "cuda":
        return _cpu
    return _cudnn if torch.cuda.get_device_capability(device) >= (9, 0) else _flash


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out[0], out[1].view(q.shape[:3])


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    out = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=scale
    )
    return out[0], out[1][:, :, : q.shape[2]]


def _cpu(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, scale=scale
    )
    return out, lse


def add_flash(running: Running, queries: Tensor, view: View, group: int) -> None:
    """Let a view's rows of `queries` (kv heads, rows, dim) see its segment in rows."""
    tokens = view.stop - view.start if queries.is_cuda else max(1, _ROWS_ON_CPU // group)
    for start in range(view.start, view.stop, tokens):
        limit = None if view.limit is None else view.limit + start - view.start
        stop = min(view.stop, start + tokens)
        _add_tile(running, queries, View(start, stop, view.segment, limit), group)


def _add_tile(running: Running, queries: Tensor, view: View, group: int) -> None:
    segment, limit, rows = view.segment, view.limit, view.rows(group)
    operator = operator_for(queries.device)
    shared = segment.count if limit is None else min(segment.count, max(0, limit - 1))
    step = _WIDENED_ON_GPU if queries.is_cuda else _WIDENED_ON_CPU
    if segment.keys.dtype is queries.dtype:
        step = max(1, shared)
    for first in range(0, shared, step):
        keys, values = segment.plain(first, min(shared, first + step), queries.dtype)
        _merge(running, rows, operator, (queries[:, rows], keys, values))
    if limit is not None:
        _add_own(running, queries, view, group, limit, operator)


def _merge(
    running: Running, rows: slice, operator: Operator, qkv: tuple[Tensor, Tensor, Tensor]
) -> None:
    q, k, v = (tensor[None] for tensor in qkv)
    out, lse = operator(q, k, v, False, running.scale)
    running.merge(rows, _seen(out[0], lse[0], running.scale))


def _add_own(
    running: Running, queries: Tensor, view: View, group: int, limit: int, operator: Operator
) -> None:
    """The tokens' own keys, causally. Heads are taken apart again: rows of one token see the same
    keys, which a causal operator over rows cannot say."""
    segment, rows = view.segment, view.rows(group)
    heads, dim = queries.shape[0], queries.shape[2]
    # Where the segment starts after the first tokens, these see nothing of it; where it ends
    # before the last, these see all of it.
    start = rows.start + max(0, 1 - limit) * group
    first = max(0, limit - 1)
    square = min((rows.stop - start) // group, segment.count - first)
    if square <= 0:
        return
    stop = start + square * group
    keys, values = segment.plain(first, first + square, queries.dtype)
    if stop < rows.stop:
        behind = slice(stop, rows.stop)
        _merge(running, behind, operator, (queries[:, behind], keys, values))
    own = queries[:, start:stop].view(heads, square, group, dim).transpose(1, 2).flatten(0, 1)
    keys, values = (t.repeat_interleave(group, 0) for t in (keys, values))
    out, lse = operator(own[None], keys[None], values[None], True, running.scale)
    out = out[0].view(heads, group, square, dim).transpose(1, 2).flatten(1, 2)
    lse = lse[0].view(heads, group, square).transpose(1, 2).flatten(1, 2)
    running.merge(slice(start, stop), _seen(out, lse, running.scale))


def _seen(out: Tensor, lse: Tensor, scale: float) -> Running:
    """A finished softmax as an unfinished one: its log-sum-exp is the peak of one key."""
    peak = lse.float() / scale
    return Running(peak, torch.ones_like(peak), out.float(), scale)
