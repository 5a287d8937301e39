"""Many questions on one video, and what a decoded token costs: nano's shape, bfloat16.

Sixteen questions against one on a video of 32K tokens, prefill included, answers of 64 tokens. A
token decoded behind 128K tokens against reading the KV cache once, by the fastest reader at hand:
the larger of a sum and a copy's rate over the same memory.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks._claim import claim
from benchmarks._shapes import NANO_SHAPE, fill, median_s, plan_tokens, write_checkpoint
from model.engine import LoadedModel, load_model
from model.lanes import Step
from schemas.ports import Question

ANSWER_TOKENS = 64
STEPS = 30


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


def decoding(model: LoadedModel) -> None:
    """One token at a time on one lane, against the memory behind it."""
    plan = plan_tokens(model.facts, model.counter, 131_072, [ask_for(0)])
    filled = fill(model, plan)
    lanes = filled.lanes()
    lane = lanes.fork(STEPS + 8)
    lanes.run([Step(lane, [300])])
    taken = []
    for _ in range(STEPS):
        started = time.perf_counter()
        lanes.run([Step(lane, [300])])
        taken.append(time.perf_counter() - started)
    token_s = statistics.median(taken)
    # Written once: untouched zeros are all one page of the system, which no memory is read for.
    memory = torch.ones(plan.memory.kv_bytes // 8, dtype=torch.int64)
    target = torch.empty_like(memory)
    memory.sum()
    sum_s = median_s(memory.sum, 9)
    # A copy reads and writes: half of its time is reading.
    copy_s = median_s(lambda: target.copy_(memory), 9) / 2
    read_s = min(sum_s, copy_s)
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
