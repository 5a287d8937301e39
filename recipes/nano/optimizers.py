"""Muon for the matrices inside layers, AdamW for the rest, behind one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recipes.nano.muon import Muon

Slopes = tuple[Tensor | None, ...]


class Optimizers:
    """One optimiser of two; Muon's even steps bear a larger learning rate than AdamW's."""

    def __init__(self, matrices: list[nn.Parameter], rest: list[nn.Parameter], lr: float) -> None:
        self._params = [*matrices, *rest]
        self._both: list[torch.optim.Optimizer] = [
            Muon(matrices, lr=lr, weight_decay=0.01, momentum=0.95),
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01),
        ]

    def set_lr(self, lr: float) -> None:
        for optimizer, factor in zip(self._both, (2.5, 1.0), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = lr * factor

    def slopes(self, loss: Tensor) -> Slopes:
        """Backward pass: of each parameter, None where the loss does not depend on it. Threads may
        do it side by side."""
        learnt = [param for param in self._params if param.requires_grad]
        own = iter(torch.autograd.grad(loss, learnt, allow_unused=True))
        return tuple(next(own) if param.requires_grad else None for param in self._params)

    def step(self, loss: Tensor) -> None:
        """Backward pass, clipping, update."""
        self.follow([self.slopes(loss)])

    def follow(self, of_parts: Sequence[Slopes]) -> None:
        """Clipping and update, by the mean of the slopes of several losses."""
        for param, *own in zip(self._params, *of_parts, strict=True):
            known = [slope for slope in own if slope is not None]
            param.grad = sum(known[1:], known[0]) / len(own) if known else None
        nn.utils.clip_grad_norm_(self._params, 1.0)
        for optimizer in self._both:
            optimizer.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._both]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._both, states, strict=True):
            optimizer.load_state_dict(state)
