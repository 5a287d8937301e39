"""Checkpoints of chosen shapes with random weights, and videos of any length, for benchmarks.

The tokenizer and token ids are nano's; everything else is the shape's own. Frames are noise, drawn
once and used again: what is measured does not depend on them.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from model.facts import NANO
from pipeline.plan import plan_video
from schemas.media import FrameBatch, RgbArray
from schemas.plan import FrameGrid, SamplingPlan, VideoPlan
from schemas.ports import ModelFacts, PromptCounter, Question
from schemas.time import TimeSpan

if TYPE_CHECKING:
    from model.engine import LoadedModel
    from model.session import Filled

SIDE = 12
"""Merged tokens per side of a frame: 384 × 384 pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Widths of a checkpoint."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vision_depth: int
    vision_hidden: int
    vision_ffn: int
    vision_heads: int


NANO_SHAPE = Shape(4, 128, 4, 2, 32, 384, 2, 128, 384, 4)
WIDE_2B = Shape(4, 2048, 16, 8, 128, 6144, 3, 1024, 4096, 16)
"""2B's widths; depths cut by the same factor of seven."""


def config_of(shape: Shape) -> dict[str, Any]:
    """config.json of a shape."""
    config: dict[str, Any] = json.loads((NANO / "config.json").read_text())
    sections = [shape.head_dim // 2 - 2 * (n := round(shape.head_dim * 20 / 128)), n, n]
    config["dtype"] = "bfloat16"
    config["text_config"] |= {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": 1 << 20,
        "initializer_range": 0.02,
        "dtype": "bfloat16",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_interleaved": True,
            "mrope_section": sections,
        },
    }
    config["vision_config"] |= {
        "depth": shape.vision_depth,
        "hidden_size": shape.vision_hidden,
        "intermediate_size": shape.vision_ffn,
        "num_heads": shape.vision_heads,
        "out_hidden_size": shape.hidden,
        "deepstack_visual_indexes": list(range(min(3, shape.vision_depth))),
        "dtype": "bfloat16",
    }
    return config


def write_checkpoint(shape: Shape, folder: Path) -> Path:
    """A checkpoint folder of that shape, bfloat16, seed 0."""
    # Torch belongs to those who measure it: a parent that only starts children stays small.
    from model.weights import random_weights

    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(shape)
    random_weights(config, "bfloat16").module.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(NANO / "tokenizer.json", folder)
    return folder


def plan_tokens(
    facts: ModelFacts,
    counter: PromptCounter,
    tokens: int,
    questions: list[Question],
    prefill_chunk: int = 8192,
) -> VideoPlan:
    """The plan of a video of at most `tokens` tokens, a frame a second."""
    grid = FrameGrid(SIDE, SIDE, facts.token_px)
    longest = counter.pair_tokens("<99999.9 seconds>", grid.tokens)
    pts = tuple(range(2 * (tokens // longest)))
    base = Fraction(1)
    sampling = SamplingPlan(TimeSpan(0, len(pts), base), pts, grid, Fraction(1), ())
    # One chunk is made while the one before it is still held.
    return plan_video(
        sampling,
        facts,
        counter,
        questions,
        context=1 << 21,
        prefill_chunk=prefill_chunk,
        waiting_chunks=1,
    )


@lru_cache(maxsize=1)
def _noise(side_px: int) -> RgbArray:
    return np.random.default_rng(0).integers(0, 256, (16, side_px, side_px, 3), dtype=np.uint8)


def batches(plan: VideoPlan) -> Iterator[FrameBatch]:
    """The plan's chunks as a decoder would hand them on."""
    noise = _noise(plan.sampling.grid.height)
    for chunk in plan.chunks:
        rgb = noise[np.arange(2 * len(chunk.pairs)) % len(noise)]
        yield FrameBatch(chunk.index, chunk.frame_pts, rgb, 0)


def fill(model: LoadedModel, plan: VideoPlan) -> Filled:
    """A session with the whole plan in it."""
    session = model.begin(plan)
    for batch in batches(plan):
        session.feed(batch)
    return session.finish()


def median_s(run: Callable[[], object], times: int = 3) -> float:
    """Median wall time of some runs, in seconds; the caller has warmed up."""
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def status_bytes(key: str) -> int:
    """A figure of this process as the operating system has it: `VmRSS`, `VmHWM` (the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))
