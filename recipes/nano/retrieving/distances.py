"""How far events of drawn videos of 4K to 32K tokens lie apart, and cosines that tell the last of
several by it: `python -m recipes.nano.retrieving.distances` prints `relink.COSINES`.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from pipeline.needles import draw_coming_and_going
from pipeline.scenes import Track
from recipes.nano.shape import HEAD_DIM, ROPE_THETA

SEED = 7_000_000
FRAMES = ((12, 12), (144, 20))
"""Merged tokens of a pair and positions that it takes, its time included."""
LENGTHS = (8192, 16384, 32768, 32768)
TEXT = 8
"""Tokens of a pair's time. At two frames a second a pair is one second."""
OFF = 1.5
"""What scores are off by: heads were measured to be off by about 1."""
LARGEST, LEAST, MOST = 100.0, -40.0, 37.5
"""Scores that cosines may add up to, and between which they stay up to `FAR`: what is looked at
where there is no event scores 45, a thing 95."""
FAR = 20_000
STEPS, BATCH, RATE, PENALTY = 6000, 2000, 0.05, 0.002
NUMBERS = 13
"""The faster numbers of a head, of which any may be used: slower ones are things' own (`links`)."""


def draw_distances(scenes: int) -> Tensor:
    """(links, events) positions from a change back to the last opposite change of the same thing,
    then to those before it; endless where there are fewer."""
    rows: list[list[float]] = []
    kinds = list(itertools.product(FRAMES, LENGTHS))
    for number in range(scenes):
        (tokens, positions), length = kinds[number % len(kinds)]
        duration_s = length / (tokens + TEXT)
        scene = draw_coming_and_going(SEED + number, (256, 192), duration_s, 4, (0.1, 0.2))
        for track in scene.tracks:
            rows += _links(track, positions)
    table = torch.full((len(rows), max(map(len, rows))), torch.inf)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row)
    return table


def _links(track: Track, positions: int) -> list[list[float]]:
    comings, goings = np.floor(track.spans_s).T * positions
    goings += positions
    count = len(comings)
    rows = [goings[k] - comings[k::-1] for k in range(1, count)]
    rows += [comings[k] - goings[k - 1 :: -1] for k in range(2, count)]
    return [row.tolist() for row in rows]


def scores(sizes: Tensor, phases: Tensor, distances: Tensor) -> Tensor:
    """Sum of the cosines of a head's first numbers at these distances; far below where endless."""
    turns = ROPE_THETA ** -(torch.arange(len(sizes)) / (HEAD_DIM // 2))
    is_there = distances.isfinite()
    angles = torch.where(is_there, distances, 0.0)[..., None] * turns + phases
    return torch.where(is_there, (sizes * angles.cos()).sum(-1), -1e9)


def share_wrong(sizes: Tensor, phases: Tensor, distances: Tensor, off: float) -> float:
    """Of links, where every score is off by as much on average: another event scores more."""
    noise = torch.Generator().manual_seed(0)
    own = scores(sizes, phases, distances)
    said = own + off * torch.randn(20, *own.shape, generator=noise)
    return float((said.argmax(-1) > 0).float().mean())


def fit(distances: Tensor, off: float = OFF) -> tuple[Tensor, Tensor]:
    """Sizes and phases (`NUMBERS`,) with the fewest wrong links."""
    torch.manual_seed(0)
    waves = torch.ones(2, NUMBERS).requires_grad_()
    optimizer = torch.optim.Adam([waves], lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    everywhere = torch.logspace(1, np.log10(3 * FAR), 400)
    for _ in range(STEPS):
        sizes, phases = _bounded(waves)
        own = scores(sizes, phases, distances[torch.randint(len(distances), (BATCH,))])
        gaps = (own[:, :1] - own[:, 1:]) / (off * 2**0.5)
        loss = torch.special.ndtr(-gaps).sum(1).mean()
        all_of = scores(sizes, phases, everywhere)
        loss = loss + PENALTY * (all_of - MOST).clamp_min(0).square().mean()
        below = (LEAST - all_of).clamp_min(0) * (everywhere < FAR)
        loss = loss + PENALTY * below.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    sizes, phases = _bounded(waves.detach())
    return sizes, phases


def _bounded(waves: Tensor) -> tuple[Tensor, Tensor]:
    sizes = waves.square().sum(0).add(1e-9).sqrt()
    return sizes * (LARGEST / sizes.sum()).clamp_max(1), torch.atan2(waves[1], waves[0])


def main() -> None:
    distances = draw_distances(2400)
    sizes, phases = fit(distances)
    for number, (size, phase) in enumerate(zip(sizes.tolist(), phases.tolist(), strict=True)):
        if size > 0.3:
            print(f"    {number}: ({size:.2f}, {phase:.2f}),")
    for off in (1.0, 2.0, 4.0):
        print(f"off by {off:g}: {share_wrong(sizes, phases, distances, off):.4f} of links wrong")


if __name__ == "__main__":
    main()
