"""Step 2: decoder, probes and optimiser; how they begin, are saved and are taken up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.network import new_model
from recipes.nano.optimizers import Optimizers
from recipes.nano.progress import saved_run
from recipes.nano.retrieving import befores
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.groups import WATCHERS
from recipes.nano.retrieving.held import hold_gains, open_layer
from recipes.nano.retrieving.lessons import HEADS_OF
from recipes.nano.retrieving.probes import Probes
from recipes.nano.retrieving.recall import known_of, with_recall
from recipes.nano.retrieving.sheet import THING
from recipes.nano.shape import (
    HEAD_DIM,
    HEADS,
    LAYERS,
    PUBLISHED,
    RUNS,
    config,
    published_part,
)

FIRST_GAINS = (1.5, 1.5, 2.2)
"""Where each layer's gains of queries and keys begin: with 1, scores reach 8 at most, and ln(10⁶)
is 14. The last tells what misses a letter from what misses none."""
MEAN_OF = 0.998
"""Weights are published as their mean over the last steps, each of which counts so much less than
the next: steps scatter about it as far as the rate is high."""


@dataclass(slots=True)
class Trainer:
    """Decoder, the mean of its last states, probes and optimiser."""

    model: Qwen3VLForConditionalGeneration
    mean: AveragedModel
    probes: Probes
    optimizer: Optimizers

    @property
    def averaged(self) -> Qwen3VLForConditionalGeneration:
        """The mean of the model's last states."""
        return cast(Qwen3VLForConditionalGeneration, self.mean.module)

    def state(self) -> dict[str, Any]:
        return {
            "text": self.model.model.language_model.state_dict(),
            "mean": self.averaged.model.language_model.state_dict(),
            "probes": self.probes.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        text = self.model.model.language_model
        self.probes.load_state_dict(state["probes"], strict=False)
        if "optimizer" not in state:  # Another run's: what it would publish.
            text.load_state_dict(grown(learnt(state), len(text.layers)))
        else:
            text.load_state_dict(state["text"])
            self.averaged.model.language_model.load_state_dict(state["mean"])
            self.mean.n_averaged.fill_(1)
            self.optimizer.load_state_dict(state["optimizer"])
        hold_gains(text.layers)

    def set_apart(self, tokenizer: Tokenizer) -> None:
        """Let tokens that watch begin apart; see `befores`."""
        words = self.model.model.language_model.embed_tokens.weight
        watchers = tokenizer.encode_batch([*WATCHERS], add_special_tokens=False)
        with torch.no_grad():
            words.copy_(befores.set_apart(words, [own.ids[0] for own in watchers]))

    def open_recall(self, lessons: list[Lesson]) -> None:
        """Let heads begin to pass on times of what they look at; see `recall`."""
        text = self.model.model.language_model
        text.load_state_dict(with_recall(text.state_dict(), known_of(self.model, lessons)))

    def open_held(self, layer: int, lessons: list[Lesson]) -> None:
        """Let heads of this layer begin with what a projection can tell already; see `held`."""
        text = self.model.model.language_model
        known = []
        with torch.no_grad():
            for lesson in lessons:
                watched: list[Watched] = []
                run(self.model, lesson, watched)
                known.append((watched[layer].known, lesson))
            open_layer(text.layers, layer, known)

    def begin_as_published(self) -> None:
        """The decoder of the checkpoint in use; probes and optimiser begin anew."""
        text = self.model.model.language_model
        text.load_state_dict(published_part("model.language_model."))
        hold_gains(text.layers)


def decoder_of(name: str) -> dict[str, Tensor]:
    """Weights that a run of `retrieve` would publish, or those that are published."""
    if name == PUBLISHED:
        return published_part("model.language_model.")
    return learnt(saved_run(RUNS / name)["state"])


def learnt(state: dict[str, Any]) -> dict[str, Tensor]:
    """What a saved run would publish."""
    text: dict[str, Tensor] = state["mean"]
    return text


def grown(text: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """A decoder of three layers as one of four: a layer that adds nothing yet stands before the
    last. All its heads match as the last layer's head for things does: they will look for these.
    Its gates begin as those of the layer before it."""
    old, added = f"layers.{LAYERS - 1}.", f"layers.{LAYERS}."
    if layers == LAYERS or any(name.startswith(added) for name in text):
        return text
    out = {name.replace(old, added, 1): part for name, part in text.items()}
    (own,) = HEADS_OF[THING]
    for name, part in text.items():
        if name.startswith(old) and name.endswith(("q_proj.weight", "k_proj.weight")):
            out[name] = part[own * HEAD_DIM : (own + 1) * HEAD_DIM].repeat(HEADS, 1)
        elif name.startswith(old):
            is_matched = "q_norm" in name or "k_norm" in name or "input_layernorm" in name
            before = name.replace(old, f"layers.{LAYERS - 2}.", 1)
            out[name] = (part if is_matched else text[before]).clone()
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                out[name] = torch.zeros_like(part)
    return out


def new_trainer(seed: int, lr: float, layers: int = LAYERS, device: str = "cpu") -> Trainer:
    model, probes = new_model(seed, config(layers)), Probes(with_spans=layers > LAYERS)
    nn.Module.to(model, device)
    probes.to(device)
    text = model.model.language_model
    for layer, gain in zip(text.layers, FIRST_GAINS[: layers - 1] + FIRST_GAINS[-1:], strict=True):
        nn.init.constant_(layer.self_attn.q_norm.weight, gain)
        nn.init.constant_(layer.self_attn.k_norm.weight, gain)
    hold_gains(text.layers)
    own = list(text.layers.parameters())
    rest = [p for p in own if p.ndim < 2] + list(probes.parameters())
    rest += [text.embed_tokens.weight, text.norm.weight]
    mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(MEAN_OF))
    return Trainer(model, mean, probes, Optimizers([p for p in own if p.ndim == 2], rest, lr))
