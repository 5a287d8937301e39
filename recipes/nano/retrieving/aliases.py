"""How much less the best far token scores than what heads of the first layer should look at:
`python -m recipes.nano.retrieving.aliases spans2.pt published`. Below 0 there is a distance at
which a code's time is taken from another pair; a long video has it somewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.far import LAYER, NEAREST, own_scores, turned
from recipes.nano.retrieving.plan import CODES, LOUDEST, Plan, Sizes, draw_lesson
from recipes.nano.retrieving.trainer import decoder_of, grown, new_trainer
from recipes.nano.shape import HEAD_DIM

LESSONS, SEED = 3, 93
REACH = 18_000
"""Positions of 128K tokens, 144 a pair."""
AT_ONCE = 256
SHARES = (0.0, 0.01, 0.05, 0.25, 0.5)


def gaps(
    model: Qwen3VLForConditionalGeneration, lesson: Lesson, reach: int
) -> Iterator[tuple[int, Tensor]]:
    """Of each head that looks for a pair's time, for every token that it looks from: the score of
    where it should look, less the most that any word of the lesson's times scores up to `reach`."""
    watched: list[Watched] = []
    run(model, lesson, watched)
    first, words = watched[LAYER], _words(lesson)
    for look in lesson.looks:
        rows = lesson.visual[look.of, look.at].nonzero()[:, 0]
        if look.layer != LAYER or not look.head or not len(rows):
            continue
        of, at = look.of[rows], look.at[rows]
        query = turned(model, lesson, first.still_q[of, look.head, at], of, at)
        most = torch.full((len(rows),), -torch.inf)
        for begin in range(NEAREST, reach, AT_ONCE):
            back = torch.arange(begin, min(reach, begin + AT_ONCE)).repeat(len(words))
            of, at = words.repeat_interleave(len(back) // len(words), 0).T
            keys = turned(model, lesson, first.still_k[of, look.head, at], of, at, -back)
            most = torch.maximum(most, (query @ keys.mT).amax(-1) * HEAD_DIM**-0.5)
        yield look.head, own_scores(first, look, rows) - most


def _words(lesson: Lesson) -> Tensor:
    """(words, 2) sequence and column of each word that stands in the video, once."""
    places = ((lesson.bias.owner >= 0) & ~lesson.visual).nonzero()
    _, first = np.unique(lesson.ids[tuple(places.T)].numpy(), return_index=True)
    return places[torch.from_numpy(first)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoders", nargs="+", help="runs of `retrieve`, or 'published'")
    parser.add_argument("--reach", type=int, default=REACH, help="positions back")
    options = parser.parse_args()
    plan = Plan(tokenizer_step.build(), 1, 0, True, 0.5)
    drawing = [np.random.default_rng((SEED, number)) for number in range(LESSONS)]
    sizes = Sizes((8, 28), 3000, LOUDEST[CODES])
    lessons = [draw_lesson(rng, plan.later, sizes, ((12, 12),)) for rng in drawing]
    model = new_trainer(0, 1e-3, plan.layers).model
    for name in options.decoders:
        model.model.language_model.load_state_dict(grown(decoder_of(name), plan.layers))
        found: dict[int, list[Tensor]] = {}
        for lesson in lessons:
            for head, own in gaps(model, lesson, options.reach):
                found.setdefault(head, []).append(own)
        for head, parts in found.items():
            quantiles = torch.cat(parts).quantile(torch.tensor(SHARES)).tolist()
            told = ", ".join(f"{s:.0%} {q:.1f}" for s, q in zip(SHARES, quantiles, strict=True))
            print(f"{name}, head {head}: {told}", flush=True)


if __name__ == "__main__":
    main()
