"""Step 5: write the checkpoint as any Qwen3-VL is published: config, tokenizer, safetensors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from recipes.nano import tokenizer as tokenizer_step
from recipes.nano.network import new_model
from recipes.nano.shape import CHECKPOINT, CONTEXT, ID, RUNS, config

ADVICE = {"fps": 1.0, "pair_tokens": 16, "context_tokens": CONTEXT}
"""What the checkpoint does best with; a job may ask otherwise."""


def preprocessor(advice: dict[str, Any]) -> dict[str, Any]:
    """The released processors' settings, and our advice beside them."""
    return {
        "video_processor_type": "Qwen3VLVideoProcessor",
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"longest_edge": 2 * 32 * 32 * advice["context_tokens"], "shortest_edge": 4096},
        "longtake": advice,
    }


def write(
    state: dict[str, torch.Tensor],
    folder: Path,
    settings: dict[str, Any],
    advice: dict[str, Any],
) -> None:
    """Write everything but the tokenizer into `folder`; weights take two bytes each, whatever
    `settings` says they are computed in."""
    # Tied to the embeddings: published once.
    tensors = {
        name: part.contiguous().to(torch.bfloat16)
        for name, part in state.items()
        if name != "lm_head.weight"
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    generation = {
        "do_sample": False,
        "eos_token_id": [ID["<|im_end|>"], ID["<|endoftext|>"]],
        "pad_token_id": ID["<|endoftext|>"],
        "bos_token_id": ID["<|endoftext|>"],
    }
    for name, data in (
        ("config.json", settings),
        ("generation_config.json", generation),
        ("video_preprocessor_config.json", preprocessor(advice)),
    ):
        (folder / name).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="", help="run to export; none: random weights")
    options = parser.parse_args()
    state = new_model(0).state_dict()
    if options.run:
        state = torch.load(RUNS / options.run, weights_only=True)["model"]
    tokenizer_step.save(CHECKPOINT)
    write(state, CHECKPOINT, config(), ADVICE)
    print(f"wrote {CHECKPOINT.name}/", flush=True)


if __name__ == "__main__":
    main()
