"""Step 2: what stands far away. Heads of the first layer find what stands a few tokens before by
numbers that turn, and what stands some thousand positions before may look alike: of a video's
thousands of pairs every one is at a distance of its own, of a lesson's few hardly any. So these
heads are shown keys of the lesson at distances drawn anew in every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

from model.running import LOG2_E
from recipes.nano.retrieving.batch import Lesson, Looks
from recipes.nano.retrieving.decoder import Watched
from recipes.nano.retrieving.looks import log_sums
from recipes.nano.shape import FAR, HEAD_DIM

LAYER = 0
KEYS, ROWS = 4096, 192
"""Shown to a head, and rows of it that they are shown to, in one step."""
NEAREST = 30
"""Positions back; lessons have nearer ones."""
COUNT = 16.0
"""What each key stands for: half of them for 33,000 words, where a million tokens hold 56,000."""


@dataclass(frozen=True, slots=True)
class FarKeys:
    """Tokens of a lesson, put far before whatever looks."""

    of: Tensor
    """(keys,) which sequence."""
    at: Tensor
    back: Tensor
    """(keys,) positions from the token that looks back to it."""
    rows: tuple[Tensor, ...]
    """Of each look of `LAYER`, the rows that are shown these."""


def draw_far(rng: np.random.Generator, lesson: Lesson) -> FarKeys:
    """Half of the keys are words, half any token of the video; of half the distances the logarithm
    is even, so that near ones are drawn as often, of the other half the distance itself."""
    is_video = lesson.bias.owner >= 0
    words, tokens = (is_video & ~lesson.visual).nonzero(), is_video.nonzero()
    half = KEYS // 2
    picked = torch.cat([own[_drawn(rng, len(own), half)] for own in (words, tokens)])
    near = np.exp(rng.uniform(np.log(NEAREST), np.log(FAR), half))
    back = rng.permutation(np.concatenate([near, rng.uniform(NEAREST, FAR, half)]))
    own_looks = [look for look in lesson.looks if look.layer == LAYER]
    rows = tuple(_drawn(rng, len(look.of), ROWS) for look in own_looks)
    return FarKeys(picked[:, 0], picked[:, 1], torch.from_numpy(back.astype(np.int64)), rows)


def _drawn(rng: np.random.Generator, of: int, count: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, of, count))


def far_losses(
    model: Qwen3VLForConditionalGeneration,
    watched: Watched,
    lesson: Lesson,
    far: FarKeys,
    margin: float = 0.0,
) -> dict[str, Tensor]:
    """−log of the share of where each head should look against all far keys, the mean of its rows;
    that place scores `margin` less than it does."""
    keys = turned(model, lesson, watched.still_k[far.of, :, far.at], far.of, far.at, -far.back)
    # Taken apart once: the gradient of each single selection would fill all of it.
    apart = keys.unbind(1)
    looks = [look for look in lesson.looks if look.layer == LAYER]
    losses = {}
    for look, rows in zip(looks, far.rows, strict=True):
        of, at = look.of[rows], look.at[rows]
        query = turned(model, lesson, watched.still_q[of, look.head, at], of, at)
        others = log_sum_exp(query * HEAD_DIM**-0.5 @ apart[look.head].mT)
        own = own_scores(watched, look, rows)
        missed = F.softplus(others + float(np.log(COUNT)) + margin - own)
        losses[f"far{look.head}"] = missed.mean()
    return losses


def log_sum_exp(scores: Tensor) -> Tensor:
    """As torch's along the last dimension, by exponentials to base two, forwards and backwards:
    those to base e take several times as long on a CPU where results are next to nothing."""
    peak = scores.detach().amax(-1, keepdim=True)
    sums = (scores - peak).mul(LOG2_E).exp2().sum(-1)
    return sums.log() + peak.squeeze(-1)


def turned(
    model: Qwen3VLForConditionalGeneration,
    lesson: Lesson,
    x: Tensor,
    of: Tensor,
    at: Tensor,
    shift: Tensor | int = 0,
) -> Tensor:
    """(n, …, head_dim) queries or keys of these tokens, turned by where they stand against the
    first number of their position, `shift` positions behind."""
    own = lesson.positions[:, of, at]
    cos, sin = model.model.language_model.rotary_emb(x.float(), (own - own[:1] + shift)[:, None])
    cos, sin = (part[0].view(len(x), *[1] * (x.ndim - 2), -1) for part in (cos, sin))
    out: Tensor = x.float() * cos + rotate_half(x.float()) * sin
    return out


def own_scores(watched: Watched, look: Looks, rows: Tensor) -> Tensor:
    """(rows,) logarithm of the sum over where each should look."""
    row, column = look.wanted
    place = torch.full((len(look.of),), -1, device=row.device)
    place[rows] = torch.arange(len(rows), device=row.device)
    is_picked = place[row] >= 0
    row, column = row[is_picked], column[is_picked]
    of = look.of[row]
    query, key = watched.q[of, look.head, look.at[row]], watched.k[of, look.head, column]
    scores = (query.float() * key.float()).sum(-1) * HEAD_DIM**-0.5
    return log_sums(scores, row, len(look.of))[rows]
