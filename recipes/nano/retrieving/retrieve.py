"""Step 2: learn to retrieve. The decoder binds what pictures show to its time, matches it with what
is asked among distractors that count manifold, and reads the answer out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.device import moved
from recipes.nano.drawn import DrawnAhead
from recipes.nano.optimizers import Slopes
from recipes.nano.progress import Loop, add_shared, rate
from recipes.nano.retrieving import befores
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.blends import draw_blends
from recipes.nano.retrieving.decoder import run
from recipes.nano.retrieving.far import draw_far
from recipes.nano.retrieving.held import GAINS
from recipes.nano.retrieving.losses import lesson_loss
from recipes.nano.retrieving.plan import EARLY, LATE, Plan
from recipes.nano.retrieving.trainer import new_trainer
from recipes.nano.shape import PUBLISHED, RUNS

FITTING_LESSONS = 80
MARGIN = 4.0
"""Of told looks, in scores, from `LATE` of the steps on; see `look_losses`."""


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


def means(told: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of each number, over those parts of a step that have it."""
    names = list(dict.fromkeys(name for own in told for name in own))
    return {name: float(np.mean([own[name] for own in told if name in own])) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens per batch")
    parser.add_argument(
        "--parts", type=int, default=1, help="lessons of a batch, side by side on threads"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--decline", type=float, default=0.65)
    parser.add_argument("--answering", type=float, default=1.0, help="weight of answers")
    parser.add_argument("--looking", type=float, default=0.3, help="weight of told looks")
    parser.add_argument("--knowing", type=float, default=0.25, help="weight of letters and times")
    parser.add_argument("--naming", type=float, default=0.5, help="weight of names of things")
    parser.add_argument("--changing", type=float, default=5.0, help="weight of what comes and goes")
    parser.add_argument("--linking", type=float, default=3.0, help="weight of what heads hold")
    parser.add_argument(
        "--choosing", type=float, default=0.3, help="weight of one of several times"
    )
    parser.add_argument(
        "--blending", type=float, default=1.0, help="weight of several times read at once"
    )
    parser.add_argument("--reaching", type=float, default=1.0, help="weight of what is far away")
    parser.add_argument("--name", default="decoder.pt")
    add_shared(parser)
    parser.add_argument("--spans", type=float, default=0.0, help="share of lessons about spans")
    parser.add_argument("--recall", action="store_true", help="begin as `recall` opens links")
    parser.add_argument(
        "--fitted",
        type=int,
        nargs="*",
        default=(),
        choices=tuple(GAINS),
        help="layers that begin with what fits what `gathers`, `befores` and `links` tell",
    )
    options = parser.parse_args()
    if (options.recall or options.fitted) and not options.spans:
        parser.error("--recall and --fitted are about spans: give their share as --spans")
    if options.begin == PUBLISHED and not options.spans:
        parser.error(
            "what is published has the layer that finds spans: give their share as --spans"
        )
    at_once = min(options.threads, options.parts)
    torch.set_num_threads(options.threads // at_once)
    RUNS.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        tokenizer_step.build(),
        options.steps,
        options.tokens,
        bool(options.begin),
        options.spans,
        options.parts,
    )
    trainer = new_trainer(options.seed, options.lr, plan.layers, options.device)
    loop = Loop(RUNS / options.name, options.steps, options.seed, trainer.state, trainer.load)
    loop.resume(options.begin, trainer.begin_as_published)
    if (options.recall or options.fitted) and not loop.step:
        lessons = [moved(plan.fitting(n), options.device) for n in range(FITTING_LESSONS)]
        if befores.LAYER in options.fitted:
            trainer.set_apart(plan.tokenizer)
        if options.recall:
            trainer.open_recall(lessons)
        for layer in options.fitted:
            trainer.open_held(layer, lessons)

    def part(rng: np.random.Generator, step: int, own: Lesson) -> tuple[Slopes, dict[str, float]]:
        share = plan.share(step)
        hard = min(1.0, max(0.0, (share - EARLY) / (LATE - EARLY)))
        drawn_here = own, draw_far(rng, own), draw_blends(rng, own)
        lesson, far, blends = moved(drawn_here, trainer.model.device)
        loss, told = lesson_loss(
            trainer.model,
            trainer.probes,
            lesson,
            answering=options.answering,
            looking=options.looking,
            knowing=options.knowing if share < EARLY else 0.0,
            naming=options.naming,
            changing=options.changing,
            linking=options.linking,
            choosing=options.choosing,
            blends=blends,
            blending=options.blending,
            far=far,
            reaching=options.reaching * hard,
            margin=MARGIN * hard,
        )
        return trainer.optimizer.slopes(loss), told

    def one(rng: np.random.Generator, step: int) -> dict[str, float]:
        own = drawn.step(step)
        rngs = [rng] if len(own) == 1 else rng.spawn(len(own))
        each = map if at_once == 1 else pool.map
        slopes, told = zip(*each(part, rngs, repeat(step), own), strict=True)
        trainer.optimizer.set_lr(rate(options.lr, step, options.steps, options.decline))
        trainer.optimizer.follow(slopes)
        trainer.mean.update_parameters(trainer.model)
        if step % 500 == 499:
            print(try_out(trainer.averaged, plan), flush=True)
        return means(told)

    with (
        DrawnAhead(plan.draw, options.seed, options.steps, options.workers) as drawn,
        ThreadPoolExecutor(at_once) as pool,
    ):
        loop.run(one)
    print(try_out(trainer.averaged, plan), flush=True)


if __name__ == "__main__":
    main()
