"""Step 3: learn to see. The vision tower alone learns to name what is in a patch pair, through a
linear probe that is thrown away; then the features of all pictures are kept for the next step.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.nano.codes import CODE_NORM, class_codes
from recipes.nano.network import encode_pairs, new_model, patchify
from recipes.nano.pictures import CAST_SIZE, CLASSES, Cast, draw_casts
from recipes.nano.shape import DEEPSTACK, HIDDEN, RUNS


class NamingProbe(nn.Module):
    """Names at each merged token. The main level speaks in the fixed codes; the DeepStack levels
    have heads of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", class_codes() / CODE_NORM**2)
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.deep = nn.ModuleList(nn.Linear(HIDDEN, len(CLASSES)) for _ in DEEPSTACK)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Per level: (pairs, tokens, classes) logits."""
        main = features[0] @ torch.as_tensor(self.codes).T * self.scale + self.bias
        return [main, *(head(f) for head, f in zip(self.deep, features[1:], strict=True))]


@dataclass(frozen=True, slots=True)
class _Draw:
    pixels: Tensor
    labels: Tensor
    """(pairs, tokens, classes) float: things at the token that holds their centre."""
    grid: tuple[int, int]


def _labels(cast: Cast, subsets: npt.NDArray[np.int64], variants: npt.NDArray[np.int64]) -> Tensor:
    labels = torch.zeros(len(subsets), cast.grid[0] * cast.grid[1], len(CLASSES))
    places = cast.places[subsets, variants]
    for member, number in enumerate(cast.classes):
        shown = np.flatnonzero(places[:, member] >= 0)
        labels[shown, places[shown, member], number] = 1
    return labels


def _draw(rng: np.random.Generator, by_grid: dict[tuple[int, int], list[Cast]], size: int) -> _Draw:
    grids = list(by_grid)
    odds = np.asarray([len(by_grid[grid]) for grid in grids], dtype=float)
    grid = grids[int(rng.choice(len(grids), p=odds / odds.sum()))]
    pairs, labels = [], []
    for _ in range(16):
        cast = by_grid[grid][int(rng.integers(len(by_grid[grid])))]
        subsets = rng.integers(0, 1 << CAST_SIZE, size // 16)
        variants = rng.integers(0, cast.pairs.shape[1], size // 16)
        pairs.append(cast.pairs[subsets, variants])
        labels.append(_labels(cast, subsets, variants))
    stack, wanted = np.concatenate(pairs), torch.cat(labels)
    if rng.uniform() < 0.5:
        stack = stack[:, :, :, ::-1].copy()
        wanted = wanted.reshape(len(stack), *grid, -1).flip(2).flatten(1, 2)
    if rng.uniform() < 0.5:  # Time runs either way.
        stack = stack[:, ::-1].copy()
    return _Draw(patchify(stack), wanted, grid)


def naming_loss(levels: list[Tensor], labels: Tensor) -> Tensor:
    """Where and what, per pair: present anywhere (main level), and at its place (all levels)."""
    anywhere = F.binary_cross_entropy_with_logits(
        torch.logsumexp(levels[0], 1), labels.amax(1), reduction="none"
    )
    loss = anywhere.sum(-1).mean()
    for level, weight in zip(levels, (0.5, 0.1, 0.2), strict=True):
        placed = F.binary_cross_entropy_with_logits(level, labels, reduction="none")
        loss = loss + weight * placed.sum((-1, -2)).mean()
    return loss


def train(options: argparse.Namespace, casts: list[Cast]) -> nn.Module:
    """Learn to name; returns the whole model with its vision tower trained."""
    model, probe = new_model(options.seed), NamingProbe()
    params = [*model.model.visual.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(params, lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.steps, pct_start=0.08
    )
    by_grid: dict[tuple[int, int], list[Cast]] = {}
    for cast in casts:
        by_grid.setdefault(cast.grid, []).append(cast)
    rng, started = np.random.default_rng(options.seed), time.monotonic()
    mean_right = mean_loss = 0.0
    for step in range(options.steps):
        draw = _draw(rng, by_grid, options.batch)
        levels = probe(encode_pairs(model, draw.pixels, draw.grid))
        loss = naming_loss(levels, draw.labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        schedule.step()
        named = torch.logsumexp(levels[0].detach(), 1) > 0
        right = (named == (draw.labels.amax(1) > 0.5)).all(1).float().mean()
        mean_right = 0.95 * mean_right + 0.05 * float(right)
        mean_loss = 0.95 * mean_loss + 0.05 * float(loss.detach())
        if step % 50 == 49:
            spent = time.monotonic() - started
            print(
                f"step {step + 1} loss {mean_loss:.3f} pairs named {mean_right:.3f} {spent:.0f} s",
                flush=True,
            )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--casts", type=int, default=500)
    parser.add_argument("--variants", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = time.monotonic()
    casts = draw_casts(0, options.casts, options.variants, processes=2)
    print(f"drew {len(casts)} casts in {time.monotonic() - started:.0f} s", flush=True)
    model = train(options, casts)
    RUNS.mkdir(exist_ok=True)
    torch.save(model.state_dict(), RUNS / "vision.pt")
    torch.save(
        [
            (cast.classes, cast.grid, [level.half() for level in _features(model, cast)])
            for cast in casts
        ],
        RUNS / "features.pt",
    )


@torch.no_grad()
def _features(model: nn.Module, cast: Cast) -> list[Tensor]:
    """(subset, variant, tokens, hidden) for each level."""
    shape = cast.pairs.shape
    pixels = patchify(cast.pairs.reshape(-1, *shape[2:]))
    levels = encode_pairs(model, pixels, cast.grid)  # type: ignore[arg-type]
    return [level.reshape(*shape[:2], *level.shape[1:]) for level in levels]



if __name__ == "__main__":
    main()
