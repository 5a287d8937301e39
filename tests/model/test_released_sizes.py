"""Every released size at small width and depth: heads, widths, experts and embeddings in the
proportions of its config, against the library's own forward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.kv_cache import CacheForm, KvCache
from model.positions import Cursor
from model.prefill import run_tokens
from model.prompt import PromptLayout
from model.spec import CheckpointSpec, read_spec
from model.timeline import join_tokens, text_tokens, video_tokens
from model.tokenizer import TextTokenizer
from model.vision import VisionEncoder
from model.weights import Weights
from schemas.ports import Question
from tests.model.tiny import (
    Shape,
    config_of,
    library_inputs,
    make_frames,
    make_plan,
    random_model,
    small_tokenizer,
)

LAYERS = 4
SECTIONS = {64: [12, 10, 10], 128: [24, 20, 20]}
"""Interleaved-MRoPE: what the released head dimension of 128 has, and half of it."""


@dataclass(frozen=True)
class Size:
    """What a released config says, heads and experts divided by some number."""

    heads: int
    kv_heads: int
    hidden: float
    """Hidden width, as a part of all query heads' width: 1 where head_dim is hidden / heads."""
    ffn: float
    """Width of the MLP, or of an expert, as a part of the hidden width."""
    vision: tuple[int, int, int, int]
    """Depth, hidden width, MLP width and heads of the vision tower."""
    tied: bool = False
    experts: tuple[int, int] = (0, 0)
    """Experts of a layer and of a token."""


LARGE, HUGE = (4, 128, 512, 2), (3, 144, 538, 2)
"""24 × 1024 / 4096 / 16 heads of 64; 27 × 1152 / 4304 / 16 heads of 72."""
SIZES = {
    "2B": Size(4, 2, 1, 3, LARGE, tied=True),
    "4B": Size(8, 2, 5 / 8, 3.8, LARGE, tied=True),
    "8B": Size(8, 2, 1, 3, HUGE),
    "32B": Size(8, 1, 5 / 8, 5, HUGE),
    "30B-A3B": Size(8, 1, 1 / 2, 3 / 8, HUGE, experts=(128, 8)),
    "235B-A22B": Size(16, 1, 1 / 2, 3 / 8, HUGE, experts=(32, 2)),
}
CASES = [(name, 64) for name in SIZES] + [(n, 128) for n in ("2B", "4B", "8B", "32B")]


def config_of_size(size: Size, head_dim: int) -> dict[str, Any]:
    """config.json of a size."""
    moe = size.experts != (0, 0)
    config = config_of(Shape(moe=moe, tied=size.tied, deepstack=(0, 1, 2), layers=LAYERS))
    text, vision = config["text_config"], config["vision_config"]
    hidden = int(size.heads * head_dim * size.hidden)
    text |= {
        "hidden_size": hidden,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.kv_heads,
        "head_dim": head_dim,
        "intermediate_size": int(hidden * (3 if moe else size.ffn)),
        "initializer_range": 1.2 / hidden**0.5,
    }
    text["rope_parameters"]["mrope_section"] = SECTIONS[head_dim]
    if moe:
        experts, used = size.experts
        text |= {"num_experts": experts, "num_experts_per_tok": used, "norm_topk_prob": True}
        text["moe_intermediate_size"] = int(hidden * size.ffn)
    depth, width, ffn, heads = size.vision
    vision |= {"depth": depth, "hidden_size": width, "intermediate_size": ffn, "num_heads": heads}
    vision |= {"out_hidden_size": hidden, "initializer_range": 0.05}
    return config


class Case:
    """A size with random weights, a video of three pairs and a question."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        (folder / "config.json").write_text(json.dumps(config))
        small_tokenizer().save(str(folder / "tokenizer.json"))
        self.spec: CheckpointSpec = read_spec(folder)
        self.reference = random_model(config)
        self.weights = Weights(self.reference)
        layout = PromptLayout(self.spec, TextTokenizer(folder))
        plan = make_plan(layout, pairs=3, pairs_per_chunk=3)
        self.rgb = make_frames(6)
        features = VisionEncoder(self.weights.vision, self.spec.vision).encode(self.rgb)
        prefix, cursor = text_tokens(layout.prefix_ids(), Cursor())
        video, cursor = video_tokens(
            plan.chunks[0].pairs, plan.sampling.grid, features, layout, cursor
        )
        question = layout.question_ids(Question("q", "\nWhen is a bar on screen?", "events"))
        self.prompt = join_tokens([prefix, video, text_tokens(question, cursor)[0]])
        pair_tokens = plan.chunks[0].pairs[0].num_tokens
        self.pair_ends = [len(prefix) + n * pair_tokens for n in range(4)]

    @torch.inference_mode()
    def expected(self) -> Tensor:
        """(tokens, vocabulary)."""
        logits: Tensor = self.reference(**library_inputs(self.prompt.ids.tolist(), self.rgb)).logits
        return logits[0]

    def logits(self, cuts: Sequence[int]) -> Tensor:
        """(pieces, vocabulary): logits behind the last token of each piece between two cuts."""
        layers = self.weights.layer_devices
        form = CacheForm(self.spec.text, torch.float32, torch.float32, layers)
        cache = KvCache(form, len(self.prompt))
        hidden = [
            run_tokens(self.weights, self.prompt.slice(start, stop), cache, 1)
            for start, stop in pairwise([0, *cuts, len(self.prompt)])
        ]
        return self.weights.logits(torch.cat(hidden))


@pytest.mark.parametrize(("name", "head_dim"), CASES, ids=str)
def test_logits_equal_the_librarys(tmp_path: Path, name: str, head_dim: int) -> None:
    case = Case(tmp_path, config_of_size(SIZES[name], head_dim))
    expected, count = case.expected(), len(case.prompt)
    assert expected.std() > 0.1
    across = [end + 4 for end in case.pair_ends]
    for cuts in (range(1, count), range(7, count, 7), case.pair_ends, across, ()):
        behind = [cut - 1 for cut in (*cuts, count)]
        assert (case.logits(cuts) - expected[behind]).abs().max() <= 1e-4, list(cuts)


@pytest.mark.parametrize("name", SIZES)
def test_the_table_keeps_the_released_proportions(name: str) -> None:
    """Against hidden width, query heads, KV heads, MLP or expert width, experts, experts used."""
    released = {
        "2B": (2048, 16, 8, 6144, 0, 0),
        "4B": (2560, 32, 8, 9728, 0, 0),
        "8B": (4096, 32, 8, 12288, 0, 0),
        "32B": (5120, 64, 8, 25600, 0, 0),
        "30B-A3B": (2048, 32, 4, 768, 128, 8),
        "235B-A22B": (4096, 64, 4, 1536, 128, 8),
    }
    hidden, heads, kv_heads, ffn, experts, used = released[name]
    size = SIZES[name]
    assert size.heads / size.kv_heads == heads / kv_heads
    assert size.hidden == hidden / (heads * 128)
    assert size.ffn == ffn / hidden
    assert size.experts[0] * used == size.experts[1] * experts
