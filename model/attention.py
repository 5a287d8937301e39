"""Attention of a chunk's queries over a long cache, segment by segment, exact.

Each query row keeps an unfinished softmax (`Running`) that goes from segment to segment and block
to block, so there is no mask tensor, no repeated key and no score matrix. Query heads that share a
key head are rows of one product. Softmax and sums are float32.

Three ways through a segment, the fastest exact one that fits it: the fused kernel for pairs
(`model.fused`), torch's own flash kernels (`model.flash`), plain products where neither fits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model import fused
from model.flash import add_flash, takes_flash
from model.memory import ATTENTION_KEYS, ATTENTION_ROWS
from model.products import is_acted_out
from model.running import Running
from model.segments import View, lay_out


def attend(queries: Tensor, views: Sequence[View], kv_heads: int, scale: float) -> Tensor:
    """(heads, n, dim) queries over what they look at; returns (n, heads × dim).

    A token's first view must show it a key at least.
    """
    heads, count, dim = queries.shape
    group = heads // kv_heads
    folded = queries.view(kv_heads, group, count, dim).transpose(1, 2).flatten(1, 2).contiguous()
    running = Running.start(folded, scale)
    for view in views:
        if view.segment.layout == "pairs":
            fused.add_fused(running, folded, view, group)
        elif takes_flash(folded):
            add_flash(running, folded, view, group)
        else:
            _add_blocks(running, folded, view, group)
    mixed = running.result().view(kv_heads, count, group * dim).transpose(0, 1)
    return mixed.reshape(count, heads * dim).to(queries.dtype)


def attend_apart(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Many short sequences, each within itself and not causal: all (sequences, n, heads, dim).

    Returns that shape. What a vision tower does to its patch pairs.
    """
    sequences, count, heads, dim = queries.shape
    apart = [t.transpose(1, 2) for t in (queries, keys, values)]
    if not (queries.device.type == "cpu" and queries.dtype is torch.bfloat16 and fused.runs_here()):
        dtype = torch.float32 if is_acted_out(queries) else queries.dtype
        q, k, v = (t.to(dtype) for t in apart)
        out = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return out.to(queries.dtype).transpose(1, 2)
    # Whole vectors: dimensions of zeros change no score and are cut off again.
    wide = -(-dim // 16) * 16
    q, k, v = (F.pad(t, (0, wide - dim)).flatten(0, 1) for t in apart)
    segment = lay_out("pairs", k, v)
    running = Running.start(q, scale)
    fused.add_fused(running, q, View(0, count, segment), 1)
    mixed = running.result().to(queries.dtype)[..., :dim]
    return mixed.view(sequences, heads, count, dim).transpose(1, 2)


def _add_blocks(running: Running, queries: Tensor, view: View, group: int) -> None:
    """The plain way, in float32: one block of keys × one tile of rows at a time. A CPU that has no
    bfloat16 products gains nothing from narrower ones."""
    segment, limit, rows = view.segment, view.limit, view.rows(group)
    for first in range(0, segment.count, ATTENTION_KEYS):
        stop = min(segment.count, first + ATTENTION_KEYS)
        keys, values = segment.plain(first, stop, torch.float32)
        for row in range(rows.start, rows.stop, ATTENTION_ROWS):
            tile = slice(row, min(rows.stop, row + ATTENTION_ROWS))
            seen = stop - first
            if limit is not None:
                seen = min(seen, limit + (tile.stop - 1 - rows.start) // group - first)
            if seen <= 0:
                continue
            scores = queries[:, tile].float() @ keys[:, :seen].transpose(1, 2)
            if limit is not None:
                _hide(scores, limit + (row - rows.start) // group - first, row - rows.start, group)
            running.add(tile, scores, values[:, :seen])


def _hide(scores: Tensor, seen_by_first: int, row: int, group: int) -> None:
    """Scores of keys that come after a row's own token; `row` counts from the view's first."""
    count, keys = scores.shape[1:]
    if keys <= seen_by_first:
        return
    rows = torch.arange(row, row + count, device=scores.device) // group - row // group
    later = torch.arange(keys, device=scores.device)[None] >= seen_by_first + rows[:, None]
    scores.masked_fill_(later, Running.HIDDEN)
