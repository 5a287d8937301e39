"""Projections that read the same rows, joined: one product where a layer has three, or two.

A decoded token spends as long on starting a product as on doing it. The library's modules stay as
they are: their weights become views of the joined ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.products import linear

JOINED_BYTES = 4 * 1024**2
"""Largest weights that are joined; reading these takes a tenth of a millisecond."""


@dataclass(frozen=True, slots=True)
class Joined:
    """Weights (sum of outputs, inputs) of several projections, and their biases where they have."""

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(*projections: nn.Linear) -> Joined:
        """Join them; each becomes a view of its rows."""
        weight = torch.cat([p.weight for p in projections])
        biases: list[Tensor] = [p.bias for p in projections if p.bias is not None]
        at = 0
        for projection in projections:
            stop = at + projection.out_features
            projection.weight = nn.Parameter(weight[at:stop], requires_grad=False)
            at = stop
        return Joined(weight, torch.cat(biases) if biases else None)

    def first(self, outputs: int) -> Joined:
        """Its first outputs alone."""
        return Joined(self.weight[:outputs], None if self.bias is None else self.bias[:outputs])

    def __call__(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n, sum of outputs)."""
        return linear(x, self.weight, self.bias)


class LayerWeights:
    """One decoder layer: the library's module with its small projections joined."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer = layer
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self._kv_size: int = attention.k_proj.out_features
        self._kvq = _join(attention.k_proj, attention.v_proj, attention.q_proj)
        self._kv = self._kvq.first(2 * self._kv_size) if self._kvq else None
        # A mixture of experts has no such pair.
        self._gate_up = _join(mlp.gate_proj, mlp.up_proj) if hasattr(mlp, "up_proj") else None

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(n, hidden) → keys and values, each (n, kv heads × head_dim)."""
        if self._kv is None:
            return self.layer.self_attn.k_proj(x), self.layer.self_attn.v_proj(x)
        both = self._kv(x)
        return both[:, : self._kv_size], both[:, self._kv_size :]

    def queries(self, x: Tensor) -> Tensor:
        """(n, hidden) → (n, heads × head_dim)."""
        projected: Tensor = self.layer.self_attn.q_proj(x)
        return projected

    def keys_values_queries(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All three of the same rows."""
        if self._kvq is None:
            return *self.keys_values(x), self.queries(x)
        size, all_ = self._kv_size, self._kvq(x)
        return all_[:, :size], all_[:, size : 2 * size], all_[:, 2 * size :]

    def feed_forward(self, x: Tensor) -> Tensor:
        """(n, hidden) → (n, hidden), normed before and added after."""
        mlp, normed = self.layer.mlp, norm(self.layer.post_attention_layernorm, x)
        if self._gate_up is None:
            mixed: Tensor = mlp(normed[None])[0]
        else:
            gate, up = self._gate_up(normed).chunk(2, -1)
            mixed = mlp.down_proj(mlp.act_fn(gate).mul_(up))
        return x + mixed


def _join(*projections: nn.Linear) -> Joined | None:
    """Joined, where starting a product costs as much as doing it; None where they are large: their
    weights lie in the checkpoint's own pages, which a joined copy would double."""
    size = sum(p.weight.nbytes for p in projections)
    return Joined.of(*projections) if size <= JOINED_BYTES else None


def norm(module: Any, x: Tensor) -> Tensor:
    """What the library's RMS norm does, in one call; the last dimension is normed."""
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
