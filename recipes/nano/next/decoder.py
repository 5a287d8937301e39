"""Step 2b: rows as one batch, the decoder over it, and how far it is from what it was told.

A short lesson stands for a long video: every token of the video that is not asked for counts as if
there were many of it, by adding the logarithm of that number to its attention scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import rotate_half

from pipeline.lettering import ALPHABET, CODE_LENGTH
from recipes.nano.codes import CODE_NORM, class_codes
from recipes.nano.next.lessons import (
    CHANGED,
    CLOCK,
    COMING,
    GOING,
    LETTERS,
    NAMED,
    NEXT_COMING,
    NEXT_GOING,
    SEEN,
    THING,
    Sheet,
)
from recipes.nano.next.shape import HEAD_DIM, HEADS, HIDDEN, ID
from recipes.nano.next.span_courses import MOST_EVENTS
from recipes.nano.pictures import CLASSES

_SHUT = -1e9
STATE_OF = {NAMED: 0, SEEN: 0, LETTERS: 1, CLOCK: 1, THING: 1, CHANGED: 1}
STATE_OF |= dict.fromkeys((COMING, GOING, NEXT_COMING, NEXT_GOING), 2)
"""The layer behind which a token should know it."""
SAME = {NEXT_COMING: COMING, NEXT_GOING: GOING}
"""Known in the same form, so that one can be matched with the other."""
COUNTING = 3.0
"""Weight of looks that count, of which there are few, against others."""
LOUDEST_THINGS, LOUDEST_CODES = 7.0, 2.0
"""A million tokens hold a thousand times a lesson's ground, a thing that comes and goes in a
thousand pairs, and no more than seven times its codes."""


@dataclass(frozen=True, slots=True)
class Loudness:
    """Logarithm of how many times a token of the video counts, by what it holds."""

    ground: float
    things: float
    codes: float


@dataclass(frozen=True, slots=True)
class Looks:
    """Rows of one layer and head that are told where to look."""

    layer: int
    head: int
    of: Tensor
    """(rows,) which sequence."""
    at: Tensor
    """(rows,) column that looks."""
    padded: Tensor
    """(B, most rows of a sequence) columns that look; the last column fills it up."""
    number: Tensor
    """(rows,) where each stands in `padded`, flat."""
    wanted: Tensor
    """(rows, N) bool."""
    evenly: bool = False
    """At all that is wanted alike, not just at any of it."""

    def to(self, device: torch.device) -> Looks:
        return Looks(
            self.layer,
            self.head,
            self.of.to(device),
            self.at.to(device),
            self.padded.to(device),
            self.number.to(device),
            self.wanted.to(device),
            self.evenly,
        )


@dataclass(frozen=True, slots=True)
class Knows:
    """Tokens that should know something."""

    of: Tensor
    at: Tensor
    classes: Tensor
    """(tokens, parts)."""

    def to(self, device: torch.device) -> Knows:
        return Knows(*(part.to(device) for part in (self.of, self.at, self.classes)))


@dataclass(frozen=True, slots=True)
class Lesson:
    """A batch."""

    ids: Tensor
    """(B, N)."""
    positions: Tensor
    """(3, B, N)."""
    visual: Tensor
    """(B, N) bool."""
    features: Tensor
    """(visual tokens, hidden)."""
    bias: Tensor
    """(B, 1, N, N) added to attention scores: loudness, and what is not seen."""
    tail: int
    """First column that any question begins at: the last layer's queries start there."""
    labels: Tensor
    """(B, N − tail), −100 where nothing is learnt."""
    also: Tensor
    """(others, 3): sequence, column from `tail` on, and a token that is as right as the label."""
    weights: Tensor
    looks: tuple[Looks, ...]
    knows: dict[int, Knows]

    def to(self, device: torch.device) -> Lesson:
        return Lesson(
            self.ids.to(device),
            self.positions.to(device),
            self.visual.to(device),
            self.features.to(device),
            self.bias.to(device),
            self.tail,
            self.labels.to(device),
            self.also.to(device),
            self.weights.to(device),
            tuple(look.to(device) for look in self.looks),
            {what: own.to(device) for what, own in self.knows.items()},
        )

    def right_tokens(self, words: int) -> Tensor:
        """(labels that are learnt, words) bool, in the order of `labels >= 0`."""
        picked = self.labels >= 0
        right = F.one_hot(self.labels[picked], words).bool()
        number = picked.flatten().cumsum(0).view(picked.shape) - 1
        of, at, token = self.also.T
        right[number[of, at], token] = True
        return right


