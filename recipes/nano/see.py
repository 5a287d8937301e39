"""Step 3: learn to see. The vision tower alone learns to name what is in a patch pair, on quick
pictures without end and kept pictures that went through files, and is tried on casts it never met.
"""

from __future__ import annotations

import argparse
import pickle
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.codes import CODE_NORM, class_codes
from recipes.nano.network import encode_pairs, in_bfloat16, new_model, patchify
from recipes.nano.optimizers import Optimizers
from recipes.nano.pictures import CAST_SIZE, CLASSES, GRID_ODDS, GRIDS, Cast
from recipes.nano.quick import draw_pairs
from recipes.nano.shape import DEEPSTACK, HIDDEN, RUNS

Draw = tuple[Tensor, Tensor, tuple[int, int]]


class NamingProbe(nn.Module):
    """Names at each merged token. The main level speaks in the fixed codes; the DeepStack levels
    have heads of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", class_codes() / CODE_NORM**2)
        self.scale = nn.Parameter(torch.tensor(12.0))
        self.bias = nn.Parameter(torch.tensor(-6.0))
        self.deep = nn.ModuleList(nn.Linear(HIDDEN, len(CLASSES)) for _ in DEEPSTACK)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Per level: (pairs, tokens, classes) logits."""
        main = features[0] @ torch.as_tensor(self.codes).T * self.scale + self.bias
        return [main, *(head(f) for head, f in zip(self.deep, features[1:], strict=True))]


def cast_labels(
    cast: Cast, subsets: npt.NDArray[np.int64], variants: npt.NDArray[np.int64]
) -> Tensor:
    """(pairs, tokens, classes) float: things at the token that holds their centre."""
    labels = torch.zeros(len(subsets), cast.grid[0] * cast.grid[1], len(CLASSES))
    places = cast.places[subsets, variants]
    for member, number in enumerate(cast.classes):
        shown = np.flatnonzero(places[:, member] >= 0)
        labels[shown, places[shown, member], number] = 1
    return labels


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


def load_casts(paths: list[Path]) -> list[Cast]:
    """Casts that `bank` kept."""
    casts: list[Cast] = []
    for path in paths:
        with path.open("rb") as file:
            casts += pickle.load(file)
    return casts


def kept_draw(rng: np.random.Generator, casts: list[Cast], size: int) -> Draw:
    """A batch of kept pictures of one grid, mirrored and reversed at random."""
    grid = casts[int(rng.integers(len(casts)))].grid
    same = [cast for cast in casts if cast.grid == grid]
    pairs, labels = [], []
    for _ in range(12):
        cast = same[int(rng.integers(len(same)))]
        subsets = rng.integers(0, 1 << CAST_SIZE, size // 12)
        variants = rng.integers(0, cast.pairs.shape[1], size // 12)
        pairs.append(cast.pairs[subsets, variants])
        labels.append(cast_labels(cast, subsets, variants))
    stack, wanted = np.concatenate(pairs), torch.cat(labels)
    if rng.uniform() < 0.5:
        stack = stack[:, :, :, ::-1].copy()
        wanted = wanted.reshape(len(stack), *grid, -1).flip(2).flatten(1, 2)
    if rng.uniform() < 0.5:  # Time runs either way.
        stack = stack[:, ::-1].copy()
    return patchify(stack), wanted, grid


def quick_draw(rng: np.random.Generator, size: int) -> Draw:
    """A batch of new pictures of one grid."""
    grid = GRIDS[int(rng.choice(len(GRIDS), p=GRID_ODDS))]
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    pairs, labels = draw_pairs(size, grid, generator)
    return patchify(pairs.numpy()), labels, grid


@torch.no_grad()
def try_out(
    model: Qwen3VLForConditionalGeneration, probe: NamingProbe, casts: list[Cast]
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """On unseen casts, per grid: share of pairs named without fault, of things missed, and false
    names per pair."""
    found: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    subsets = np.arange(1 << CAST_SIZE)
    for cast in casts:
        variants = np.zeros_like(subsets)
        pixels = patchify(cast.pairs[subsets, variants])
        named = probe(encode_pairs(model, pixels, cast.grid))[0].amax(1) > 0
        found.setdefault(cast.grid, []).append(
            (named, cast_labels(cast, subsets, variants).amax(1) > 0)
        )
    out = {}
    for grid, rows in sorted(found.items()):
        named, there = (torch.cat(part) for part in zip(*rows, strict=True))
        right = (named == there).all(1).float().mean()
        missed = (there & ~named).sum() / there.sum()
        out[grid] = (float(right), float(missed), float((named & ~there).sum(1).float().mean()))
    return out


def _small(visual: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in visual.named_parameters() if p.ndim != 2 or "blocks." not in name]


def distance_to_codes(features: list[Tensor], labels: Tensor) -> Tensor:
    """How far each token is from the code of its thing, or from nothing, squared; DeepStack levels
    are only kept small."""
    wanted = labels @ class_codes()
    deep = [0.03 * level.square().sum(-1).mean() for level in features[1:]]
    return (features[0] - wanted).square().sum(-1).mean() + torch.stack(deep).sum()


def train(options: argparse.Namespace, paths: list[Path]) -> Qwen3VLForConditionalGeneration:
    """Learn to name for the given minutes."""
    model, probe = new_model(options.seed), NamingProbe()
    if options.start:
        state = torch.load(RUNS / options.start, weights_only=True)
        model.load_state_dict(state)
    held, kept = load_casts(paths[:1]), load_casts(paths[1:])
    optimizer = Optimizers(
        [p for p in model.model.visual.blocks.parameters() if p.ndim == 2],
        [*_small(model.model.visual), *probe.parameters()],
        options.lr,
    )
    rng, started, step, mean = np.random.default_rng(options.seed), time.monotonic(), 0, 0.0
    while (share := (time.monotonic() - started) / (options.minutes * 60)) < 1:
        optimizer.set_lr(options.lr * min(1.0, (step + 1) / 100) * min(1.0, (1 - share) / 0.8))
        is_kept = kept and rng.uniform() < options.kept
        pixels, labels, grid = (
            kept_draw(rng, kept, options.batch) if is_kept else quick_draw(rng, options.batch)
        )
        with in_bfloat16(torch.device("cpu")):
            features = encode_pairs(model, pixels, grid)
        features = [level.float() for level in features]
        loss = naming_loss(probe(features), labels)
        optimizer.step(loss + options.exact * distance_to_codes(features, labels))
        mean = 0.97 * mean + 0.03 * float(loss.detach())
        step += 1
        if step % 50 == 0:
            spent = time.monotonic() - started
            print(f"step {step} loss {mean:.3f} {spent:.0f} s", flush=True)
        if step % 300 == 0:
            print(
                {g: tuple(round(v, 4) for v in r) for g, r in try_out(model, probe, held).items()}
            )
            torch.save(model.state_dict(), RUNS / options.name)
    print(try_out(model, probe, held), flush=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--kept", type=float, default=0.35, help="share of kept pictures")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--exact", type=float, default=2.0, help="weight of distance to codes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="", help="earlier weights to begin from")
    parser.add_argument("--name", default="vision.pt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = train(options, sorted(RUNS.glob("casts*.pkl")))
    torch.save(model.state_dict(), RUNS / options.name)


if __name__ == "__main__":
    main()
