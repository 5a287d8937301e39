"""Many questions on one video, and what a decoded token costs: nano's shape, bfloat16.

Sixteen questions against one on a video of 32K tokens, prefill included, answers of 64 tokens. A
token decoded behind 128K tokens against reading the KV cache once, by the fastest reader at hand:
the larger of a sum and a copy's rate over the same memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks._claim import claim
from benchmarks._shapes import NANO_SHAPE, fill, median_s, plan_tokens, write_checkpoint
from model.engine import LoadedModel, load_model
from model.lanes import Step
from schemas.ports import Question

ANSWER_TOKENS = 64
TURNS = 10


def ask_for(number: int) -> Question:
    text = f"\nWhen is thing number {number} on screen?"
    return Question(f"q{number}", text, "events", (), ANSWER_TOKENS)


def sixteen(model: LoadedModel) -> None:
    """Both sides from an empty session."""
    questions = [ask_for(number) for number in range(16)]
    plan = plan_tokens(model.facts, model.counter, 32_768, questions)
    tokens = [reply.num_tokens for reply in fill(model, plan).ask(questions)]
    one_s = median_s(lambda: fill(model, plan).ask(questions[:1]))
    all_s = median_s(lambda: fill(model, plan).ask(questions))
    print(
        f"{plan.video_tokens} tokens: one question {one_s:.2f} s, 16 questions {all_s:.2f} s, "
        f"{min(tokens)} to {max(tokens)} tokens an answer"
    )
    claim("sixteen_questions", all_s / one_s, 1.3, at_most=True)


def in_turns_s(works: Sequence[Callable[[], object]]) -> list[float]:
    """Median seconds of each work, in runs of ten as decoding goes, the works in turns."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(TURNS):
        for work, seconds in zip(works, taken, strict=True):
            for _ in range(10):
                started = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - started)
    return [statistics.median(seconds) for seconds in taken]


def decoding(model: LoadedModel) -> None:
    """One token at a time on one lane, against the memory behind it."""
    plan = plan_tokens(model.facts, model.counter, 131_072, [ask_for(0)])
    filled = fill(model, plan)
    lanes = filled.lanes()
    lane = lanes.fork(10 * TURNS + 8)
    lanes.run([Step(lane, [300])])
    # Written once: untouched zeros are all one page of the system, which no memory is read for.
    memory = torch.ones(plan.memory.kv_bytes // 8, dtype=torch.int64)
    target = torch.empty_like(memory)
    works = (lambda: lanes.run([Step(lane, [300])]), memory.sum, lambda: target.copy_(memory))
    # In turns: the memory's rate changes by half from one minute to the next.
    token_s, sum_s, both_s = in_turns_s(works)
    # A copy reads and writes: half of its time is reading.
    read_s = min(sum_s, both_s / 2)
    print(
        f"{plan.video_tokens} tokens, KV cache {memory.nbytes / 1024**2:.0f} MiB: a token "
        f"{token_s * 1e3:.2f} ms, reading the cache {read_s * 1e3:.2f} ms "
        f"({memory.nbytes / read_s / 1e9:.0f} GB/s)"
    )
    claim("decoded_token_against_reading", token_s / read_s, 2.0, at_most=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = load_model(str(write_checkpoint(NANO_SHAPE, Path(folder))), dtype="bfloat16")
    sixteen(model)
    decoding(model)


if __name__ == "__main__":
    main()
