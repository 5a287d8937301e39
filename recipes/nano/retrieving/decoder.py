"""Step 2: the decoder over a batch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, rotate_half

from recipes.nano.retrieving.attention import attend
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.shape import HEAD_DIM, HEADS


class Watched(NamedTuple):
    """Queries (B, heads, N − tail in the last layer, head_dim) and keys of a layer, both before
    they are turned by where they stand, and what they are projected from, (B, N, hidden)."""

    q: Tensor
    k: Tensor
    still_q: Tensor
    still_k: Tensor
    known: Tensor
    mixed: Tensor
    """(B, N, hidden) what tokens hold once they have looked, before they think about it."""


def run(
    model: Qwen3VLForConditionalGeneration,
    lesson: Lesson,
    watched: list[Watched],
    bias: Tensor | None = None,
) -> list[Tensor]:
    """Hidden states after each layer, and after the final norm at the end: (B, N, hidden), from the
    last layer on (B, N − tail, hidden). Queries and keys of each layer are left in `watched`.
    `bias`: that of the lesson, where it has been written out."""
    bias = lesson.bias.written_out() if bias is None else bias
    text = model.model.language_model
    x = text.embed_tokens(lesson.ids)
    x = x.masked_scatter(lesson.visual[..., None], lesson.features.to(x.dtype))
    rope = text.rotary_emb(x, lesson.positions)
    states = []
    for number, layer in enumerate(text.layers):
        asks = lesson.tail if number + 1 == len(text.layers) else 0
        own = _attend(layer, x, rope, bias, asks)
        watched.append(own)
        x = own.mixed + layer.mlp(layer.post_attention_layernorm(own.mixed))
        states.append(x)
    return [*states, text.norm(x)]


def _attend(
    layer: Qwen3VLTextDecoderLayer, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, asks: int
) -> Watched:
    """Columns from `asks` on look at all before them."""
    attention, shape = layer.self_attn, (len(x), -1, HEADS, HEAD_DIM)
    known = layer.input_layernorm(x)
    q = attention.q_norm(attention.q_proj(known[:, asks:]).view(shape)).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(known).view(shape)).transpose(1, 2)
    v = attention.v_proj(known).view(shape).transpose(1, 2)
    still_q, still_k = q, k
    with torch.autocast(x.device.type, enabled=False):
        cos, sin = (part[:, None].float() for part in rope)
        k = k.float() * cos + rotate_half(k.float()) * sin
        cos, sin = cos[:, :, asks:], sin[:, :, asks:]
        q = q.float() * cos + rotate_half(q.float()) * sin
    out = attend((q * HEAD_DIM**-0.5).to(v.dtype), k.to(v.dtype), v, bias)
    mixed = x[:, asks:] + attention.o_proj(out.transpose(1, 2).flatten(2))
    return Watched(q, k, still_q, still_k, known, mixed)
