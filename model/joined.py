"""Projections that read the same rows, joined: one product where a layer has three, or two.

A decoded token spends as long on starting a product as on doing it. The library's modules stay as
they are: their weights become views of the joined ones, so no number is held twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        return F.linear(x, self.weight, self.bias)


class LayerWeights:
    """One decoder layer: the library's module, its joined projections, and where it lies."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.layer = layer
        self.head_dim: int = attention.head_dim
        self.scaling: float = attention.scaling
        self.kv_size: int = attention.k_proj.out_features
        """Outputs of the keys, and again of the values."""
        self.kvq = Joined.of(attention.k_proj, attention.v_proj, attention.q_proj)
        self.kv = self.kvq.first(2 * self.kv_size)
        # A mixture of experts has no such pair.
        self._gate_up = Joined.of(mlp.gate_proj, mlp.up_proj) if hasattr(mlp, "up_proj") else None

    def feed_forward(self, x: Tensor) -> Tensor:
        """(n, hidden) → (n, hidden), normed before and added after."""
        layer = self.layer
        normed = norm(layer.post_attention_layernorm, x)
        if self._gate_up is None:
            mixed: Tensor = layer.mlp(normed[None])[0]
        else:
            gate, up = self._gate_up(normed).chunk(2, -1)
            mixed = layer.mlp.down_proj(layer.mlp.act_fn(gate) * up)
        return x + mixed


def norm(module: Any, x: Tensor) -> Tensor:
    """What the library's RMS norm does, in one call; the last dimension is normed."""
    return F.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
