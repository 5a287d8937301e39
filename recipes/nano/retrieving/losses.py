"""Step 2: how far the decoder is from a batch and from all that it is told on the way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration

from recipes.nano.network import in_bfloat16
from recipes.nano.retrieving import befores, gathers
from recipes.nano.retrieving.batch import Lesson
from recipes.nano.retrieving.blends import Blends, blend_loss, missed
from recipes.nano.retrieving.decoder import Watched, run
from recipes.nano.retrieving.far import FarKeys, far_losses
from recipes.nano.retrieving.held import held_losses
from recipes.nano.retrieving.looks import choice_loss, look_losses
from recipes.nano.retrieving.probes import Probes
from recipes.nano.retrieving.sheet import CHANGED, CLOCK, EARLIER, LETTERS, SEEN

LOUDER = 5.0
"""Times that what heads hold in the first two layers is told: they have other tasks too."""
_EASY = (f"know{LETTERS}", f"know{CLOCK}")
_LOUDER = tuple(f"{part}{own.LAYER}" for part in ("ask", "key") for own in (gathers, befores))
_SETS = (f"know{SEEN}", f"know{EARLIER}", f"know{CHANGED}")


def lesson_loss(
    model: Qwen3VLForConditionalGeneration,
    probes: Probes,
    lesson: Lesson,
    *,
    looking: float,
    knowing: float,
    naming: float,
    changing: float = 0.0,
    answering: float = 1.0,
    linking: float = 0.0,
    choosing: float = 0.0,
    blends: Blends | None = None,
    blending: float = 0.0,
    far: FarKeys | None = None,
    reaching: float = 0.0,
    margin: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to print of it."""
    weight_of = dict.fromkeys(_EASY, knowing) | dict.fromkeys(_SETS, changing)
    watched: list[Watched] = []
    bias = lesson.bias.written_out()
    with in_bfloat16(lesson.ids.device):
        layers = run(model, lesson, watched, bias)
    picked = lesson.labels >= 0
    logits = F.linear(layers[-1][picked].float(), model.model.language_model.embed_tokens.weight)
    weights, is_right = lesson.weights[picked], lesson.right_tokens(logits.shape[-1])
    answer = (missed(logits, is_right) * weights).sum() / weights.sum()
    looks = look_losses(watched, lesson, bias, margin)
    knows = probes.losses(layers, watched, lesson)
    held = held_losses(watched, lesson)
    choice = choice_loss(watched[-1], lesson, bias)
    reached = {} if far is None else far_losses(model, watched[0], lesson, far, margin)
    helped = choosing * choice
    read = {}
    if blends is not None and len(blends.of):
        read["blend"], read["read"] = blend_loss(model, layers[-3], watched[-1], blends)
        helped = helped + blending * read["blend"]
    for value in reached.values():
        helped = helped + reaching * value
    for value in looks.values():
        helped = helped + looking * value
    for name, value in knows.items():
        helped = helped + weight_of.get(name, naming) * value
    for name, value in held.items():
        louder = LOUDER if name.startswith(_LOUDER) else 1.0
        helped = helped + linking * louder * value
    free = weights > 0.5
    said = logits.argmax(-1, keepdim=True)
    right = is_right.gather(1, said)[free].float().mean()
    told = {
        "answer": answer,
        "tokens": right,
        "choice": choice,
        **read,
        **looks,
        **reached,
        **knows,
        **held,
    }
    numbers = torch.stack([value.detach() for value in told.values()]).tolist()
    return answering * answer + helped, dict(zip(told, numbers, strict=True))
