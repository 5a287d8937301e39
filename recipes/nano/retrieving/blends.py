"""Step 2: what is read from several right times at once. A code shows in some pairs one behind the
other, and the last layer's heads share their attention among them as it happens: of 49.1 and 50.1
s, read half and half, 66 was said. Lessons hold few such shares, so answers are shown them drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.retrieving.batch import SHUT, Lesson
from recipes.nano.retrieving.decoder import Watched
from recipes.nano.retrieving.lessons import HEADS_OF
from recipes.nano.retrieving.sheet import LETTERS, NOTHING
from recipes.nano.shape import HEAD_DIM, HEADS

DRAWS = 8
"""Blends of each answer's token that the places of its code tell differently; of each two pairs
that are near one another, whatever they show, there is one."""
WIDEST = 3.0
"""Most that the logarithm of a share scatters: from all alike to one that has nearly all."""
TOGETHER_ODDS = 0.5
"""Of heads that share alike; else each shares in its own way."""


@dataclass(frozen=True, slots=True)
class Blends:
    """Drawn shares of places that tell an answer's token."""

    of: Tensor
    """(blends,) which sequence."""
    row: Tensor
    """(blends,) column whose token is answered."""
    at: Tensor
    """(parts,) blend that each is a part of."""
    column: Tensor
    """(parts,) place that is read."""
    token: Tensor
    """(parts,) what it tells."""
    shares: Tensor
    """(parts, heads that read times), of each blend 1 in all."""


def draw_blends(rng: np.random.Generator, lesson: Lesson) -> Blends:
    """Blends of `lesson.reads` and `lesson.nears`."""
    pairs, own = torch.unique(lesson.reads[:, :2], dim=0, return_inverse=True)
    reads, nears = len(pairs) * DRAWS, len(lesson.nears)
    count = reads + nears
    pairs = torch.cat([pairs.repeat(DRAWS, 1), lesson.nears[:, :2]])
    at = torch.cat(
        [
            *(own + k * (reads // DRAWS) for k in range(DRAWS)),
            torch.arange(reads, count).repeat_interleave(2),
        ]
    )
    told = torch.cat([lesson.reads[:, 2:].repeat(DRAWS, 1), lesson.nears[:, 2:].reshape(-1, 2)])
    logs = rng.normal(0, 1, (len(at), len(HEADS_OF[LETTERS])))
    is_together = rng.uniform(size=count) < TOGETHER_ODDS
    logs = np.where(is_together[at][:, None], logs[:, :1], logs)
    logs *= rng.uniform(0, WIDEST, count)[at][:, None]
    shares = torch.from_numpy(np.exp(logs).astype("f4"))
    total = shares.new_zeros(count, shares.shape[1]).index_add(0, at, shares)
    return Blends(pairs[:, 0], pairs[:, 1], at, told[:, 0], told[:, 1], shares / total[at])


def blend_loss(
    model: Qwen3VLForConditionalGeneration,
    before: Tensor,
    last: Watched,
    blends: Blends,
) -> tuple[Tensor, Tensor]:
    """−log of the share that an answer's right tokens get, the mean of blends, of which there must
    be one, and how many of them are said right; `before` (B, N, hidden) is what the last layer
    begins with."""
    text = model.model.language_model
    layer, attention = text.layers[-1], text.layers[-1].self_attn
    heads, known = list(HEADS_OF[LETTERS]), last.known
    # The other heads look at nothing, as they are told to.
    out = attention.v_proj(known[blends.of, NOTHING]).view(-1, HEADS, HEAD_DIM)
    value = attention.v_proj(known[blends.of[blends.at], blends.column]).view(-1, HEADS, HEAD_DIM)
    parts = value[:, heads] * blends.shares[..., None]
    read = parts.new_zeros(len(blends.of), len(heads), HEAD_DIM).index_add(0, blends.at, parts)
    out = out.index_copy(1, torch.tensor(heads, device=out.device), read)
    mixed = before[blends.of, blends.row] + attention.o_proj(out.flatten(1))
    states = text.norm(mixed + layer.mlp(layer.post_attention_layernorm(mixed)))
    logits = F.linear(states, text.embed_tokens.weight)
    is_right = torch.zeros_like(logits, dtype=torch.bool)
    is_right[blends.at, blends.token] = True
    said = logits.detach().argmax(-1, keepdim=True)
    return missed(logits, is_right).mean(), is_right.gather(1, said).float().mean()


def missed(logits: Tensor, is_right: Tensor) -> Tensor:
    """(rows,) −log of the share that the right ones of all words get, together."""
    return logits.logsumexp(-1) - logits.masked_fill(~is_right, SHUT).logsumexp(-1)
