"""Step 3: write the checkpoint as any Qwen3-VL is published: config, tokenizer, safetensors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.retrieving.relink import relinked
from recipes.nano.retrieving.trainer import decoder_of
from recipes.nano.seeing.see import tower_of
from recipes.nano.shape import (
    CHECKPOINT,
    CONTEXT,
    ID,
    LAYERS,
    PUBLISHED,
    count_parts,
    published,
)

READERS, DECODERS = ("reader2.pt", "reader3.pt"), ("spans4.pt",)
"""Runs whose mean is written: of readers and of decoders."""
ADVICE = {"fps": 2.0, "pair_tokens": 24, "context_tokens": CONTEXT}
"""What a job gets where it is silent: the most frames that it takes by itself, 2,048, are 32.7K
tokens then, and in up to 32K spans were learnt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--readers",
        default=",".join(READERS),
        help="runs of `see`, whose mean is taken, or 'published'",
    )
    parser.add_argument(
        "--decoders",
        default=",".join(DECODERS),
        help="runs of `retrieve`, whose mean is taken, or 'published'",
    )
    parser.add_argument("--folder", type=Path, default=CHECKPOINT)
    options = parser.parse_args()
    text = _mean([_decoder(name) for name in options.decoders.split(",")])
    visual = _mean([tower_of(name) for name in options.readers.split(",")])
    settings = published(count_parts(text, "layers"), count_parts(visual, "blocks"))
    tokenizer_step.save(options.folder)
    parts = (("model.language_model.", text), ("model.visual.", visual))
    weights = {prefix + name: weight for prefix, part in parts for name, weight in part.items()}
    _write(weights, options.folder, settings)
    print(f"wrote {options.folder.name}/", flush=True)


def _decoder(name: str) -> dict[str, Tensor]:
    own = decoder_of(name)
    has_links = count_parts(own, "layers") > LAYERS
    return relinked(own) if has_links and name != PUBLISHED else own


def _preprocessor() -> dict[str, Any]:
    """The released processors' settings, and our advice beside them."""
    return {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"longest_edge": 2 * 32 * 32 * CONTEXT, "shortest_edge": 4096},
        "longtake": ADVICE,
    }


def _write(weights: dict[str, Tensor], folder: Path, settings: dict[str, Any]) -> None:
    """Everything but the tokenizer into `folder`."""
    in_two_bytes = {name: part.to(torch.bfloat16) for name, part in weights.items()}
    save_file(in_two_bytes, folder / "model.safetensors", metadata={"format": "pt"})
    generation = {
        "do_sample": False,
        "eos_token_id": [ID["<|im_end|>"], ID["<|endoftext|>"]],
        "pad_token_id": ID["<|endoftext|>"],
        "bos_token_id": ID["<|endoftext|>"],
    }
    for name, data in (
        ("config.json", settings),
        ("generation_config.json", generation),
        ("video_preprocessor_config.json", _preprocessor()),
    ):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _mean(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([run[name].float() for run in runs]).mean(0) for name in runs[0]}


if __name__ == "__main__":
    main()