def join(sheets: list[Sheet], features: list[Tensor], loudness: list[Loudness]) -> Lesson:
    """Rows as one batch, each of its own loudness."""
    size, total = len(sheets), max(len(sheet.ids) for sheet in sheets)
    ids = torch.zeros(size, total, dtype=torch.long)
    positions = torch.zeros(3, size, total, dtype=torch.long)
    owner = torch.full((size, total), -1000)
    labels, weights = torch.full((size, total), -100), torch.zeros(size, total)
    for i, sheet in enumerate(sheets):
        n = len(sheet.ids)
        ids[i, :n] = torch.tensor(sheet.ids)
        positions[:, i, :n] = torch.tensor(sheet.positions).T
        owner[i, :n] = torch.tensor(sheet.owner)
        for at, label in sheet.labels.items():
            labels[i, at] = label
            weights[i, at] = sheet.weights[at]
    begins = (owner < -1) & (owner > -1000)
    tail = int(torch.where(begins, torch.arange(total), total - 1).amin())
    loud = torch.zeros(size, total)
    for i, (sheet, own) in enumerate(zip(sheets, loudness, strict=True)):
        loud[i] = own.ground
        for column, what in sheet.holds.items():
            loud[i, column] = own.codes if what == LETTERS else own.things
    bias = _bias(owner, loud)
    for i, sheet in enumerate(sheets):
        for row, columns in sheet.exempt:
            bias[i, row, columns] = 0
        for row, columns, count in sheet.crowds:
            bias[i, row, columns] = float(np.log(count))
        for column, only in sheet.hidden:
            bias[i, column + 1 :, column] = _SHUT
            if only is not None:
                bias[i, only, column] = 0
    return Lesson(
        ids,
        positions,
        ids == ID["<|video_pad|>"],
        torch.cat(features),
        bias[:, None],
        tail,
        labels[:, tail:],
        torch.tensor(
            [(i, at - tail, token) for i, sheet in enumerate(sheets) for at, token in sheet.also],
            dtype=torch.long,
        ).view(-1, 3),
        weights[:, tail:],
        _looks(sheets, total),
        _knows(sheets),
    )


def _bias(owner: Tensor, loudness: Tensor) -> Tensor:
    """(B, N, N): the video is seen by all behind it, a question by itself alone. `loudness` (B, N)
    is that of columns."""
    asks, holds = owner[:, :, None], owner[:, None, :]
    total = owner.shape[1]
    seen = (holds >= -1) | (holds == asks)
    seen &= torch.ones(total, total, dtype=torch.bool).tril()
    loud = (holds >= 0) & (asks != -1) & (asks != holds)
    return (loud * loudness[:, None]).masked_fill(~seen, _SHUT)


def _looks(sheets: list[Sheet], total: int) -> tuple[Looks, ...]:
    found: dict[tuple[int, int, bool], list[tuple[int, int, list[int]]]] = {}
    for i, sheet in enumerate(sheets):
        for evenly, looks in ((False, sheet.looks), (True, sheet.counts)):
            for layer, head, row, columns in looks:
                found.setdefault((layer, head, evenly), []).append((i, row, columns))
    out = []
    for (layer, head, evenly), rows in sorted(found.items()):
        wanted = torch.zeros(len(rows), total, dtype=torch.bool)
        flat = [(k, column) for k, (_, _, columns) in enumerate(rows) for column in columns]
        wanted[tuple(torch.tensor(flat).T)] = True
        of, at = torch.tensor([(i, row) for i, row, _ in rows]).T
        padded = _padded(of, at, len(sheets), total)
        out.append(Looks(layer, head, of, at, *padded, wanted, evenly))
    return tuple(out)


def _padded(of: Tensor, at: Tensor, size: int, total: int) -> tuple[Tensor, Tensor]:
    """`Looks.padded` and `Looks.number` of rows in the order of their sequences."""
    counts = of.bincount(minlength=size)
    most = int(counts.max())
    within = torch.arange(len(of)) - (counts.cumsum(0) - counts)[of]
    number = of * most + within
    padded = torch.full((size * most,), total - 1).index_put((number,), at)
    return padded.view(size, most), number


