"""Products with weights in bfloat16 on a CPU that has no such products.

Torch acts them out number by number there, at a seventh of the rate of float32 or less. So many
rows are multiplied in float32, with the weights widened slab by slab; a few rows, as in decoding,
are read faster as they lie.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

FEW_ROWS = 10
"""Up to here widening the weights takes longer than acting the products out."""
WIDENED = 1 << 21
"""Weights, and numbers of rows, that are widened at once: 8 MiB, which the C library keeps."""


@cache
def has_bfloat16_products() -> bool:
    """Whether this machine's CPU has them; one that torch tells nothing about is taken to."""
    told = torch.cpu.get_capabilities()
    if told.get("architecture") != "x86_64":
        return True
    return bool(told.get("avx512_bf16") or told.get("amx_bf16"))


def is_acted_out(x: Tensor) -> bool:
    """Whether products of `x` would be acted out."""
    on_cpu = x.device.type == "cpu" and x.dtype is torch.bfloat16
    return on_cpu and not has_bfloat16_products()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(…, inputs) → (…, outputs), as torch's, in the dtype of `x`."""
    if not is_acted_out(x) or x.numel() <= FEW_ROWS * x.shape[-1]:
        return F.linear(x, weight, bias)
    rows, inputs = x.reshape(-1, x.shape[-1]), x.shape[-1]
    out = x.new_empty(len(rows), len(weight))
    step = max(1, WIDENED // inputs)
    for of in (slice(at, at + step) for at in range(0, len(weight), step)):
        wide, more = weight[of].float(), None if bias is None else bias[of].float()
        for at in range(0, len(rows), step):
            tile = slice(at, at + step)
            out[tile, of] = F.linear(rows[tile].float(), wide, more)
    return out.view(*x.shape[:-1], -1)


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class _Experts(Qwen3VLMoeTextExperts):
    def forward(self, x: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
        """(n, hidden) rows, the experts (n, used) of each and what they count → (n, hidden)."""
        if not is_acted_out(x):
            mixed: Tensor = super().forward(x, experts, shares)
            return mixed
        by_expert = experts.flatten().argsort(stable=True)
        counts = experts.flatten().bincount(minlength=self.num_experts).tolist()
        out = x.new_empty(experts.numel(), x.shape[1])
        for expert, own in enumerate(torch.split(by_expert, counts)):
            if len(own):
                both = linear(x[own // experts.shape[1]], self.gate_up_proj[expert])
                gate, up = both.chunk(2, -1)
                out[own] = linear(self.act_fn(gate).mul_(up), self.down_proj[expert])
        return (out.view(*experts.shape, -1) * shares[..., None]).sum(1)


_OWN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: _Linear,
    Qwen3VLMoeTextExperts: _Experts,
}


def take_over(module: nn.Module) -> None:
    """Let all projections and experts of `module` multiply as `linear` does."""
    for part in module.modules():
        part.__class__ = _OWN.get(type(part), type(part))
