"""How far apart the last layer's head for times holds them:
`python -m recipes.nano.retrieving.clock spans2.pt published`. Each time of a video is asked for
its code; told is the score of where the head should look less that of the best other code, at each
token of the answer. A lesson has a few times, a long video all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from pipeline.lettering import random_code
from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.retrieving.aliases import SHARES
from recipes.nano.retrieving.asked import Asked, clock_classes
from recipes.nano.retrieving.batch import Lesson, Loudness, join
from recipes.nano.retrieving.courses import Course, Shown, worded_features
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.lessons import HEADS_OF, LessonMaker
from recipes.nano.retrieving.sheet import CLOCK, LETTERS
from recipes.nano.retrieving.trainer import decoder_of, grown, new_trainer
from recipes.nano.shape import HEAD_DIM, LAYERS

SEED = 94
TIMES_S = {
    "units": [u + 0.6 for u in range(100)],
    "units behind 500": [500 + u + 0.6 for u in range(100)],
    "units behind 3700": [3700 + u + 0.6 for u in range(100)],
    "hundreds": [100 * h + 45.6 for h in range(100)],
    "tenths": [s + t / 10 for s in (23, 123, 523, 2023) for t in range(10)],
}
"""Times that differ in one piece alone, but for the last, where most differ in no other."""


def lesson_of(maker: LessonMaker, times_s: list[float]) -> Lesson:
    """A video with a code at each of these times, asked for each of them."""
    rng = np.random.default_rng(SEED)
    pairs = tuple(Shown(random_code(rng), (), 0, (), (0, 1)) for _ in times_s)
    still = np.zeros(len(pairs), dtype=np.int64)
    course = Course(pairs, np.asarray(times_s), times_s[-1] + 1, still, 0)
    sheet, pads, at = maker.video(rng, course, (1, 2))
    for number, (pair, seconds) in enumerate(zip(pairs, times_s, strict=True)):
        text = f"{seconds:.1f}"
        place = (number, 0, text)
        asked = Asked("code_at", text, CLOCK, clock_classes(seconds), pair.code, (place,))
        maker.ask(rng, sheet, course, asked, pads, at, -2 - number)
    return join([sheet], [worded_features(rng, course)], [Loudness(0, 0, 0)])


@torch.no_grad()
def margins(model: Qwen3VLForConditionalGeneration, lesson: Lesson) -> Tensor:
    """(tokens of answers,) by how much the right code's time is ahead of that of any other."""
    watched: list[Watched] = []
    run(model, lesson, watched)
    (head,) = HEADS_OF[CLOCK]
    (look,) = (one for one in lesson.looks if (one.layer, one.head) == (len(watched) - 1, head))
    codes = lesson.knows[LETTERS].at
    codes = codes[lesson.visual[0, codes]]
    row, column = look.wanted
    query = watched[-1].q[0, head, look.at[row] - lesson.tail]
    scores = query @ watched[-1].k[0, head, codes].mT * HEAD_DIM**-0.5
    is_own = column[:, None] == codes
    best = scores.masked_fill(is_own, -torch.inf).amax(-1)
    ahead: Tensor = scores[is_own] - best
    return ahead


def found(name: str, maker: LessonMaker) -> Iterator[tuple[str, Tensor]]:
    """Margins of a decoder for each of `TIMES_S`."""
    model = new_trainer(0, 1e-3, LAYERS + 1).model
    model.model.language_model.load_state_dict(grown(decoder_of(name), LAYERS + 1))
    for kind, times_s in TIMES_S.items():
        yield kind, margins(model, lesson_of(maker, times_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoders", nargs="+", help="runs of `retrieve`, or 'published'")
    options = parser.parse_args()
    maker = LessonMaker(tokenizer_step.build(), match_layer=LAYERS)
    for name in options.decoders:
        for kind, own in found(name, maker):
            quantiles = own.quantile(torch.tensor(SHARES)).tolist()
            told = ", ".join(f"{s:.0%} {q:.1f}" for s, q in zip(SHARES, quantiles, strict=True))
            print(f"{name}, {kind}: {told}", flush=True)


if __name__ == "__main__":
    main()
