"""Pictures by the thousand: the same world as `pipeline.scenes`, drawn at the size it is seen and
many pairs at once, so that no picture is shown twice. Less true to files than `pictures`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.scenes import COLOURS, SHAPES
from recipes.nano.shape import TOKEN_PX

PALETTE = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
MOST = 4
"""Things in a picture."""


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


def clutter(image: Tensor, g: torch.Generator) -> None:
    n, _, _, height, width = image.shape
    for i in range(0, n, 3):
        for _ in range(8):
            box = torch.rand(4, generator=g)
            top, left = int(box[0] * height), int(box[1] * width)
            tall, wide = 1 + int(box[2] * height * 0.25), 1 + int(box[3] * height * 0.25)
            grey = 45 + 125 * torch.rand(1, generator=g)
            colour = (grey + 56 * torch.rand(3, generator=g) - 28).clamp(0, 255)
            image[i, :, :, top : top + tall, left : left + wide] = colour.view(1, 3, 1, 1)


def draw_pairs(n: int, grid: tuple[int, int], g: torch.Generator) -> tuple[Tensor, Tensor]:
    """(n, 2, H, W, 3) uint8 and (n, tokens, classes) float: things at the token of their centre."""
    height, width = grid[0] * TOKEN_PX, grid[1] * TOKEN_PX
    image = backgrounds(n, height, width, g)
    clutter(image, g)
    labels = torch.zeros(n, grid[0] * grid[1], len(COLOURS) * len(SHAPES))
    stretch = 1 + 0.2 * (torch.rand(n, generator=g) - 0.5)
    for place in range(MOST):
        _add_things(image, labels, place, stretch, grid, g)
    return spoil(image, g).permute(0, 1, 3, 4, 2), labels


def _add_things(
    image: Tensor,
    labels: Tensor,
    place: int,
    stretch: Tensor,
    grid: tuple[int, int],
    g: torch.Generator,
) -> None:
    n, _, _, height, width = image.shape
    rand = torch.rand(n, 12, generator=g)
    there = rand[:, 0] < (0.5 if place < 3 else 0.35)
    u = 0.5 * (place % 2) + 0.08 + 0.34 * rand[:, 1]
    v = 0.5 * (place // 2) + 0.08 + 0.34 * rand[:, 2]
    size = (0.115 + 0.09 * rand[:, 3]) * height
    move = (rand[:, 4:6] - 0.5) * 0.12
    one_frame = torch.where(rand[:, 6] < 0.1, (rand[:, 7] * 2).long(), torch.tensor(-1))
    colour, shape = (rand[:, 8] * 6).long(), (rand[:, 9] * 6).long()
    y = torch.arange(height).view(1, 1, -1, 1)
    x = torch.arange(width).view(1, 1, 1, -1)
    for kind in range(len(SHAPES)):
        own = torch.nonzero(there & (shape == kind))[:, 0]
        if not len(own):
            continue
        time = torch.tensor([-0.5, 0.5]).view(1, 2)
        cx = (u[own, None] * width + move[own, :1] * height * time)[..., None, None]
        cy = (v[own, None] * height + move[own, 1:] * height * time)[..., None, None]
        r = size[own].view(-1, 1, 1, 1)
        wide = stretch[own].view(-1, 1, 1, 1)
        alpha = (0.5 - distance(kind, (x - cx) * wide, y - cy, r)).clamp(0, 1)
        for frame in (0, 1):
            alpha[one_frame[own] == 1 - frame, frame] = 0
        tint = PALETTE[colour[own]] + 6 * torch.randn(len(own), 3, generator=g)
        alpha = alpha[:, :, None]
        image[own] = image[own] * (1 - alpha) + tint[:, None, :, None, None] * alpha
        row = (v[own] * grid[0]).long().clamp(0, grid[0] - 1)
        col = (u[own] * grid[1]).long().clamp(0, grid[1] - 1)
        labels[own, row * grid[1] + col, colour[own] * len(SHAPES) + kind] = 1


def spoil(image: Tensor, g: torch.Generator) -> Tensor:
    """What files do: blur, poorer colour than light, noise; (n, 2, 3, H, W) → uint8."""
    n = len(image)
    flat = image.flatten(0, 1)
    soft = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = (
        (torch.rand(n, generator=g).view(n, 1, 1, 1, 1) * 0.9).expand(n, 2, 1, 1, 1).flatten(0, 1)
    )
    flat = flat + (soft - flat) * amount
    light = flat.mean(1, keepdim=True)
    tint = flat - light
    poor = F.interpolate(F.avg_pool2d(tint, 2), scale_factor=2.0, mode="bilinear")
    keep = (torch.rand(n, 1, 1, 1, 1, generator=g)).expand(n, 2, 1, 1, 1).flatten(0, 1)
    flat = light + tint * keep + poor * (1 - keep)
    grain = torch.rand(n, 1, 1, 1, 1, generator=g).expand(n, 2, 1, 1, 1).flatten(0, 1) * 7
    flat = flat + grain * torch.randn(flat[:, :1].shape, generator=g)
    gain = 1 + 0.12 * (
        torch.rand(n, 1, 1, 1, 1, generator=g).expand(n, 2, 1, 1, 1).flatten(0, 1) - 0.5
    )
    spoilt: Tensor = (flat * gain).clamp(0, 255).to(torch.uint8)
    return spoilt.reshape(image.shape)