def _knows(sheets: list[Sheet]) -> dict[int, Knows]:
    out = {}
    for what in STATE_OF:
        rows = [
            (i, at, *classes)
            for i, sheet in enumerate(sheets)
            for at, asked, classes in sheet.knows
            if asked == what
        ]
        if rows:
            table = torch.tensor(rows)
            out[what] = Knows(table[:, 0], table[:, 1], table[:, 2:])
    return out


def run(
    model: Qwen3VLForConditionalGeneration,
    lesson: Lesson,
    watched: list[tuple[Tensor, Tensor]],
) -> list[Tensor]:
    """Hidden states after each layer, and after the final norm at the end: (B, N, hidden), from the
    last layer on (B, N − tail, hidden). Queries and keys of each layer are left in `watched`."""
    text = model.model.language_model
    x = text.embed_tokens(lesson.ids)
    x = x.masked_scatter(lesson.visual[..., None], lesson.features.to(x.dtype))
    rope = text.rotary_emb(x, lesson.positions)
    states = []
    for number, layer in enumerate(text.layers):
        asks = lesson.tail if number + 1 == len(text.layers) else 0
        mixed = _attend(layer.self_attn, layer.input_layernorm(x), rope, lesson.bias, asks, watched)
        x = x[:, asks:] + mixed
        x = x + layer.mlp(layer.post_attention_layernorm(x))
        states.append(x)
    return [*states, text.norm(x)]


