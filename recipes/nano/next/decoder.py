"""Step 2: the decoder over a batch, and how far it is from what it was told."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextDecoderLayer, rotate_half

from pipeline.lettering import ALPHABET, CODE_LENGTH
from recipes.nano.codes import CODE_NORM, class_codes
from recipes.nano.next import befores, gathers, links
from recipes.nano.next.asked import CLOCK_SIZES
from recipes.nano.next.attention import attend
from recipes.nano.next.batch import SHUT, Held, Lesson, Looks
from recipes.nano.next.lessons import HEADS_OF
from recipes.nano.next.shape import FAR, HEAD_DIM, HEADS, HIDDEN, slow_numbers
from recipes.nano.next.sheet import (
    CHANGED,
    CLOCK,
    COMING,
    EARLIER,
    GOING,
    LETTERS,
    NAMED,
    NEXT_COMING,
    NEXT_GOING,
    SEEN,
    THING,
)
from recipes.nano.pictures import CLASSES

STATE_OF = {NAMED: 0, SEEN: 0, LETTERS: 1, CLOCK: 1, THING: 1, CHANGED: 1}
STATE_OF |= dict.fromkeys((COMING, GOING, NEXT_COMING, NEXT_GOING), 2)
"""The layer behind which a token should know it; EARLIER once it has looked in the second."""
JOINS = (1, 0)
"""Layer and head that joins a code and a thing of one pair."""
SLOW = slow_numbers(FAR, 0.5)
"""Numbers by which it is told to find it: a million tokens hardly turn them."""
EVEN = (SEEN, EARLIER)
"""Known as strongly whatever else is: what changes is the difference of the two."""
SAME = {NEXT_COMING: COMING, NEXT_GOING: GOING}
"""Known in the same form, so that one can be matched with the other."""
LOUDER = 5.0
"""Times that what heads hold in the first two layers is told: they have other tasks too."""
SCORED = 6.0
"""Times that numbers count by which links score: the others only make a vector longer, and of two
events of a thing the last one is told from the other by a few hundredths of a score."""


class Watched(NamedTuple):
    """Queries (B, heads, N − tail in the last layer, head_dim) and keys of a layer, both before
    they are turned by where they stand, and what they are projected from, (B, N, hidden)."""

    q: Tensor
    k: Tensor
    still_q: Tensor
    still_k: Tensor
    known: Tensor
    mixed: Tensor
    """(B, N, hidden) what tokens hold once they have looked, before they think about it."""


def run(
    model: Qwen3VLForConditionalGeneration,
    lesson: Lesson,
    watched: list[Watched],
    bias: Tensor | None = None,
) -> list[Tensor]:
    """Hidden states after each layer, and after the final norm at the end: (B, N, hidden), from the
    last layer on (B, N − tail, hidden). Queries and keys of each layer are left in `watched`.
    `bias`: that of the lesson, where it has been written out."""
    bias = lesson.bias.written_out() if bias is None else bias
    text = model.model.language_model
    x = text.embed_tokens(lesson.ids)
    x = x.masked_scatter(lesson.visual[..., None], lesson.features.to(x.dtype))
    rope = text.rotary_emb(x, lesson.positions)
    states = []
    for number, layer in enumerate(text.layers):
        asks = lesson.tail if number + 1 == len(text.layers) else 0
        own = _attend(layer, x, rope, bias, asks)
        watched.append(own)
        x = own.mixed + layer.mlp(layer.post_attention_layernorm(own.mixed))
        states.append(x)
    return [*states, text.norm(x)]


def _attend(
    layer: Qwen3VLTextDecoderLayer, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, asks: int
) -> Watched:
    """Columns from `asks` on look at all before them."""
    attention, shape = layer.self_attn, (len(x), -1, HEADS, HEAD_DIM)
    known = layer.input_layernorm(x)
    q = attention.q_norm(attention.q_proj(known[:, asks:]).view(shape)).transpose(1, 2)
    k = attention.k_norm(attention.k_proj(known).view(shape)).transpose(1, 2)
    v = attention.v_proj(known).view(shape).transpose(1, 2)
    still_q, still_k = q, k
    with torch.autocast(x.device.type, enabled=False):
        cos, sin = (part[:, None].float() for part in rope)
        k = k.float() * cos + rotate_half(k.float()) * sin
        cos, sin = cos[:, :, asks:], sin[:, :, asks:]
        q = q.float() * cos + rotate_half(q.float()) * sin
    out = attend((q * HEAD_DIM**-0.5).to(v.dtype), k.to(v.dtype), v, bias)
    mixed = x[:, asks:] + attention.o_proj(out.transpose(1, 2).flatten(2))
    return Watched(q, k, still_q, still_k, known, mixed)


def look_losses(
    watched: list[Watched], lesson: Lesson, bias: Tensor, margin: float = 0.0
) -> dict[str, Tensor]:
    """−log of the attention that each told head gives to where it should look, the mean of each.

    Behind the first layer that place scores `margin` less than it does: what is told apart by a
    hair here is mistaken where a million others are.
    """
    losses = {}
    # Taken apart once: the gradient of each single selection would fill all of it.
    apart = [[own.q.unbind(1), own.k.unbind(1)] for own in watched]
    for look in lesson.looks:
        query, key = (heads[look.head] for heads in apart[look.layer])
        own = _missed(query, key, look, bias, margin if look.layer else 0.0)
        losses[f"look{look.layer}{look.head}"] = own.mean()
        if (look.layer, look.head) == JOINS:
            layer, is_shown = watched[look.layer], lesson.visual[look.of, look.at]
            query, key = layer.still_q[:, look.head, :, SLOW], layer.still_k[:, look.head, :, SLOW]
            own = _missed(query, key, look, bias, margin)[is_shown]
            losses[f"still{look.layer}{look.head}"] = own.sum() / is_shown.sum().clamp_min(1)
    return losses


def _missed(query: Tensor, key: Tensor, look: Looks, bias: Tensor, margin: float) -> Tensor:
    """(rows,) −log of the attention to where each should look, from (B, N, numbers) of its head."""
    columns = look.padded - (key.shape[1] - query.shape[1])
    rows = query.gather(1, columns[..., None].expand(-1, -1, query.shape[2]))
    own = (rows @ key.mT).flatten(0, 1).index_select(0, look.number)
    scores = own * HEAD_DIM**-0.5 + bias[look.of, 0, look.at]
    row, column = look.wanted
    scores.index_put_((row, column), scores.new_tensor(-margin), accumulate=True)
    return -_log_sums(scores.log_softmax(-1)[row, column], row, len(scores))


def _log_sums(logs: Tensor, of: Tensor, rows: int) -> Tensor:
    """(rows,) logarithm of the sum of what these are logarithms of, row by row."""
    most = torch.full((rows,), SHUT, device=logs.device)
    most = most.scatter_reduce(0, of, logs.detach(), "amax")
    return most + torch.zeros_like(most).index_add(0, of, (logs - most[of]).exp()).log()


def choice_loss(last: Watched, lesson: Lesson, bias: Tensor) -> Tensor:
    """−log of the attention to what tells the likeliest of several right tokens, the mean of rows:
    which of them is left to the heads, that it be one is not."""
    if not len(lesson.reads):
        return last.q.new_zeros(())
    of, row, column, token = lesson.reads.T
    pairs, at = torch.unique(torch.stack([of, row]), dim=1, return_inverse=True)
    queries = last.q[pairs[0], :, pairs[1] - lesson.tail][:, HEADS_OF[LETTERS]].float()
    scores = torch.einsum("rhd,rhnd->rhn", queries, last.k[pairs[0]][:, HEADS_OF[LETTERS]].float())
    scores = scores * HEAD_DIM**-0.5 + bias[pairs[0], :, pairs[1]]
    shares = scores.softmax(-1).mean(1)[at, column]
    told = torch.zeros(pairs.shape[1], int(token.max()) + 1, device=shares.device)
    return -told.index_put((at, token), shares, accumulate=True).amax(1).log().mean()


def held_losses(watched: list[Watched], lesson: Lesson) -> dict[str, Tensor]:
    """Squared distances of queries and keys to what they are told to hold, both of length 1: the
    mean of those with a thing and that of the others, which are many, count alike."""
    losses = {}
    for one in lesson.held:
        layer = watched[one.layer]
        own = (layer.still_k if one.is_key else layer.still_q)[one.of, one.head, one.at]
        held = wanted(one)
        apart = (F.normalize(own.float(), dim=-1) - held).square()
        if one.layer == links.LAYER:
            apart = apart * torch.where(held == 0, 1.0, SCORED)
        apart = apart.sum(-1)
        is_thing = is_about_things(one).float()
        parts = [(apart * w).sum() / w.sum().clamp_min(1) for w in (is_thing, 1 - is_thing)]
        losses[f"{'key' if one.is_key else 'ask'}{one.layer}{one.head}"] = parts[0] + parts[1]
    return losses


def wanted(one: Held) -> Tensor:
    """(rows, HEAD_DIM) of length 1: what these queries or keys are told to hold."""
    return _WANTED[one.layer](one.told, is_key=one.is_key)


def is_about_things(one: Held) -> Tensor:
    """(rows,) bool: about things, or about pairs that show them."""
    return one.told[:, : _NOTHING_AT[one.layer]].abs().amax(1) > 0


_WANTED = {
    gathers.LAYER: gathers.wanted,
    befores.LAYER: befores.wanted,
    links.LAYER: links.wanted,
}
_NOTHING_AT = {
    gathers.LAYER: None,
    befores.LAYER: befores.NOTHING_AT,
    links.LAYER: links.NOTHING_AT,
}


class Probes(nn.Module):
    """What tokens should know before the last layer; pictures and questions are asked alike, so
    that what they know can be matched.

    A thing is asked for in the direction of the vector that the tower writes for it. A probe that
    learns is content with things that lie close together, and matching them stays at a saddle: ten
    of 36 were one for 12,000 steps.
    """

    def __init__(self, *, with_spans: bool = False) -> None:
        super().__init__()
        sizes = {LETTERS: [len(ALPHABET)] * CODE_LENGTH, CLOCK: list(CLOCK_SIZES)}
        if with_spans:
            sizes |= {COMING: [sum(CLOCK_SIZES)], GOING: [sum(CLOCK_SIZES)]}
            seen = [len(CLASSES) + HEADS]
            sizes |= {SEEN: seen, EARLIER: seen, CHANGED: [2 * len(CLASSES)]}
        self.heads = nn.ModuleDict(
            {
                str(what): nn.ModuleList(
                    _probe(n, is_set=len(own) == 1 and what not in EVEN) for n in own
                )
                for what, own in sizes.items()
            }
        )
        self.register_buffer("names", class_codes() / CODE_NORM, persistent=False)

    def losses(
        self, states: list[Tensor], watched: list[Watched], lesson: Lesson
    ) -> dict[str, Tensor]:
        """From the hidden states (B, N, hidden) after each layer."""
        out = {}
        for what, knows in lesson.knows.items():
            state = watched[1].mixed if what == EARLIER else states[STATE_OF[what]]
            own = state[knows.of, knows.at].float()
            out[f"know{what}"] = self._loss(what, own, knows.classes)
        return out

    def _loss(self, what: int, own: Tensor, classes: Tensor) -> Tensor:
        if what in (THING, NAMED):
            scores = F.rms_norm(own, (HIDDEN,)) @ self.names.T  # type: ignore[operator]
            return F.cross_entropy(scores, classes[:, 0])
        heads = list(self.heads[str(SAME.get(what, what))].children())
        if what not in (LETTERS, CLOCK):
            own = F.rms_norm(own, (HIDDEN,))
        if what in EVEN:
            apart: Tensor = (heads[0](own) - classes).square().sum(-1).mean()
            return apart
        if len(heads) == 1:
            return _set_loss(heads[0](own), classes.float())
        parts = [F.cross_entropy(head(own), classes[:, k]) for k, head in enumerate(heads)]
        return torch.stack(parts).sum()


def _probe(classes: int, *, is_set: bool) -> nn.Linear:
    """Of a set hardly any class is a member, and it begins by saying so."""
    probe = nn.Linear(HIDDEN, classes)
    if is_set:
        nn.init.constant_(probe.bias, -4.0)
    return probe


def _set_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()


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
    margin: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and what to print of it."""
    weight_of = dict.fromkeys(_EASY, knowing) | dict.fromkeys(_SETS, changing)
    watched: list[Watched] = []
    # Half the time of float32 on CPUs; master weights stay in float32.
    bias = lesson.bias.written_out()
    with torch.autocast(lesson.ids.device.type, torch.bfloat16):
        layers = run(model, lesson, watched, bias)
    picked = lesson.labels >= 0
    logits = F.linear(layers[-1][picked].float(), model.model.language_model.embed_tokens.weight)
    weights, is_right = lesson.weights[picked], lesson.right_tokens(logits.shape[-1])
    missed = logits.logsumexp(-1) - logits.masked_fill(~is_right, SHUT).logsumexp(-1)
    answer = (missed * weights).sum() / weights.sum()
    looks = look_losses(watched, lesson, bias, margin)
    knows = probes.losses(layers, watched, lesson)
    held = held_losses(watched, lesson)
    choice = choice_loss(watched[-1], lesson, bias)
    helped = choosing * choice
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
    told = {"answer": answer, "tokens": right, "choice": choice, **looks, **knows, **held}
    numbers = torch.stack([value.detach() for value in told.values()]).tolist()
    return answering * answer + helped, dict(zip(told, numbers, strict=True))
