"""Pictures by the thousand: the same world as `pipeline.scenes`, drawn at the size it is seen and
many pairs at once, so that no picture is shown twice. Less true to files than `pictures`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.scenes import COLOURS, SHAPES

PALETTE = torch.tensor(list(COLOURS.values()), dtype=torch.float32)


def distance(shape: int, x: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """Pixels from the outline, negative inside."""
    name, radial = SHAPES[shape], torch.hypot(x, y)
    if name == "circle":
        return radial - r
    if name == "ring":
        width = torch.clamp_min(0.42 * r, 1.5)
        return (radial - (r - width / 2)).abs() - width / 2
    if name == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.88 * r
    if name == "triangle":
        side = (1.85 * x.abs() - (y + r)) / math.hypot(1.85, 1.0)
        return torch.maximum(side, y - 0.85 * r)
    if name == "cross":
        u, v = x.abs(), y.abs()
        bar = torch.maximum(u - r, v - 0.34 * r)
        return torch.minimum(bar, torch.maximum(u - 0.34 * r, v - r))
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (angle - sector * torch.round(angle / sector)).abs()
    u, v = radial * torch.cos(angle), radial * torch.sin(angle)
    # The edge from the tip to the notch beside it.
    notch = (0.44 * math.cos(sector / 2), 0.44 * math.sin(sector / 2))
    edge = (notch[0] - 1.1, notch[1])
    length = math.hypot(*edge)
    return ((u - 1.1 * r) * edge[1] - v * edge[0]) / length


def backgrounds(n: int, height: int, width: int, g: torch.Generator) -> Tensor:
    """(n, 2, 3, H, W): waves, stripes, cells and boxes between two dull colours."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=g) * (high - low) + low

    grey = uniform(45, 170, n, 2, 1)
    ends = (grey + uniform(-28, 28, n, 2, 3)).clamp(0, 255)
    y = torch.arange(height).view(1, 1, -1, 1) / height
    x = torch.arange(width).view(1, 1, 1, -1) / height
    drift = uniform(-0.05, 0.05, n, 1, 2) * torch.tensor([0.0, 1.0]).view(1, 2, 1)
    x, y = x + drift[..., 0, None, None], y + drift[..., 1, None, None]
    angle, phase = uniform(0, 6.28, n, 1, 1, 1), uniform(0, 6.28, n, 1, 1, 1)
    pitch = torch.exp(uniform(0, math.log(40), n, 1, 1, 1))
    wave = 0.5 + 0.5 * torch.sin(pitch * (x * angle.cos() + y * angle.sin()) + phase)
    a, b, c = (uniform(3, 9, n, 1, 1, 1) for _ in range(3))
    plasma = 0.5 + 0.25 * (torch.sin(a * x + phase) + torch.sin(b * y - phase + c * x))
    cells = torch.rand(n, 17 * 17, generator=g)
    spot = ((y * 9).floor() % 17 * 17 + (x * 9).floor() % 17).long().expand(n, 2, height, width)
    noise = cells.gather(1, spot.flatten(1)).view(n, 2, height, width)
    kind = torch.randint(4, (n, 1, 1, 1), generator=g)
    weight = torch.where(kind < 2, wave, torch.where(kind == 2, plasma, noise))[:, :, None]
    low, high = ends[:, None, 0, :, None, None], ends[:, None, 1, :, None, None]
    return low + (high - low) * weight
