"""Step 3: write the checkpoint as any Qwen3-VL is published: config, tokenizer, safetensors."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recipes.nano.export import write
from recipes.nano.next import tokenizer as tokenizer_step
from recipes.nano.next.progress import saved_run
from recipes.nano.next.see import tower
from recipes.nano.next.shape import CHECKPOINT, CONTEXT, PUBLISHED, RUNS, published, published_part
from recipes.nano.next.trainer import decoder_of

READERS, DECODERS = ("reader2.pt", "reader3.pt"), ("spans6.pt", "spans7.pt")
"""Runs whose mean is written: of readers and of decoders."""
ADVICE = {"fps": 2.0, "pair_tokens": 144, "context_tokens": CONTEXT}
"""What a job gets where it is silent."""


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
    text = _mean([decoder_of(name) for name in options.decoders.split(",")])
    layers = 1 + max(int(name.split(".")[1]) for name in text if name.startswith("layers."))
    model = tower(0, layers)
    if options.readers == PUBLISHED:
        model.model.visual.load_state_dict(published_part("model.visual."))
    else:
        readers = [_state(name)["visual"] for name in options.readers.split(",")]
        model.model.visual.load_state_dict(_mean(readers))
    model.model.language_model.load_state_dict(text)
    tokenizer_step.save(options.folder)
    write(model.state_dict(), options.folder, published(layers), ADVICE)
    print(f"wrote {options.folder.name}/", flush=True)


def _state(name: str) -> dict[str, Any]:
    state: dict[str, Any] = saved_run(RUNS / name)["state"]
    return state


def _mean(runs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([run[name] for run in runs]).mean(0) for name in runs[0]}


if __name__ == "__main__":
    main()