def _attend(
    attention: nn.Module,
    x: Tensor,
    rope: tuple[Tensor, Tensor],
    bias: Tensor,
    asks: int,
    watched: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """What columns from `asks` on get from all before them."""
    shape = (len(x), -1, HEADS, HEAD_DIM)
    q = attention.q_norm(attention.q_proj(x[:, asks:]).view(shape)).transpose(1, 2)  # type: ignore[operator]
    k = attention.k_norm(attention.k_proj(x).view(shape)).transpose(1, 2)  # type: ignore[operator]
    v = attention.v_proj(x).view(shape).transpose(1, 2)  # type: ignore[operator]
    with torch.autocast(x.device.type, enabled=False):
        cos, sin = (part[:, None].float() for part in rope)
        k = k.float() * cos + rotate_half(k.float()) * sin
        cos, sin = cos[:, :, asks:], sin[:, :, asks:]
        q = q.float() * cos + rotate_half(q.float()) * sin
    # Plain: backwards through the fused kernel with a bias takes twice as long on CPUs.
    scores = torch.matmul(q * HEAD_DIM**-0.5, k.mT).float() + bias[:, :, asks:]
    out = torch.matmul(scores.softmax(-1), v)
    watched.append((q, k))
    projected: Tensor = attention.o_proj(out.transpose(1, 2).flatten(2))  # type: ignore[operator]
    return projected


def look_losses(
    watched: list[tuple[Tensor, Tensor]], lesson: Lesson, margin: float = 0.0
) -> dict[str, Tensor]:
    """−log of the attention that each told head gives to where it should look, the mean of each;
    where it should look at all evenly, how far it is from that (Kullback–Leibler).

    Behind the first layer that place scores `margin` less than it does: what is told apart by a
    hair here is mistaken where a million others are.
    """
    losses = {}
    # Taken apart once: the gradient of each single selection would fill all of it.
    apart = [[part.unbind(1) for part in own] for own in watched]
    for look in lesson.looks:
        query, key = (heads[look.head] for heads in apart[look.layer])
        columns = look.padded - (key.shape[1] - query.shape[1])
        rows = query.gather(1, columns[..., None].expand(-1, -1, HEAD_DIM))
        own = (rows @ key.mT).flatten(0, 1).index_select(0, look.number)
        scores = own * HEAD_DIM**-0.5 + lesson.bias[look.of, 0, look.at]
        if look.layer:
            scores = scores - margin * look.wanted
        if look.evenly:
            count = look.wanted.sum(-1)
            hit = (scores * look.wanted).sum(-1) / count + count.log()
        else:
            hit = scores.masked_fill(~look.wanted, _SHUT).logsumexp(-1)
        name = "count" if look.evenly else "look"
        losses[f"{name}{look.layer}{look.head}"] = (scores.logsumexp(-1) - hit).mean()
    return losses


class Probes(nn.Module):
    """What tokens should know before the last layer; pictures and questions are asked alike, so
    that what they know can be matched.

    A thing is asked for in the direction of the vector that the tower writes for it. A probe that
    learns is content with things that lie close together, and matching them stays at a saddle: ten
    of 36 were one for 12,000 steps.
    """

    def __init__(self, *, with_spans: bool = False) -> None:
        super().__init__()
        sizes = {LETTERS: [len(ALPHABET)] * CODE_LENGTH, CLOCK: [101, 100, 10]}
        if with_spans:
            sizes |= {COMING: [MOST_EVENTS], GOING: [MOST_EVENTS]}
            sizes |= {SEEN: [len(CLASSES)], CHANGED: [2 * len(CLASSES)]}
        self.heads = nn.ModuleDict(
            {
                str(what): nn.ModuleList(nn.Linear(HIDDEN, n) for n in own)
                for what, own in sizes.items()
            }
        )
        self.register_buffer("names", class_codes() / CODE_NORM, persistent=False)

    def losses(self, states: list[Tensor], lesson: Lesson) -> dict[str, Tensor]:
        """From the hidden states (B, N, hidden) after each layer."""
        out = {}
        for what, knows in lesson.knows.items():
            own = states[STATE_OF[what]][knows.of, knows.at].float()
            out[f"know{what}"] = self._loss(what, own, knows.classes)
        return out

    def _loss(self, what: int, own: Tensor, classes: Tensor) -> Tensor:
        if what in (THING, NAMED):
            scores = F.rms_norm(own, (HIDDEN,)) @ self.names.T  # type: ignore[operator]
            return F.cross_entropy(scores, classes[:, 0])
        heads = list(self.heads[str(SAME.get(what, what))].children())
        if what not in (LETTERS, CLOCK):
            own = F.rms_norm(own, (HIDDEN,))
        if what in (SEEN, CHANGED):
            return _set_loss(heads[0](own), classes.float())
        parts = [F.cross_entropy(head(own), classes[:, k]) for k, head in enumerate(heads)]
        return torch.stack(parts).sum()


def _set_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()


_EASY = (f"know{LETTERS}", f"know{CLOCK}")
_SETS = (f"know{SEEN}", f"know{CHANGED}")


def lesson_loss(
    model: Qwen3VLForConditionalGeneration,
    probes: Probes,
    lesson: Lesson,
    *,
    looking: float,
    knowing: float,
    naming: float,
    changing: float = 0.0,
    margin: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to print of it."""
    weight_of = dict.fromkeys(_EASY, knowing) | dict.fromkeys(_SETS, changing)
    watched: list[tuple[Tensor, Tensor]] = []
    # Half the time of float32 on CPUs; master weights stay in float32.
    with torch.autocast(lesson.ids.device.type, torch.bfloat16):
        layers = run(model, lesson, watched)
    picked = lesson.labels >= 0
    logits = F.linear(layers[-1][picked].float(), model.model.language_model.embed_tokens.weight)
    weights, is_right = lesson.weights[picked], lesson.right_tokens(logits.shape[-1])
    missed = logits.logsumexp(-1) - logits.masked_fill(~is_right, _SHUT).logsumexp(-1)
    answer = (missed * weights).sum() / weights.sum()
    looks = look_losses(watched, lesson, margin)
    knows = probes.losses(layers, lesson)
    helped = torch.zeros_like(answer)
    for name, value in looks.items():
        helped = helped + looking * (COUNTING if name.startswith("count") else 1.0) * value
    for name, value in knows.items():
        helped = helped + weight_of.get(name, naming) * value
    free = weights > 0.5
    said = logits.argmax(-1, keepdim=True)
    right = is_right.gather(1, said)[free].float().mean()
    told = {"answer": answer, "tokens": right, **looks, **knows}
    numbers = torch.stack([value.detach() for value in told.values()]).tolist()
    return answer + helped, dict(zip(told, numbers, strict=True))


def draw_loudness(rng: np.random.Generator, size: int, most: float) -> list[Loudness]:
    """Of each row: from one to what makes a million tokens of a short lesson, `most` for ground."""
    rows = []
    for share in rng.uniform(0, 1, size):
        things, codes = rng.uniform(0, share, 2) * (LOUDEST_THINGS, LOUDEST_CODES)
        rows.append(Loudness(float(share * most), float(things), float(codes)))
    return rows
