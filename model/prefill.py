"""TimedTokens → KV cache, and hidden states where somebody reads them.

Chunked equals unchunked: any slice, also through a frame, leaves the same cache and the same
logits. Several lanes (forks of one session) go through the layers as one batch; what they share is
attended once for all. The last layer computes only K and V for tokens that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from model.attention import attend
from model.joined import LayerWeights, norm
from model.kv_cache import KvCache
from model.segments import View
from model.timeline import TimedTokens, join_tokens
from model.weights import Weights


@dataclass(frozen=True, slots=True)
class LaneTokens:
    """Tokens that one lane takes, and how many of their last hidden states are read."""

    tokens: TimedTokens
    cache: KvCache
    read: int = 0


def run_tokens(weights: Weights, tokens: TimedTokens, cache: KvCache, read: int) -> Tensor:
    """Append `tokens` to one cache; returns the last `read` hidden states, (read, hidden), normed.

    With `read` 0 the last layer stops after its keys and values and nothing is returned.
    """
    return run_lanes(weights, [LaneTokens(tokens, cache, read)])


@torch.inference_mode()
def run_lanes(weights: Weights, lanes: Sequence[LaneTokens]) -> Tensor:
    """Append to several lanes in one forward; returns the hidden states that are read, normed:
    (sum of `read`, hidden), lane by lane. No two lanes may append to one cache."""
    text, tokens = weights.text, join_tokens([lane.tokens for lane in lanes])
    x = text.embed_tokens(tokens.ids.to(weights.device))
    if tokens.levels:
        x[tokens.visual.to(x.device)] = tokens.levels[0].to(x.device, x.dtype)
    rope = text.rotary_emb(x[None], tokens.positions[:, None].to(weights.device))
    everything = _every_row(lanes)
    ends = everything if all(lane.read == len(lane.tokens) for lane in lanes) else _read_rows(lanes)
    last = len(weights.layers) - 1
    for number, layer in enumerate(weights.layers):
        kept = ends if number == last else everything
        x = _run_layer(layer, number, x.to(weights.layer_devices[number]), rope, lanes, kept)
        if number + 1 < len(tokens.levels):
            _add_level(x, tokens, number + 1, kept)
    for lane in lanes:
        lane.cache.advance()
    return norm(text.norm, x.to(weights.last_device))


@dataclass(frozen=True, slots=True)
class _Rows:
    """Which rows of a batch go on: some of the last ones of every lane."""

    counts: tuple[int, ...]
    index: Tensor | None
    """Their numbers; None: every row."""


def _every_row(lanes: Sequence[LaneTokens]) -> _Rows:
    return _Rows(tuple(len(lane.tokens) for lane in lanes), None)


def _read_rows(lanes: Sequence[LaneTokens]) -> _Rows:
    ends = accumulate(len(lane.tokens) for lane in lanes)
    spans = [torch.arange(end - lane.read, end) for lane, end in zip(lanes, ends, strict=True)]
    return _Rows(tuple(lane.read for lane in lanes), torch.cat(spans))


def _add_level(x: Tensor, tokens: TimedTokens, level: int, kept: _Rows) -> None:
    """DeepStack: one more level of the visual tokens' features, to the rows that go on."""
    features = tokens.levels[level].to(x.device, x.dtype)
    visual = tokens.visual
    if kept.index is not None:
        shown = visual[kept.index]
        features = features[(visual.cumsum(0) - 1)[kept.index][shown].to(x.device)]
        visual = shown
    x[visual.to(x.device)] += features


def _run_layer(
    layer: LayerWeights,
    number: int,
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    lanes: Sequence[LaneTokens],
    kept: _Rows,
) -> Tensor:
    """One decoder layer over (n, hidden); returns the rows that go on."""
    attention, dim = layer.layer.self_attn, layer.head_dim
    cos, sin = (table.to(x.device) for table in rope)
    normed = norm(layer.layer.input_layernorm, x)
    asking: Tensor | None = None
    if kept.index is None:
        keys, values, asking = layer.keys_values_queries(normed)
    else:
        keys, values = layer.keys_values(normed)
    k = _rotate(norm(attention.k_norm, _heads(keys, dim)), cos, sin)[0]
    v = _heads(values, dim)[0]
    at = 0
    for lane in lanes:
        stop = at + len(lane.tokens)
        lane.cache.append(number, k[:, at:stop], v[:, at:stop])
        at = stop
    if kept.index is not None:
        index = kept.index.to(x.device)
        x, normed, cos, sin = x[index], normed[index], cos[:, index], sin[:, index]
    if len(x) == 0:
        return x
    asking = layer.queries(normed) if asking is None else asking
    q = _rotate(norm(attention.q_norm, _heads(asking, dim)), cos, sin)[0]
    views = list(_views(number, lanes, kept))
    x = x + attention.o_proj(attend(q, views, k.shape[0], layer.scaling))
    return layer.feed_forward(x)


def _heads(projected: Tensor, dim: int) -> Tensor:
    """(n, heads × dim) → (1, heads, n, dim)."""
    return projected.view(1, len(projected), -1, dim).transpose(1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), -1)
    return x * cos[:, None] + turned * sin[:, None]


def _views(layer: int, lanes: Sequence[LaneTokens], kept: _Rows) -> Iterator[View]:
    """What the rows look at, the oldest first. Lanes side by side that share a cache look at it
    together; each sees its own tokens up to its own place."""
    ends = list(accumulate(kept.counts))
    spans = list(zip([0, *ends], ends, lanes))  # noqa: B905 - one start too many
    chains = [lane.cache.chain for lane in lanes]
    for depth in range(max(map(len, chains))):
        owners = [chain[depth] if depth < len(chain) else None for chain in chains]
        for _, run in groupby(range(len(lanes)), key=lambda n: id(owners[n])):
            mine = list(run)
            cache, (start, _, lane), stop = owners[mine[0]], spans[mine[0]], spans[mine[-1]][1]
            if cache is None or start == stop:
                continue
            limit = None
            if cache is lane.cache:
                limit = cache.own_tokens + len(lane.tokens) - (stop - start) + 1
            for segment in cache.segments(layer):
                yield View(start, stop, segment, limit)
                limit = None if limit is None else limit - segment.count
