"""Step 2: learn to retrieve. The decoder binds what pictures show to its time, matches it with what
is asked among distractors that count manifold, and reads the answer out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
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
from recipes.nano.next.decoder import (
    Lesson,
    Probes,
    alike_distances,
    draw_loudness,
    join,
    lesson_loss,
    run,
)
from recipes.nano.next.lessons import (
    ABSENT,
    EVEN_ODDS,
    FIRST_ODDS,
    MORE_ABSENT,
    LessonMaker,
)
from recipes.nano.next.progress import Loop, rate
from recipes.nano.next.shape import LAYERS, RUNS, config, published_part
from recipes.nano.next.span_courses import draw_spans
from recipes.nano.next.span_lessons import SpanLessons
from recipes.nano.optimizers import Optimizers

GRIDS = ((2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (4, 6), (6, 8), (8, 8), (7, 12), (12, 12))
QUESTIONS = 8
TOKENS_PER_PAIR, TOKENS_PER_QUESTION = 14, 26
SPAN_QUESTIONS, TOKENS_PER_SPAN_QUESTION = 4, 50
LOUDEST = 8.0
"""log of how many times ground counts at most: a million tokens against a few hundred."""
ALIKE_EVERY, ALIKE_KEPT = 100, 6
"""Steps after which distances that look alike are sought again, and how many such sets are kept."""
FIRST_GAINS = (1.5, 1.5, 2.2)
"""Where each layer's gains of queries and keys begin: with 1, scores reach 8 at most, and ln(10⁶)
is 14. The last tells what misses a letter from what misses none."""
MARGIN = 4.0
"""Of told looks, in scores, from `LATE` of the steps on; see `look_losses`."""
EARLY, LATE = 0.25, 0.4
"""Shares of the steps: until then lessons grow and tokens are told letters and times; from then on
all is as hard as it gets."""


@dataclass(slots=True)
class Trainer:
    """Decoder, probes and optimiser."""

    model: Qwen3VLForConditionalGeneration
    probes: Probes
    optimizer: Optimizers
    alike: list[list[int]] = field(default_factory=list)
    """Sets of distances at which pairs look alike, the newest last."""

    def state(self) -> dict[str, Any]:
        return {
            "text": self.model.model.language_model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alike": self.alike,
        }

    def load(self, state: dict[str, Any]) -> None:
        text = self.model.model.language_model
        text.load_state_dict(grown(state["text"], len(text.layers)))
        self.probes.load_state_dict(state["probes"], strict=False)
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
            self.alike = state.get("alike", [])

    def seek_alike(self, lesson: Lesson) -> None:
        """Find anew at which distances pairs look alike."""
        text = self.model.model.language_model
        watched: list[tuple[Tensor, Tensor]] = []
        with torch.no_grad():
            run(self.model, lesson, watched)
        found = alike_distances(watched, lesson, text.rotary_emb.inv_freq)
        self.alike = [*self.alike[1 - ALIKE_KEPT :], found]

    def begin_as_published(self) -> None:
        """The decoder of the checkpoint in use; probes and optimiser begin anew."""
        self.model.model.language_model.load_state_dict(published_part("model.language_model."))


def grown(text: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A decoder of three layers as one of four: a layer that adds nothing yet stands before the
    last. Its queries, keys and gates begin as those of the layer before it."""
    last = f"layers.{LAYERS - 1}."
    if layers == LAYERS or any(name.startswith(f"layers.{layers - 1}.") for name in text):
        return text
    out = {name: part for name, part in text.items() if not name.startswith(last)}
    for name, part in text.items():
        if name.startswith(last):
            out[name.replace(last, f"layers.{LAYERS}.", 1)] = part
        if name.startswith(f"layers.{LAYERS - 2}."):
            is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
            new = name.replace(f"layers.{LAYERS - 2}.", last, 1)
            out[new] = torch.zeros_like(part) if is_output else part.clone()
    return out


