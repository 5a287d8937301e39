"""Muon for the matrices inside layers, AdamW for the rest, behind one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Optimizers:
    """One optimiser of two; Muon's even steps bear a larger learning rate than AdamW's."""

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], lr: float) -> None:
        self._params = [*matrices, *rest]
        self._both: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                matrices, lr=lr, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]

    def set_lr(self, lr: float) -> None:
        for optimizer, factor in zip(self._both, (2.5, 1.0), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def step(self, loss: Tensor) -> None:
        """Backward pass, clipping, update."""
        for param in self._params:
            param.grad = None
        loss.backward()
        nn.utils.clip_grad_norm_(self._params, 1.0)
        for optimizer in self._both:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._both]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._both, states, strict=True):
            optimizer.load_state_dict(state)
