"""torch's Muon, its matrices of one shape made even at once and in float32: torch takes one after
the other in bfloat16, which was more than half of a step on a CPU without such products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Muon):
    """As `torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"` and Nesterov's momentum."""

    def __init__(
        self, params: Iterable[Tensor], lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            adjust_lr_fn="match_rms_adamw",
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            lr, decay = group["lr"], 1 - group["lr"] * group["weight_decay"]
            params: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            for shape, own in groupby(sorted(params, key=_shape), key=_shape):
                alike = [*own]
                updates = _even(self._momenta(alike, group["momentum"]), group)
                scale = -0.2 * lr * max(shape) ** 0.5
                for param, update in zip(alike, updates, strict=True):
                    param.mul_(decay).add_(update, alpha=scale)

    def _momenta(self, params: list[Tensor], momentum: float) -> Tensor:
        """(params, rows, columns) of one shape."""
        grads = torch.stack([_grad(p).float() for p in params])
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
        buffers = [self.state[param]["momentum_buffer"] for param in params]
        torch._foreach_lerp_(buffers, list(grads.unbind()), 1 - momentum)
        return grads.lerp_(torch.stack(buffers), momentum)


def _shape(param: Tensor) -> tuple[int, ...]:
    return tuple(param.shape)


def _grad(param: Tensor) -> Tensor:
    assert param.grad is not None
    return param.grad


def _even(x: Tensor, settings: dict[str, Any]) -> Tensor:
    """(n, rows, columns) with all singular values near one: Newton–Schulz, as torch has it."""
    a, b, c = settings["ns_coefficients"]
    if is_tall := x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(settings["eps"])
    for _ in range(settings["ns_steps"]):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