def new_trainer(seed: int, lr: float, layers: int = LAYERS) -> Trainer:
    model, probes = new_model(seed, config(layers)), Probes(with_spans=layers > LAYERS)
    text = model.model.language_model
    for layer, gain in zip(text.layers, FIRST_GAINS[: layers - 1] + FIRST_GAINS[-1:], strict=True):
        nn.init.constant_(layer.self_attn.q_norm.weight, gain)
        nn.init.constant_(layer.self_attn.k_norm.weight, gain)
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
    count, grids = _draw_sizes(rng, pairs, tokens, QUESTIONS * TOKENS_PER_QUESTION)
    courses = [draw_course(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        maker.row(rng, course, grid, QUESTIONS) for course, grid in zip(courses, grids, strict=True)
    ]
    features = [worded_features(rng, course) for course in courses]
    return join(sheets, features, draw_loudness(rng, len(sheets), loudest))


def draw_span_lesson(
    rng: np.random.Generator,
    lessons: SpanLessons,
    *,
    pairs: tuple[int, int],
    tokens: int,
    loudest: float,
) -> Lesson:
    """The same, of `find` questions."""
    count, grids = _draw_sizes(rng, pairs, tokens, SPAN_QUESTIONS * TOKENS_PER_SPAN_QUESTION)
    drawn = [draw_spans(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        lessons.row(rng, own, grid, SPAN_QUESTIONS) for own, grid in zip(drawn, grids, strict=True)
    ]
    features = [worded_features(rng, own.course) for own in drawn]
    return join(sheets, features, draw_loudness(rng, len(sheets), loudest))


def _draw_sizes(
    rng: np.random.Generator, pairs: tuple[int, int], tokens: int, asked: int
) -> tuple[int, list[tuple[int, int]]]:
    """Pairs of each row and a grid for each of as many rows as `tokens` hold."""
    count = int(np.exp(rng.uniform(np.log(pairs[0]), np.log(pairs[1] + 1))))
    size = max(1, min(32, tokens // (count * TOKENS_PER_PAIR + asked)))
    return count, [GRIDS[int(rng.integers(len(GRIDS)))] for _ in range(size)]


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
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens per batch")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decline", type=float, default=0.65)
    parser.add_argument("--looking", type=float, default=0.3, help="weight of told looks")
    parser.add_argument("--knowing", type=float, default=0.25, help="weight of letters and times")
    parser.add_argument("--naming", type=float, default=0.5, help="weight of names of things")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="decoder.pt")
    parser.add_argument("--begin", default="", help="run to go on from, or 'published'")
    parser.add_argument("--spans", type=float, default=0.0, help="share of lessons about spans")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    RUNS.mkdir(parents=True, exist_ok=True)
    tokenizer: Tokenizer = tokenizer_step.build()
    layers = LAYERS + (options.spans > 0)
    early = LessonMaker(tokenizer, FIRST_ODDS, ABSENT, layers - 1)
    later = LessonMaker(tokenizer, EVEN_ODDS, MORE_ABSENT, layers - 1)
    spans = SpanLessons(later)
    trainer = new_trainer(options.seed, options.lr, layers)
    loop = Loop(RUNS / options.name, options.steps, options.seed, trainer.state, trainer.load)
    loop.resume(options.begin, trainer.begin_as_published)

    def one(rng: np.random.Generator, step: int) -> dict[str, float]:
        share = 1.0 if options.begin else step / options.steps
        longest = 4 + int(24 * min(1.0, share / EARLY))
        loudest = LOUDEST * min(1.0, share / 0.3)
        maker = early if share < EARLY else later
        later.alike = [distance for found in trainer.alike for distance in found]
        is_about_spans = bool(options.spans) and rng.uniform() < options.spans
        if is_about_spans:
            lesson = draw_span_lesson(
                rng, spans, pairs=(3, 40), tokens=options.tokens, loudest=loudest
            )
        else:
            lesson = draw_lesson(
                rng, maker, pairs=(3, longest), tokens=options.tokens, loudest=loudest
            )
        loss, told = lesson_loss(
            trainer.model,
            trainer.probes,
            lesson,
            looking=options.looking,
            knowing=options.knowing if share < EARLY else 0.0,
            naming=options.naming,
            margin=MARGIN * min(1.0, max(0.0, (share - EARLY) / (LATE - EARLY))),
        )
        trainer.optimizer.set_lr(rate(options.lr, step, options.steps, options.decline))
        trainer.optimizer.step(loss)
        if options.begin and step % ALIKE_EVERY == 0 and not is_about_spans:
            trainer.seek_alike(lesson)
        if step % 500 == 499:
            print(try_out(trainer.model, later, loudest), flush=True)
        return told

    loop.run(one)
    print(try_out(trainer.model, later, LOUDEST), flush=True)


if __name__ == "__main__":
    main()
