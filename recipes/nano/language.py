"""Step 4b: learn to find. The decoder learns to bind things to times, to match them with a question
and to read the times out, on episodes that grow as it gets them right. Linear probes, thrown away
later, show it early what each patch pair should know.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.codes import worded_cast
from recipes.nano.episodes import NUM_TRAITS, EpisodeMaker, Targets
from recipes.nano.network import new_model, run_layers
from recipes.nano.pictures import CLASSES
from recipes.nano.shape import CHECKPOINT, HIDDEN, RUNS

PROBE_AT = 1
STAGES = ((2, 8), (4, 16), (8, 32), (12, 64), (16, 120), (20, 260))
"""Patch pairs per episode, from–to; the next stage begins when this one is right often enough."""
ADVANCE_AT = (0.7, 0.8, 0.85, 0.9, 0.9)
QUESTIONS = 6


class Probes(nn.Module):
    """What a pair's end token and a question's last token should tell."""

    def __init__(self) -> None:
        super().__init__()
        self.traits = nn.Linear(HIDDEN, NUM_TRAITS)
        self.clocks = nn.ModuleList(nn.Linear(HIDDEN, n) for n in (100, 100, 10))
        self.asked = nn.Linear(HIDDEN, len(CLASSES))
        nn.init.constant_(self.traits.bias, -4.0)

    def loss(self, probed: Tensor, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
        """(traits, clocks, asked) losses from hidden states (B, N, hidden)."""
        rows = torch.arange(len(probed))[:, None]
        ends = probed[rows, targets.pair_at]
        traits = F.binary_cross_entropy_with_logits(
            self.traits(ends), targets.traits, reduction="none"
        )
        clocks = sum(
            F.cross_entropy(head(ends).flatten(0, 1), targets.clocks[..., i].flatten())
            for i, head in enumerate(self.clocks)
        )
        asked = F.cross_entropy(
            self.asked(probed[rows, targets.asked_at]).flatten(0, 1), targets.asked.flatten()
        )
        return traits.sum(-1).mean(), torch.as_tensor(clocks), asked


@dataclass(slots=True)
class Trainer:
    """Model, probes and optimiser with what is needed to go on after a stop."""

    model: Qwen3VLForConditionalGeneration
    probes: Probes
    optimizer: torch.optim.AdamW
    step: int = 0
    stage: int = 0
    score: float = 0.0
    spent_s: float = 0.0

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "numbers": (self.step, self.stage, self.score, self.spent_s),
        }
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.probes.load_state_dict(state["probes"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.stage, self.score, self.spent_s = state["numbers"]


def new_trainer(seed: int, lr: float) -> Trainer:
    """A decoder to train on a vision tower that sees already."""
    model = new_model(seed)
    model.model.visual.requires_grad_(False)
    probes = Probes()
    params = [p for p in model.parameters() if p.requires_grad] + list(probes.parameters())
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    return Trainer(model, probes, optimizer)


def answer_scores(logits: Tensor, picked: Tensor, targets: Targets) -> tuple[float, float]:
    """(answers right in every free token, free tokens right), teacher-forced."""
    wanted = targets.labels[picked]
    free = targets.weights[picked] > 0.5
    wrong = (logits.argmax(-1) != wanted) & free
    count = targets.asked.shape[1]
    names = (torch.arange(len(targets.labels))[:, None] * count + targets.answer_of)[picked]
    broken = torch.zeros(len(targets.labels) * count, dtype=torch.bool)
    broken[names[wrong]] = True
    return float((~broken).float().mean()), float(1 - wrong[free].float().mean())


def train_step(
    trainer: Trainer, maker: EpisodeMaker, rng: np.random.Generator, budget: int, aux: float
) -> dict[str, float]:
    """One batch; returns what to print."""
    low, high = STAGES[trainer.stage]
    if trainer.stage and rng.uniform() < 0.3:  # Old lengths stay known.
        low, high = STAGES[int(rng.integers(trainer.stage))]
    pairs = int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))
    batch, targets = maker.draw(rng, pairs, QUESTIONS, budget)
    # Half the time of float32 on this class of machine, with master weights in float32.
    with torch.autocast(batch.ids.device.type, torch.bfloat16):
        probed, last = (x.float() for x in run_layers(trainer.model, batch, PROBE_AT))
    picked = targets.labels >= 0
    logits = F.linear(last[picked], trainer.model.model.language_model.embed_tokens.weight)
    weights = targets.weights[picked]
    ce = F.cross_entropy(logits, targets.labels[picked], reduction="none")
    answer_loss = (ce * weights).sum() / weights.sum()
    traits, clocks, asked = trainer.probes.loss(probed, targets)
    loss = answer_loss + aux * (0.1 * traits + 0.1 * clocks + 0.3 * asked)
    trainer.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(trainer.optimizer.param_groups[0]["params"], 1.0)
    trainer.optimizer.step()
    exact, tokens = answer_scores(logits.detach(), picked, targets)
    return {
        "answer": float(answer_loss.detach()),
        "exact": exact,
        "tokens": tokens,
        "traits": float(traits.detach()),
        "clocks": float(clocks.detach()),
        "asked": float(asked.detach()),
    }


def learning_rate(peak: float, step: int, share: float) -> float:
    """Short warm-up, long plateau, straight decline over the last 30 % of the time."""
    return peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.02, (1 - share) / 0.3))


def train(trainer: Trainer, maker: EpisodeMaker, options: argparse.Namespace) -> None:
    """Train until the minutes are spent, saving on the way."""
    rng = np.random.default_rng((options.seed, trainer.step))
    started = last_save = time.monotonic()
    before_s = trainer.spent_s
    mean: dict[str, float] = {}
    while trainer.spent_s < options.minutes * 60:
        trainer.spent_s = before_s + time.monotonic() - started
        share = trainer.spent_s / (options.minutes * 60)
        for group in trainer.optimizer.param_groups:
            group["lr"] = learning_rate(options.lr, trainer.step, share)
        told = train_step(trainer, maker, rng, options.tokens, options.aux)
        mean = {k: 0.97 * mean.get(k, v) + 0.03 * v for k, v in told.items()}
        trainer.score = mean["exact"]
        trainer.step += 1
        if trainer.step % 25 == 0:
            numbers = " ".join(f"{k} {v:.3f}" for k, v in mean.items())
            print(
                f"step {trainer.step} stage {trainer.stage} {numbers} {trainer.spent_s:.0f} s",
                flush=True,
            )
        if trainer.stage < len(ADVANCE_AT) and trainer.score > ADVANCE_AT[trainer.stage]:
            trainer.stage += 1
            mean["exact"] = 0.0
        if time.monotonic() - last_save > 120:
            trainer.save(RUNS / options.name)
            last_save = time.monotonic()
    trainer.save(RUNS / options.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--tokens", type=int, default=5000, help="tokens per batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--aux", type=float, default=1.0, help="weight of the probes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worded", type=int, default=0, help="casts in words, no pictures")
    parser.add_argument("--start", default="", help="earlier run to begin from")
    parser.add_argument("--name", default="language.pt")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokenizer_step.save(CHECKPOINT)
    tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
    if options.worded:
        casts = [worded_cast(seed, variants=4) for seed in range(options.worded)]
    else:
        casts = torch.load(RUNS / "features.pt", weights_only=True)
    maker = EpisodeMaker(casts, tokenizer)
    trainer = new_trainer(options.seed, options.lr)
    if (RUNS / options.name).exists():
        trainer.load(RUNS / options.name)
        print(f"going on from step {trainer.step}", flush=True)
    elif options.start:
        trainer.load(RUNS / options.start)
        trainer.step, trainer.spent_s = 0, 0.0
    train(trainer, maker, options)


if __name__ == "__main__":
    main()
