"""Step 1: learn to see. From nothing a tower learns to put a thing's vector at the token of its
centre and those of a code's letters at the token of its middle, on frames of any size.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from pipeline.lettering import ALPHABET, CODE_LENGTH
from recipes.nano.codes import CODE_NORM, LETTER_NORM, class_codes, ground_code, letter_codes
from recipes.nano.device import moved
from recipes.nano.drawn import DrawnAhead
from recipes.nano.network import encode_pairs, in_bfloat16, new_model, patchify
from recipes.nano.optimizers import Optimizers
from recipes.nano.progress import Loop, add_shared, rate, saved_run
from recipes.nano.seeing.pictures import Pictures, draw_pictures
from recipes.nano.shape import (
    PUBLISHED,
    RUNS,
    VISION_DEPTH,
    VISION_HIDDEN,
    config,
    count_parts,
    published_part,
)

GRIDS = ((2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (4, 5), (4, 6), (6, 8), (8, 8), (12, 12))
GRID_ODDS = (0.04, 0.06, 0.08, 0.2, 0.16, 0.12, 0.12, 0.1, 0.06, 0.06)
SHARP = 12.0
"""How sharply a letter's share in a feature is asked for."""


def tower(seed: int, depth: int = VISION_DEPTH) -> Qwen3VLForConditionalGeneration:
    """A new tower of so many blocks. Its DeepStack levels are silent: what a token shows is all on
    the main level."""
    model = new_model(seed, config(depth=depth))
    for merger in model.model.visual.deepstack_merger_list:
        nn.init.zeros_(merger.linear_fc2.weight)
        nn.init.zeros_(merger.linear_fc2.bias)
    return model


def tower_of(name: str) -> dict[str, Tensor]:
    """Weights that a run of this step would publish, or those that are published."""
    if name == PUBLISHED:
        return published_part("model.visual.")
    weights: dict[str, Tensor] = saved_run(RUNS / name)["state"]["visual"]
    return weights


def wanted_features(pictures: Pictures) -> Tensor:
    """(pairs, tokens, hidden): ground everywhere, things and letters where they are."""
    device = pictures.things.device
    wanted = ground_code().to(device) + pictures.things @ class_codes().to(device)
    codes = letter_codes().to(device)
    for slot in range(codes.shape[0]):
        index = pictures.letters[..., slot]
        wanted = wanted + codes[slot][index.clamp_min(0)] * (index >= 0)[..., None]
    return wanted


def strayed(main: Tensor, wanted: Tensor, beside: Tensor) -> Tensor:
    """(tokens beside a home,): squared distance to ground and any share, up to all, of what that
    home holds. Left untold, they spelt a mixture of letters where a code stood on the edge."""
    pair, at = (beside >= 0).nonzero(as_tuple=True)
    ground = ground_code().to(main.device)
    held, theirs = main[pair, at] - ground, wanted[pair, beside[pair, at]] - ground
    share = (held * theirs).sum(-1, keepdim=True) / theirs.square().sum(-1, keepdim=True)
    return (held - share.detach().clamp(0, 1) * theirs).square().sum(-1)


def letter_scores(features: Tensor) -> Tensor:
    """(…, hidden) → (…, slots, letters): 1 where a letter stands in full, 0 where it does not."""
    codes = letter_codes().to(features.device)
    return torch.einsum("...d,sld->...sl", features, codes / LETTER_NORM**2)


class SpellingProbe(nn.Module):
    """What the patch in a letter's middle should know before the last block: the letter, and which
    of the code's it is. Thrown away afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.letter = nn.Linear(VISION_HIDDEN, len(ALPHABET))
        self.slot = nn.Linear(VISION_HIDDEN, CODE_LENGTH)

    def forward(self, patches: Tensor, spelt: Tensor) -> Tensor:
        """Loss per letter, from (pairs, patches, width)."""
        there = spelt[..., 0] >= 0
        own, wanted = patches[there].float(), spelt[there]
        letter = F.cross_entropy(self.letter(own), wanted[:, 0], reduction="sum")
        slot = F.cross_entropy(self.slot(own), wanted[:, 1], reduction="sum")
        return (letter + slot) / max(1, len(own))


def reading_loss(
    main: Tensor, patches: Tensor, pictures: Pictures, probe: SpellingProbe
) -> tuple[Tensor, dict[str, float]]:
    """Per thing or code: distance to what is wanted, and its name; per letter what `probe` says."""
    told = pictures.is_told
    home = pictures.letters[..., 0] >= 0
    num_codes, num_things = max(1, int(home.sum())), max(1, int(pictures.things.sum()))
    wanted = wanted_features(pictures)
    gap = (main - wanted).square().sum(-1)
    astray = strayed(main, wanted, pictures.beside).sum() / (num_codes + num_things)
    distance = gap[told].sum() / (num_codes + num_things)
    scores = letter_scores(main[home])
    letters = pictures.letters[home]
    spelling = F.cross_entropy(SHARP * scores.flatten(0, 1), letters.flatten(), reduction="sum")
    spelling = spelling / num_codes
    names = class_codes().to(main.device) / CODE_NORM**2
    named = main[told] @ names.T * SHARP - SHARP / 2
    naming = F.binary_cross_entropy_with_logits(named, pictures.things[told], reduction="sum")
    naming = naming / num_things
    right = (scores.argmax(-1) == letters).all(-1).float()
    probed = probe(patches, pictures.spelt)
    told_numbers = {
        "letters": float(probed.detach()),
        "distance": float(distance.detach()),
        "astray": float(astray.detach()),
        "spelling": float(spelling.detach()),
        "naming": float(naming.detach()),
        "read": float(right.mean()) if len(right) else 1.0,
    }
    return 0.5 * (distance + astray) + spelling + 0.5 * naming + probed, told_numbers


def draw(rng: np.random.Generator, _step: int, *, tokens: int) -> tuple[Pictures, tuple[int, int]]:
    """A batch of about `tokens` tokens, and its grid."""
    grid = GRIDS[int(rng.choice(len(GRIDS), p=GRID_ODDS))]
    count = max(1, tokens // (grid[0] * grid[1]))
    return draw_pictures(count, grid, rng, items=float(rng.uniform(0.5, 2.2))), grid


def features_of(
    model: Qwen3VLForConditionalGeneration, pictures: Pictures, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(pairs, tokens, hidden) float32, and what patches hold before the last block."""
    watched: list[Tensor] = []
    with in_bfloat16(model.device):
        patches = patchify(pictures.pairs)
        main = encode_pairs(model, patches, grid, watched)
    return main.float(), watched[-2]


