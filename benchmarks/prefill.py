"""Vision, prefill and four tokens against the library's `generate`: same weights, same frames, same
tokens, bfloat16.

The library gets its patches ready made; ours are cut from the frames within the time. It runs in
one piece and with `prefill_chunk_size` 4096, once each; the better way is then timed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._claim import claim
from benchmarks._shapes import (
    NANO_SHAPE,
    WIDE_2B,
    batches,
    fill,
    median_s,
    plan_tokens,
    write_checkpoint,
)
from model.engine import LoadedModel, load_model
from model.generate import generate_free
from model.vision import patchify
from schemas.plan import VideoPlan
from schemas.ports import Question

QUESTION = Question("q", "\nWhen is a red circle on screen?", "events")
NEW_TOKENS = 4
CASES = {
    "nano_32k": (NANO_SHAPE, 32_768, 1.8),
    "nano_128k": (NANO_SHAPE, 131_072, 2.5),
    "2b_8k": (WIDE_2B, 8_192, 1.6),
    "2b_32k": (WIDE_2B, 32_768, 2.3),
}


def ours(model: LoadedModel, plan: VideoPlan) -> list[int]:
    """The engine's own path; returns the four tokens."""
    lanes = fill(model, plan).lanes()
    made = generate_free(lanes, model.counter.question_ids(QUESTION), frozenset(), NEW_TOKENS)
    return made.ids


def library_inputs(model: LoadedModel, plan: VideoPlan) -> dict[str, Any]:
    """What `generate` takes: all ids, patches in bfloat16, the grid, the token types."""
    layout, spec, grid = model.counter, model.checkpoint.spec, plan.sampling.grid
    ids = layout.prefix_ids()
    for chunk in plan.chunks:
        for pair in chunk.pairs:
            ids += layout.pair_ids(pair.text, grid.tokens)
    ids += layout.question_ids(QUESTION)
    row = torch.tensor([ids])
    pixels = [
        patchify(batch.rgb, spec.vision).flatten(0, 1).to(torch.bfloat16) for batch in batches(plan)
    ]
    merge = spec.vision.merge
    return {
        "input_ids": row,
        "pixel_values_videos": torch.cat(pixels),
        "video_grid_thw": torch.tensor([[plan.num_pairs, grid.rows * merge, grid.cols * merge]]),
        "mm_token_type_ids": torch.where(row == spec.video_token_id, 2, 0).int(),
    }


def library(model: LoadedModel, inputs: dict[str, Any], chunk: int | None) -> list[int]:
    """The library's `generate`; returns the four tokens."""
    more = {} if chunk is None else {"prefill_chunk_size": chunk}
    made = model.weights.module.generate(
        **inputs,
        **more,
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        pad_token_id=0,
    )
    tokens: list[int] = made[0, -NEW_TOKENS:].tolist()
    return tokens


def compare(name: str, times: int, ways: tuple[int | None, ...]) -> None:
    """One case: both sides, warmed up, medians."""
    shape, tokens, goal = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(write_checkpoint(shape, Path(folder))), dtype="bfloat16")
    plan = plan_tokens(model.facts, model.counter, tokens, [QUESTION])
    tokens_ours = ours(model, plan)
    our_s = median_s(lambda: ours(model, plan), times)
    print(f"{name}: {plan.total_tokens} tokens, ours {our_s:.2f} s", flush=True)
    inputs = library_inputs(model, plan)
    first: dict[int | None, float] = {}
    for chunk in ways:
        started = time.perf_counter()
        tokens_theirs = library(model, inputs, chunk)
        first[chunk] = time.perf_counter() - started
        print(f"{name}: library, chunk {chunk}: {first[chunk]:.2f} s at first", flush=True)
    best = min(first, key=lambda chunk: first[chunk])
    their_s = median_s(lambda: library(model, inputs, best), times)
    same = int(np.sum(np.array(tokens_ours) == np.array(tokens_theirs)))
    print(f"{name}: ours {our_s:.2f} s, library {their_s:.2f} s (chunk {best}); {same} of 4 tokens")
    claim(f"prefill_{name}", their_s / our_s, goal)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--times", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--one-piece", action="store_true", help="do not try the library in chunks")
    options = parser.parse_args()
    for name in options.cases:
        compare(name, options.times, (None,) if options.one_piece else (None, 4096))


if __name__ == "__main__":
    main()
