"""Tiny checkpoints on disk: random weights, the released sizes' ratios at two or three layers, and
a small byte-level tokenizer with more rows in the embedding than it knows. Built once per run.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from model.weights import random_weights
from schemas.media import FrameBatch, RgbArray
from schemas.plan import Chunk, FrameGrid, MemoryNeed, PatchPair, SamplingPlan, VideoPlan
from schemas.ports import ModelFacts, PromptCounter
from schemas.time import TimeSpan

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
THINKING = ("<think>", "</think>")
"""Known to every released tokenizer, as tokens that are not special; here to thinking ones only."""
VOCAB = 416
THINKING_TEMPLATE = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n<think>\\n' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n<think>\\n' }}\n"
    "{%- endif %}\n"
)


@cache
def small_tokenizer() -> Tokenizer:
    """Byte-level, digits one by one, trained on a few words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "user assistant events start end kind title answer seconds when is a bar on screen"
    tokenizer.train_from_iterator([words, f" {words}", '{"events": [{"start": '] * 50, trainer)
    return tokenizer


@cache
def thinking_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_str(small_tokenizer().to_str())
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINKING])
    return tokenizer


@dataclass(frozen=True)
class Shape:
    """What varies between the tiny checkpoints."""

    moe: bool = False
    tied: bool = True
    deepstack: tuple[int, ...] = (0, 1)
    layers: int = 3
    kv_heads: int = 2
    rope: tuple[tuple[str, Any], ...] = ()
    thinks: bool = False


def config_of(shape: Shape) -> dict[str, Any]:
    """config.json of a tiny checkpoint."""
    ids = {text: number for number, text in enumerate(SPECIALS)}
    kind = "qwen3_vl_moe" if shape.moe else "qwen3_vl"
    text: dict[str, Any] = {
        "model_type": f"{kind}_text",
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "initializer_range": 0.15,
        "rms_norm_eps": 1e-6,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": shape.tied,
        "dtype": "float32",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_interleaved": True,
            "mrope_section": [6, 5, 5],
            **dict(shape.rope),
        },
    }
    if shape.moe:
        text |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    return {
        "architectures": [
            "Qwen3VLMoeForConditionalGeneration" if shape.moe else "Qwen3VLForConditionalGeneration"
        ],
        "model_type": kind,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": shape.tied,
        "dtype": "float32",
        "text_config": text,
        "vision_config": {
            "model_type": "qwen3_vl_moe_vision" if shape.moe else "qwen3_vl_vision",
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 128,
            "num_heads": 2,
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": list(shape.deepstack),
            "initializer_range": 0.1,
            "dtype": "float32",
        },
    }


def random_model(config: dict[str, Any]) -> Any:
    """The library's own model with random weights, norms and biases included."""
    model = random_weights(config, "float32", seed=7).module
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                weight.add_(torch.randn_like(weight) * 0.2)
            if name.endswith("mlp.gate.weight"):
                weight.normal_(std=4 / weight.shape[1] ** 0.5)
    return model


@dataclass(frozen=True)
class Tiny:
    """A tiny checkpoint on disk and the library's model of it."""

    folder: Path
    shape: Shape
    reference: Any = field(repr=False)


@cache
def make_tiny(shape: Shape = Shape()) -> Tiny:
    """A checkpoint of some shape; by default dense, tied, two DeepStack levels, grouped heads."""
    folder = Path(tempfile.mkdtemp(prefix="longtake-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model = random_model(config_of(shape))
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config_of(shape)))
    tokenizer = thinking_tokenizer() if shape.thinks else small_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    if shape.thinks:
        (folder / "chat_template.jinja").write_text(THINKING_TEMPLATE)
    return Tiny(folder, shape, model)


def make_plan(
    counter: PromptCounter,
    *,
    pairs: int = 4,
    rows: int = 2,
    cols: int = 3,
    pairs_per_chunk: int = 2,
    facts: ModelFacts | None = None,
) -> VideoPlan:
    """A plan of `2 × pairs` frames, one second apart, in chunks of some pairs."""
    base = Fraction(1, 10)
    grid = FrameGrid(rows, cols, 32)
    pts = tuple(range(0, 20 * pairs, 10))
    sampling = SamplingPlan(TimeSpan(0, 20 * pairs, base), pts, grid, Fraction(1), ())
    made = []
    for first, last in zip(pts[::2], pts[1::2], strict=True):
        text = PatchPair.text_of(first, last, base)
        made.append(PatchPair(first, last, text, counter.pair_tokens(text, grid.tokens)))
    chunks = tuple(
        Chunk(number, tuple(made[start : start + pairs_per_chunk]))
        for number, start in enumerate(range(0, pairs, pairs_per_chunk))
    )
    tokens = sum(pair.num_tokens for pair in made)
    need = facts.memory(tokens, max(c.num_tokens for c in chunks)) if facts else MemoryNeed(0, 0, 0)
    return VideoPlan(sampling, chunks, counter.prefix_tokens(), 400, need, 0)


def make_frames(frames: int, rows: int = 2, cols: int = 3, seed: int = 0) -> RgbArray:
    """Random pictures of `rows` × `cols` merged tokens."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (frames, rows * 32, cols * 32, 3), dtype=np.uint8)


def cut_batches(plan: VideoPlan, rgb: RgbArray) -> list[FrameBatch]:
    """The plan's chunks as a decoder would hand them on."""
    batches, at = [], 0
    for chunk in plan.chunks:
        stop = at + 2 * len(chunk.pairs)
        batches.append(FrameBatch(chunk.index, chunk.frame_pts, rgb[at:stop], 0))
        at = stop
    return batches


def library_patches(rgb: RgbArray) -> tuple[Tensor, Tensor]:
    """pixel_values_videos and video_grid_thw, written from the processor's description."""
    n, height, width, _ = rgb.shape
    x = (torch.tensor(rgb).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    gt, gh, gw = n // 2, height // 16, width // 16
    x = x.view(1, gt, 2, 3, gh // 2, 2, 16, gw // 2, 2, 16)
    x = x.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return x.reshape(gt * gh * gw, 3 * 2 * 16 * 16), torch.tensor([[gt, gh, gw]])


def library_inputs(
    ids: list[int], *videos: RgbArray, images: Sequence[RgbArray] = ()
) -> dict[str, Tensor]:
    """Arguments of the library's forward and generate for a prompt with videos (frames, H, W, 3)
    and images (H, W, 3), each in the prompt's order."""
    row = torch.tensor([ids])
    kinds = torch.zeros_like(row)
    for kind, text in ((1, "<|image_pad|>"), (2, "<|video_pad|>")):
        kinds[row == SPECIALS.index(text)] = kind
    found = {"input_ids": row, "mm_token_type_ids": kinds.int()}
    if videos:
        pixels, grids = zip(*map(library_patches, videos), strict=True)
        found |= {"pixel_values_videos": torch.cat(pixels), "video_grid_thw": torch.cat(grids)}
    if images:
        doubled = [np.stack([image, image]) for image in images]
        pixels, grids = zip(*map(library_patches, doubled), strict=True)
        found |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
    return found
