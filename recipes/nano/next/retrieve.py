"""Step 2: learn to retrieve. The decoder binds what pictures show to its time, matches it with what
is asked among distractors that count manifold, and reads the answer out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.network import new_model
from recipes.nano.next import gathers, links
from recipes.nano.next import tokenizer as tokenizer_step
from recipes.nano.next.alike import Alike, alike_distances
from recipes.nano.next.asked import ABSENT, EVEN_ODDS, FIRST_ODDS, MORE_ABSENT
from recipes.nano.next.batch import Lesson, draw_loudness, join
from recipes.nano.next.courses import draw_course, worded_features
from recipes.nano.next.decoder import Probes, Watched, lesson_loss, run
from recipes.nano.next.device import moved
from recipes.nano.next.drawn import DrawnAhead
from recipes.nano.next.held import hold_gains, open_layer
from recipes.nano.next.lessons import HEADS_OF, LessonMaker
from recipes.nano.next.progress import Loop, add_shared, rate
from recipes.nano.next.recall import with_recall
from recipes.nano.next.shape import HEAD_DIM, HEADS, LAYERS, PUBLISHED, RUNS, config, published_part
from recipes.nano.next.sheet import THING
from recipes.nano.next.span_courses import draw_spans
from recipes.nano.next.span_lessons import SpanLessons
from recipes.nano.optimizers import Optimizers

GRIDS = ((2, 2), (2, 3), (2, 4), (3, 4), (3, 5), (4, 6), (6, 8), (8, 8), (7, 12), (12, 12))
QUESTIONS = 8
TOKENS_PER_PAIR, TOKENS_PER_QUESTION = 14, 26
SPAN_QUESTIONS, TOKENS_PER_SPAN_QUESTION = 4, 50
CODES, SPANS = "codes", "spans"
"""Kinds of lessons."""
FITTING_LESSONS = 80
SPAN_PAIRS = (5, 100)
SPAN_TOKENS = 32_768
"""Of the longest video in which spans are asked for."""
LOUDEST = {CODES: 8.0, SPANS: 6.0}
"""log of how many times ground counts at most: a million tokens against a few hundred, or 32K, in
which spans are asked for, against fewer."""
FIRST_GAINS = (1.5, 1.5, 2.2)
"""Where each layer's gains of queries and keys begin: with 1, scores reach 8 at most, and ln(10⁶)
is 14. The last tells what misses a letter from what misses none."""
MARGIN = 4.0
"""Of told looks, in scores, from `LATE` of the steps on; see `look_losses`."""
MEAN_OF = 0.998
"""Weights are published as their mean over the last steps, each of which counts so much less than
the next: steps scatter about it as far as the rate is high."""
EARLY, LATE = 0.25, 0.4
"""Shares of the steps: until then lessons grow and tokens are told letters and times; from then on
all is as hard as it gets."""


@dataclass(slots=True)
class Trainer:
    """Decoder, the mean of its last states, probes and optimiser."""

    model: Qwen3VLForConditionalGeneration
    mean: AveragedModel
    probes: Probes
    optimizer: Optimizers
    alike: Alike = field(default_factory=Alike)

    @property
    def averaged(self) -> Qwen3VLForConditionalGeneration:
        """The mean of the model's last states."""
        return cast(Qwen3VLForConditionalGeneration, self.mean.module)

    def state(self) -> dict[str, Any]:
        return {
            "text": self.model.model.language_model.state_dict(),
            "mean": self.averaged.model.language_model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "alike": self.alike.found,
        }

    def load(self, state: dict[str, Any]) -> None:
        text = self.model.model.language_model
        self.probes.load_state_dict(state["probes"], strict=False)
        if "optimizer" not in state:  # Another run's: what it would publish.
            text.load_state_dict(grown(learnt(state), len(text.layers)))
        else:
            text.load_state_dict(state["text"])
            self.averaged.model.language_model.load_state_dict(state["mean"])
            self.mean.n_averaged.fill_(1)
            self.optimizer.load_state_dict(state["optimizer"])
            self.alike = Alike(state["alike"])
        hold_gains(text.layers)

    def seek_alike(self, kind: str, step: int, lesson: Lesson) -> None:
        """Find anew at which distances pairs look alike in lessons of this kind."""
        text = self.model.model.language_model
        watched: list[Watched] = []
        with torch.no_grad():
            run(self.model, lesson, watched)
        self.alike.add(kind, step, alike_distances(watched, lesson, text.rotary_emb.inv_freq))

    def open_recall(self, tokenizer: Tokenizer) -> None:
        """Let heads begin to pass on times of what they look at; see `recall`."""
        text = self.model.model.language_model
        encoded = tokenizer.encode_batch([str(n) for n in range(100)], add_special_tokens=False)
        numbers = torch.tensor([own.ids[0] for own in encoded])
        text.load_state_dict(with_recall(text.state_dict(), numbers))

    def open_held(self, layer: int, lessons: list[Lesson]) -> None:
        """Let heads of this layer begin with what a projection can tell already; see `held`."""
        text = self.model.model.language_model
        known = []
        with torch.no_grad():
            for lesson in lessons:
                watched: list[Watched] = []
                run(self.model, lesson, watched)
                known.append((watched[layer].known, lesson))
            open_layer(text.layers, layer, known)

    def begin_as_published(self) -> None:
        """The decoder of the checkpoint in use; probes and optimiser begin anew."""
        self.model.model.language_model.load_state_dict(published_part("model.language_model."))