@dataclass(slots=True)
class Reader:
    """The tower under training."""

    model: Qwen3VLForConditionalGeneration
    probe: SpellingProbe
    optimizer: Optimizers

    def state(self) -> dict[str, Any]:
        visual = self.model.model.visual.state_dict()
        return {
            "visual": visual,
            "probe": self.probe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.model.visual.load_state_dict(state["visual"])
        self.probe.load_state_dict(state["probe"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def begin_as_published(self) -> None:
        """The tower of the checkpoint in use; probe and optimiser begin anew."""
        self.model.model.visual.load_state_dict(published_part("model.visual."))


def new_reader(seed: int, lr: float, device: str = "cpu", depth: int = VISION_DEPTH) -> Reader:
    model, probe = tower(seed, depth), SpellingProbe().to(device)
    nn.Module.to(model, device)
    visual = model.model.visual
    visual.deepstack_merger_list.requires_grad_(False)
    named = [(n, p) for n, p in visual.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and "blocks." in n]
    rest = [p for n, p in named if not (p.ndim == 2 and "blocks." in n)]
    rest += list(probe.parameters())
    return Reader(model, probe, Optimizers(matrices, rest, lr))


@torch.no_grad()
def try_out(model: Qwen3VLForConditionalGeneration, pairs: int = 40) -> str:
    """Codes read whole on pictures of other seeds, per grid."""
    parts = []
    for number, grid in enumerate(((2, 2), (3, 4), (4, 6), (12, 12))):
        rng = np.random.default_rng((77, number))
        count = max(2, pairs * 12 // (grid[0] * grid[1]))
        pictures = moved(draw_pictures(count, grid, rng), model.device)
        main, _ = features_of(model, pictures, grid)
        home = pictures.letters[..., 0] >= 0
        right = (letter_scores(main[home]).argmax(-1) == pictures.letters[home]).all(-1)
        empty = pictures.is_told & ~home
        loudest = letter_scores(main[empty]).clamp_min(0).amax(-1).mean(-1).amax()
        parts.append(f"{grid}: {int(right.sum())}/{len(right)}, loudest empty {loudest:.2f}")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decline", type=float, default=0.75)
    parser.add_argument("--tokens", type=int, default=600, help="tokens per step")
    parser.add_argument("--name", default="reader.pt")
    add_shared(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    RUNS.mkdir(parents=True, exist_ok=True)
    depth = count_parts(tower_of(options.begin), "blocks") if options.begin else VISION_DEPTH
    reader = new_reader(options.seed, options.lr, options.device, depth)
    loop = Loop(RUNS / options.name, options.steps, options.seed, reader.state, reader.load)
    loop.resume(options.begin, reader.begin_as_published)

    def one(_rng: np.random.Generator, step: int) -> dict[str, float]:
        pictures, grid = drawn.step(step)
        pictures = moved(pictures, reader.model.device)
        main, patches = features_of(reader.model, pictures, grid)
        loss, told = reading_loss(main, patches, pictures, reader.probe)
        reader.optimizer.set_lr(rate(options.lr, step, options.steps, options.decline))
        reader.optimizer.step(loss)
        if step % 500 == 499:
            print(try_out(reader.model), flush=True)
        return told

    drawing = partial(draw, tokens=options.tokens)
    with DrawnAhead(drawing, options.seed, options.steps, options.workers) as drawn:
        loop.run(one)
    print(try_out(reader.model, 160), flush=True)


if __name__ == "__main__":
    main()
