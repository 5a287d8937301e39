"""TimedTokens → KV cache, and hidden states where somebody reads them.

Chunked equals unchunked: any slice, also through a frame, leaves the same cache and the same
logits. The last layer computes only K and V for tokens that nobody reads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb

from model.attention import attend
from model.kv_cache import KvCache, Segment
from model.timeline import TimedTokens
from model.weights import Weights


@torch.inference_mode()
def run_tokens(weights: Weights, tokens: TimedTokens, cache: KvCache, read: int) -> Tensor:
    """Append `tokens` to the cache; returns the last `read` hidden states, (read, hidden), normed.

    With `read` 0 the last layer stops after its keys and values and nothing is returned.
    """
    text = weights.text
    x = text.embed_tokens(tokens.ids.to(weights.device))
    visual = tokens.visual.to(weights.device)
    if tokens.levels:
        x[visual] = tokens.levels[0].to(x.device, x.dtype)
    cos, sin = text.rotary_emb(x[None], tokens.positions[:, None].to(weights.device))
    last = len(text.layers) - 1
    for number, layer in enumerate(text.layers):
        keep = read if number == last else len(x)
        x = _run_layer(layer, number, x, (cos, sin), cache, keep)
        if number + 1 < len(tokens.levels) and keep:
            level = tokens.levels[number + 1].to(x.device, x.dtype)
            shown = visual[len(visual) - keep :]
            x[shown] += level[len(level) - int(shown.sum()) :]
    cache.advance()
    normed: Tensor = text.norm(x)
    return normed


def _run_layer(
    layer: Any,
    number: int,
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    cache: KvCache,
    keep: int,
) -> Tensor:
    """One decoder layer over (n, hidden); returns the last `keep` rows."""
    attention = layer.self_attn
    rope = tuple(table.to(x.device) for table in rope)  # type: ignore[assignment]
    normed = layer.input_layernorm(x)
    shape = (1, len(x), -1, attention.head_dim)
    q = attention.q_norm(attention.q_proj(normed).view(shape)).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(normed).view(shape)).transpose(1, 2)
    v = attention.v_proj(normed).view(shape).transpose(1, 2)
    q, k = apply_rotary_pos_emb(q, k, *rope)
    cache.append(number, k[0], v[0])
    if keep == 0:
        return x[:0]
    # Rows that nobody reads need no attention; the rest see the same keys as before.
    segments = cache.segments(number)
    if keep < len(x):
        segments = _split_last(segments, len(x) - keep)
    mixed = attend(q[0, :, len(x) - keep :], segments, attention.scaling)
    x = x[len(x) - keep :] + attention.o_proj(mixed.transpose(0, 1).flatten(1))
    after: Tensor = x + layer.mlp(layer.post_attention_layernorm(x)[None])[0]
    return after


def _split_last(segments: list[Segment], at: int) -> list[Segment]:
    """The last segment cut in two, so that only the rows that are read see it causally."""
    own = segments[-1]
    head = Segment(own.keys[:, :at], own.values[:, :at])
    tail = Segment(own.keys[:, at:], own.values[:, at:])
    return [*segments[:-1], head, tail]