def learnt(state: dict[str, Any]) -> dict[str, Tensor]:
    """What a saved run would publish; runs of before means were kept have their last weights."""
    text: dict[str, Tensor] = state.get("mean", state["text"])
    return text


def grown(text: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A decoder of three layers as one of four: a layer that adds nothing yet stands before the
    last. All its heads match as the last layer's head for things does: they will look for these.
    Its gates begin as those of the layer before it."""
    old, added = f"layers.{LAYERS - 1}.", f"layers.{LAYERS}."
    if layers == LAYERS or any(name.startswith(added) for name in text):
        return text
    out = {name.replace(old, added, 1): part for name, part in text.items()}
    (own,) = HEADS_OF[THING]
    for name, part in text.items():
        if name.startswith(old) and name.endswith(("q_proj.weight", "k_proj.weight")):
            out[name] = part[own * HEAD_DIM : (own + 1) * HEAD_DIM].repeat(HEADS, 1)
        elif name.startswith(old):
            is_matched = "q_norm" in name or "k_norm" in name or "input_layernorm" in name
            before = name.replace(old, f"layers.{LAYERS - 2}.", 1)
            out[name] = (part if is_matched else text[before]).clone()
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                out[name] = torch.zeros_like(part)
    return out


def new_trainer(seed: int, lr: float, layers: int = LAYERS, device: str = "cpu") -> Trainer:
    model, probes = new_model(seed, config(layers)), Probes(with_spans=layers > LAYERS)
    nn.Module.to(model, device)
    probes.to(device)
    text = model.model.language_model
    for layer, gain in zip(text.layers, FIRST_GAINS[: layers - 1] + FIRST_GAINS[-1:], strict=True):
        nn.init.constant_(layer.self_attn.q_norm.weight, gain)
        nn.init.constant_(layer.self_attn.k_norm.weight, gain)
    hold_gains(text.layers)
    own = list(text.layers.parameters())
    rest = [p for p in own if p.ndim < 2] + list(probes.parameters())
    rest += [text.embed_tokens.weight, text.norm.weight]
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(MEAN_OF))
    return Trainer(model, mean, probes, Optimizers([p for p in own if p.ndim == 2], rest, lr))


def draw_lesson(
    rng: np.random.Generator,
    maker: LessonMaker,
    *,
    pairs: tuple[int, int],
    tokens: int,
    loudest: float,
    alike: Sequence[int] = (),
) -> Lesson:
    """A batch of about `tokens` tokens, rows of one length."""
    count, grids = _draw_sizes(rng, pairs, tokens, QUESTIONS * TOKENS_PER_QUESTION)
    courses = [draw_course(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        maker.row(rng, course, grid, QUESTIONS, alike)
        for course, grid in zip(courses, grids, strict=True)
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
    alike: Sequence[int] = (),
) -> Lesson:
    """The same, of `find` questions."""
    count, grids = _draw_sizes(rng, pairs, tokens, SPAN_QUESTIONS * TOKENS_PER_SPAN_QUESTION)
    drawn = [draw_spans(rng, count, rows * cols) for rows, cols in grids]
    sheets = [
        lessons.row(rng, own, grid, SPAN_QUESTIONS, alike)
        for own, grid in zip(drawn, grids, strict=True)
    ]
    features = [worded_features(rng, own.course) for own in drawn]
    # A token of a short lesson stands for more of them than one of a long lesson.
    most = min(loudest, float(np.log(SPAN_TOKENS / (count * TOKENS_PER_PAIR))))
    return join(sheets, features, draw_loudness(rng, len(sheets), most))


def _draw_sizes(
    rng: np.random.Generator, pairs: tuple[int, int], tokens: int, asked: int
) -> tuple[int, list[tuple[int, int]]]:
    """Pairs of each row and a grid for each of as many rows as `tokens` hold."""
    count = int(np.exp(rng.uniform(np.log(pairs[0]), np.log(pairs[1] + 1))))
    size = max(1, min(64, tokens // (count * TOKENS_PER_PAIR + asked)))
    return count, [GRIDS[int(rng.integers(len(GRIDS)))] for _ in range(size)]


@dataclass(frozen=True)
class Plan:
    """What is learnt at which step; drawn in other processes."""

    tokenizer: Tokenizer
    steps: int
    tokens: int
    goes_on: bool
    """Whether it begins with what another run learnt: then lessons are as hard as they get."""
    spans: float
    """Share of lessons about spans."""

    @property
    def layers(self) -> int:
        return LAYERS + (self.spans > 0)

    @cached_property
    def early(self) -> LessonMaker:
        return LessonMaker(self.tokenizer, FIRST_ODDS, ABSENT, self.layers - 1)

    @cached_property
    def later(self) -> LessonMaker:
        return LessonMaker(self.tokenizer, EVEN_ODDS, MORE_ABSENT, self.layers - 1)

    def share(self, step: int) -> float:
        """How far the course has come."""
        return 1.0 if self.goes_on else step / self.steps

    def kind(self, step: int) -> str:
        """SPANS or CODES, evenly spread."""
        is_about_spans = int((step + 1) * self.spans) > int(step * self.spans)
        return SPANS if is_about_spans else CODES

    @cached_property
    def tries(self) -> dict[str, list[Lesson]]:
        """What `try_out` asks."""
        kinds = (CODES, SPANS) if self.spans else (CODES,)
        return {kind: [self._try(kind, number) for number in range(6)] for kind in kinds}

    def _try(self, kind: str, number: int) -> Lesson:
        rng = np.random.default_rng((88, number))
        sizes: dict[str, Any] = {"tokens": 5000, "loudest": LOUDEST[kind]}
        if kind == SPANS:
            return draw_span_lesson(rng, SpanLessons(self.later), pairs=(16, 60), **sizes)
        return draw_lesson(rng, self.later, pairs=(16, 32), **sizes)

    def fitting(self, number: int) -> Lesson:
        """A lesson that heads are fitted to."""
        rng, kind = np.random.default_rng((89, number)), CODES if number % 4 == 3 else SPANS
        sizes: dict[str, Any] = {"tokens": 5000, "loudest": LOUDEST[kind]}
        if kind == CODES:
            return draw_lesson(rng, self.later, pairs=(3, 28), **sizes)
        return draw_span_lesson(rng, SpanLessons(self.later), pairs=(16, 90), **sizes)

    def draw(self, rng: np.random.Generator, told: tuple[int, list[int]]) -> Lesson:
        """The lesson of a step, given at which distances pairs look alike."""
        step, alike = told
        share = self.share(step)
        kind = self.kind(step)
        sizes: dict[str, Any] = {
            "tokens": self.tokens,
            "loudest": LOUDEST[kind] * min(1.0, share / 0.3),
            "alike": alike,
        }
        if kind == SPANS:
            return draw_span_lesson(rng, SpanLessons(self.later), pairs=SPAN_PAIRS, **sizes)
        longest = 4 + int(24 * min(1.0, share / EARLY))
        maker = self.early if share < EARLY else self.later
        return draw_lesson(rng, maker, pairs=(3, longest), **sizes)


@torch.no_grad()
def try_out(model: Qwen3VLForConditionalGeneration, plan: Plan) -> str:
    """Whole answers right, teacher-forced, on rows of other seeds at full loudness."""
    words = model.model.language_model.embed_tokens.weight
    parts = []
    for kind, lessons in plan.tries.items():
        right = total = 0
        for lesson in lessons:
            said = F.linear(run(model, moved(lesson, model.device), [])[-1], words).argmax(-1).cpu()
            picked, free = lesson.labels >= 0, lesson.weights > 0.5
            wrong = torch.zeros_like(free)
            is_right = lesson.right_tokens(len(words))
            wrong[picked] = ~is_right.gather(1, said[picked][:, None])[:, 0]
            for answers, faults in zip(free, wrong & free, strict=True):
                hits, count = whole_answers(answers, faults)
                right, total = right + hits, total + count
        parts.append(f"{kind}: whole answers {right}/{total}")
    return "; ".join(parts)


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
    parser.add_argument("--changing", type=float, default=5.0, help="weight of what comes and goes")
    parser.add_argument("--linking", type=float, default=3.0, help="weight of what heads hold")
    parser.add_argument("--name", default="decoder.pt")
    add_shared(parser)
    parser.add_argument("--spans", type=float, default=0.0, help="share of lessons about spans")
    parser.add_argument("--recall", action="store_true", help="begin as `recall` opens links")
    parser.add_argument(
        "--fitted",
        type=int,
        nargs="*",
        default=(),
        choices=(gathers.LAYER, links.LAYER),
        help="layers that begin with what fits what `gathers` and `links` tell",
    )
    options = parser.parse_args()
    if (options.recall or options.fitted) and not options.spans:
        parser.error("--recall and --fitted are about spans: give their share as --spans")
    if options.begin == PUBLISHED and not options.spans:
        parser.error(
            "what is published has the layer that finds spans: give their share as --spans"
        )
    torch.set_num_threads(options.threads)
    RUNS.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        tokenizer_step.build(), options.steps, options.tokens, bool(options.begin), options.spans
    )
    trainer = new_trainer(options.seed, options.lr, plan.layers, options.device)
    loop = Loop(RUNS / options.name, options.steps, options.seed, trainer.state, trainer.load)
    loop.resume(options.begin, trainer.begin_as_published)
    if options.recall and not loop.step:
        trainer.open_recall(plan.tokenizer)
    for layer in options.fitted if not loop.step else ():
        lessons = [moved(plan.fitting(n), options.device) for n in range(FITTING_LESSONS)]
        trainer.open_held(layer, lessons)

    def one(_rng: np.random.Generator, step: int) -> dict[str, float]:
        share, kind = plan.share(step), plan.kind(step)
        lesson = moved(drawn.step(step), trainer.model.device)
        loss, told = lesson_loss(
            trainer.model,
            trainer.probes,
            lesson,
            looking=options.looking,
            knowing=options.knowing if share < EARLY else 0.0,
            naming=options.naming,
            changing=options.changing,
            linking=options.linking,
            margin=MARGIN * min(1.0, max(0.0, (share - EARLY) / (LATE - EARLY))),
        )
        trainer.optimizer.set_lr(rate(options.lr, step, options.steps, options.decline))
        trainer.optimizer.step(loss)
        trainer.mean.update_parameters(trainer.model)
        if plan.goes_on and trainer.alike.is_due(kind, step):
            trainer.seek_alike(kind, step, lesson)
        if step % 500 == 499:
            print(try_out(trainer.averaged, plan), flush=True)
        return told

    def tell(step: int) -> tuple[int, list[int]]:
        return step, trainer.alike.known(plan.kind(step), step)

    with DrawnAhead(plan.draw, tell, options.seed, options.steps, options.workers) as drawn:
        loop.run(one)
    print(try_out(trainer.averaged, plan), flush=True)


if __name__ == "__main__":
    main()
