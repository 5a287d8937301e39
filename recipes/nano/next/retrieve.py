"""Step 2: learn to retrieve. The decoder binds what pictures show to its time, matches it with what
is asked among distractors that count manifold, and reads the answer out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.network import new_model
from recipes.nano.next import tokenizer as tokenizer_step
from recipes.nano.next.courses import draw_course, worded_features
from recipes.nano.next.decoder import Lesson, Probes, draw_loudness, join, lesson_loss, run
from recipes.nano.next.lessons import (
    ABSENT,
    EVEN_ODDS,
    FIRST_ODDS,
    MORE_ABSENT,
    THING_ODDS,
    LessonMaker,
)
from recipes.nano.next.progress import Loop, rate
from recipes.nano.next.shape import PUBLISHED, RUNS, config, published_part
from recipes.nano.optimizers import Optimizers

GRIDS = ((2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (4, 6), (6, 8), (8, 8), (7, 12), (12, 12))
QUESTIONS = 8
TOKENS_PER_PAIR, TOKENS_PER_QUESTION = 14, 26
LOUDEST = 8.0
"""log of how many times ground counts at most: a million tokens against a few hundred."""
FIRST_GAIN = 1.5
"""Where the gains of queries and keys begin: with 1, scores reach 8 at most, and ln(10⁶) is 14."""


@dataclass(slots=True)
class Trainer:
    """Decoder, probes and optimiser."""

    model: Qwen3VLForConditionalGeneration
    probes: Probes
    optimizer: Optimizers

    def state(self) -> dict[str, Any]:
        return {
            "text": self.model.model.language_model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.model.language_model.load_state_dict(state["text"])
        self.probes.load_state_dict(state["probes"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def begin_as_published(self) -> None:
        """The decoder of the checkpoint in use; probes and optimiser begin anew."""
        self.model.model.language_model.load_state_dict(published_part("model.language_model."))


def new_trainer(seed: int, lr: float) -> Trainer:
    model, probes = new_model(seed, config()), Probes()
    text = model.model.language_model
    for layer in text.layers:
        nn.init.constant_(layer.self_attn.q_norm.weight, FIRST_GAIN)
        nn.init.constant_(layer.self_attn.k_norm.weight, FIRST_GAIN)
    own = list(text.layers.parameters())
    rest = [p for p in own if p.ndim < 2] + list(probes.parameters())
    rest += [text.embed_tokens.weight, text.norm.weight]
    return Trainer(model, probes, Optimizers([p for p in own if p.ndim == 2], rest, lr))


def draw_lesson(
    rng: np.random.Generator,
    maker: LessonMaker,
    *,
    pairs: tuple[int, int],
    tokens: int,
    loudest: float,
) -> Lesson:
    """A batch of about `tokens` tokens, rows of one length."""
    count = int(np.exp(rng.uniform(np.log(pairs[0]), np.log(pairs[1] + 1))))
    size = max(1, min(32, tokens // (count * TOKENS_PER_PAIR + QUESTIONS * TOKENS_PER_QUESTION)))
    grids = [GRIDS[int(rng.integers(len(GRIDS)))] for _ in range(size)]
    courses = [draw_course(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        maker.row(rng, course, grid, QUESTIONS) for course, grid in zip(courses, grids, strict=True)
    ]
    features = [worded_features(rng, course) for course in courses]
    return join(sheets, features, draw_loudness(rng, size, loudest))


@torch.no_grad()
def try_out(model: Qwen3VLForConditionalGeneration, maker: LessonMaker, loudest: float) -> str:
    """Whole answers right, teacher-forced, on rows of other seeds at full loudness."""
    right = total = 0
    for number in range(6):
        rng = np.random.default_rng((88, number))
        lesson = draw_lesson(rng, maker, pairs=(16, 32), tokens=5000, loudest=loudest)
        logits = F.linear(
            run(model, lesson, [])[-1], model.model.language_model.embed_tokens.weight
        )
        wrong = (logits.argmax(-1) != lesson.labels) & (lesson.weights > 0.5)
        for answers, faults in zip(lesson.weights > 0.5, wrong, strict=True):
            hits, count = whole_answers(answers, faults)
            right, total = right + hits, total + count
    return f"whole answers {right}/{total}"


def whole_answers(answers: Tensor, faults: Tensor) -> tuple[int, int]:
    """(right, all) of one row: runs of free tokens and whether any of them is wrong."""
    begins = answers & ~torch.cat([torch.zeros(1, dtype=torch.bool), answers[:-1]])
    number = begins.cumsum(0)[answers] - 1
    count = int(begins.sum())
    broken = torch.zeros(count).index_add(0, number, faults[answers].float()) > 0
    return int((~broken).sum()), count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens per batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decline", type=float, default=0.4)
    parser.add_argument("--looking", type=float, default=0.3, help="weight of told looks")
    parser.add_argument("--knowing", type=float, default=0.25, help="weight of letters and times")
    parser.add_argument("--naming", type=float, default=0.25, help="weight of names of things")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="decoder.pt")
    parser.add_argument("--begin", default="", help="run to go on from, or 'published'")
    parser.add_argument("--until", type=int, help="stop behind this step of the schedule")
    parser.add_argument("--things", action="store_true", help="ask by things more often than not")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    RUNS.mkdir(parents=True, exist_ok=True)
    tokenizer: Tokenizer = tokenizer_step.build()
    early = LessonMaker(tokenizer, FIRST_ODDS, ABSENT)
    later = LessonMaker(tokenizer, THING_ODDS if options.things else EVEN_ODDS, MORE_ABSENT)
    trainer = new_trainer(options.seed, options.lr)
    until = options.until or options.steps
    loop = Loop(RUNS / options.name, until, options.seed, trainer.state, trainer.load)
    loop.resume(RUNS / options.begin if options.begin not in ("", PUBLISHED) else None)
    if options.begin == PUBLISHED and not loop.step:
        trainer.begin_as_published()

    def one(rng: np.random.Generator, step: int) -> dict[str, float]:
        share = 1.0 if options.begin else step / options.steps
        longest = 4 + int(24 * min(1.0, share / 0.25))
        loudest = LOUDEST * min(1.0, share / 0.3)
        maker = early if share < 0.25 else later
        lesson = draw_lesson(
            rng,
            maker,
            pairs=(3, longest),
            tokens=options.tokens,
            loudest=loudest,
        )
        loss, told = lesson_loss(
            trainer.model,
            trainer.probes,
            lesson,
            looking=options.looking,
            knowing=options.knowing,
            naming=options.naming,
        )
        trainer.optimizer.set_lr(rate(options.lr, step, options.steps, options.decline))
        trainer.optimizer.step(loss)
        if step % 500 == 499:
            print(try_out(trainer.model, later, loudest), flush=True)
        return told

    loop.run(one)
    print(try_out(trainer.model, later, LOUDEST), flush=True)


if __name__ == "__main__":
    main()
