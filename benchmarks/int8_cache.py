"""nano's answers with an int8 KV cache against those with a bfloat16 one: same clips and questions.

Clips and questions are those of `benchmarks.find_long` at 4K tokens. Every clip is decoded once and
read by three models: bfloat16, bfloat16 with an int8 cache, and float32. Compared are the answers,
letter by letter, and the distribution of the first token that is the model's own to choose.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks._claim import claim
from benchmarks._shapes import NANO_SHAPE, fill, median_s, plan_tokens, write_checkpoint
from benchmarks.find_long import Clip, Tally, draw_clip, job_of
from model.engine import LoadedModel, load_model
from model.kv_cache import CacheForm, KvCache
from model.lanes import Step
from model.session import Filled
from pipeline.decode import decode_chunk
from pipeline.parse import parse_reply
from pipeline.probe import probe
from pipeline.scenes import spans_of
from pipeline.windows import plan_windows
from schemas.job import JobSpec
from schemas.media import FrameBatch, VideoSource
from schemas.plan import VideoPlan
from schemas.ports import Question

SESSION_TOKENS = 4096
HEAD_DIMS = (32, 64, 128)
"""nano's is 64; the released checkpoints' is 128."""


@dataclass(slots=True)
class Side:
    """One way to run the checkpoint, and what it said."""

    model: LoadedModel
    texts: list[str] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    """Logits of the first free token of each answer."""
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True)
class Reading:
    """One clip planned and decoded."""

    plan: VideoPlan
    questions: list[Question]
    batches: list[FrameBatch]


def read_clip(clip: Clip, job: JobSpec, model: LoadedModel) -> Reading:
    """Plan and decode a clip; frames and chunks are the same for every side."""
    index = probe(VideoSource(clip.path.name, str(clip.path)))
    (window,) = plan_windows(index, job, model.facts, model.counter)
    plan, questions = window.plan, window.questions
    grid = plan.sampling.grid
    return Reading(plan, questions, [decode_chunk(index, chunk, grid) for chunk in plan.chunks])


def first_logits(filled: Filled, model: LoadedModel, questions: Sequence[Question]) -> list[Tensor]:
    """Logits of each answer's first free token, on a fork of its own: what the grammar forces
    before it says nothing of the cache."""
    lanes = filled.lanes()
    prompts = [
        model.counter.question_ids(q) + model.grammars.matcher(q).compute_ff_tokens()
        for q in questions
    ]
    steps = [Step(lanes.fork(len(ids)), ids) for ids in prompts]
    return [logits[-1] for logits in lanes.run(steps)]


def ask_clip(side: Side, clip: Clip, job: JobSpec, reading: Reading) -> None:
    """Read one clip's frames into a session, ask, and count."""
    session = side.model.begin(reading.plan)
    for batch in reading.batches:
        session.feed(batch)
    filled = session.finish()
    side.first += first_logits(filled, side.model, reading.questions)
    replies = filled.ask(reading.questions)
    for reply, query, thing in zip(replies, job.queries, clip.asked, strict=True):
        side.texts.append(reply.text)
        _, events = parse_reply(reply, query, reading.plan)
        found = [(float(e.start_pts * e.time_base), float(e.end_pts * e.time_base)) for e in events]
        side.tally.add(found, spans_of(clip.scene, thing))


def compare(clips: int, folder: Path) -> dict[str, Side]:
    """Ask all sides about the same frames of the same clips."""
    sides = {
        "bfloat16": Side(load_model("nano", dtype="bfloat16")),
        "int8": Side(load_model("nano", dtype="bfloat16", kv_dtype="int8")),
        "float32": Side(load_model("nano", dtype="float32")),
    }
    for number in range(clips):
        clip = draw_clip("4k", number, "nano", folder)
        job = job_of("nano", clip, folder / "out")
        for_all = read_clip(clip, job, sides["bfloat16"].model)
        for side in sides.values():
            ask_clip(side, clip, job, for_all)
    return sides


def same_answers(one: Side, other: Side) -> float:
    """Share of answers that are the same, letter by letter."""
    return float(np.mean([a == b for a, b in zip(one.texts, other.texts, strict=True)]))


def apart(one: Side, other: Side) -> str:
    """How far the first token's distributions are from each other."""
    mine, theirs = torch.stack(one.first), torch.stack(other.first)
    log_p, log_q = mine.log_softmax(-1), theirs.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    most = (mine - theirs).abs().max().item()
    return f"max |logit difference| {most:.4f}, mean KL {kl.mean().item():.2e} nats"


def bytes_per_token(head_dim: int, model: LoadedModel, dtype: torch.dtype) -> float:
    """Bytes that a session's cache of nano's layers and heads reserves per token."""
    text = replace(model.checkpoint.spec.text, head_dim=head_dim)
    form = CacheForm(text, dtype, torch.bfloat16, model.weights.layer_devices)
    return KvCache(form, SESSION_TOKENS).num_bytes / SESSION_TOKENS


def prefill_speed() -> float:
    """Time of a bfloat16 cache over that of an int8 one: 32K tokens at the benchmarks' small
    shape, medians of three in turn."""
    question = Question("q", "\nWhen?", "events")
    taken: dict[str, list[float]] = {"auto": [], "int8": []}
    with tempfile.TemporaryDirectory() as name:
        folder = str(write_checkpoint(NANO_SHAPE, Path(name)))
        models = {kv: load_model(folder, dtype="bfloat16", kv_dtype=kv) for kv in taken}
    for turn in range(4):
        for kv, model in models.items():
            plan = plan_tokens(model.facts, model.counter, 32_768, [question])
            seconds = median_s(lambda m=model, p=plan: fill(m, p), 1)
            taken[kv] += [seconds] if turn else []
    plain_s, int8_s = (float(np.median(taken[kv])) for kv in ("auto", "int8"))
    print(f"prefill of 32K tokens: bfloat16 {plain_s:.2f} s, int8 {int8_s:.2f} s")
    return plain_s / int8_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--keep", default="", help="folder for the clips, used again next time")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(options.keep or name)
        folder.mkdir(parents=True, exist_ok=True)
        sides = compare(options.clips, folder)
    wide, narrow, full = sides["bfloat16"], sides["int8"], sides["float32"]
    print(
        f"{len(wide.texts)} questions on {options.clips} clips, {time.monotonic() - started:.0f} s"
    )
    for label, side in sides.items():
        print(f"{label:9} recall {side.tally.recall}  precision {side.tally.precision}")
    print(f"first free token, int8 to bfloat16:    {apart(wide, narrow)}")
    print(f"first free token, bfloat16 to float32: {apart(full, wide)}")
    print(f"same answers, bfloat16 and float32: {same_answers(wide, full):.4f}")
    ratios = []
    for dim in HEAD_DIMS:
        codes, numbers = (
            bytes_per_token(dim, wide.model, dtype) for dtype in (torch.int8, torch.bfloat16)
        )
        ratios.append(codes / numbers)
        print(f"head_dim {dim:3}: {codes:.0f} of {numbers:.0f} bytes/token, {ratios[-1]:.3f}")
    claim("int8_same_answers", same_answers(wide, narrow), 0.995)
    claim("int8_bytes_ratio", max(ratios), 0.55, at_most=True)
    claim("int8_prefill_speed", prefill_speed(), 0.9)


if __name__ == "__main__":
    main()
