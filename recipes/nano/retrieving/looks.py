"""Step 2: how far heads are from looking where they are told to."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.nano.retrieving.batch import SHUT, Lesson, Looks
from recipes.nano.retrieving.decoder import Watched
from recipes.nano.retrieving.lessons import HEADS_OF
from recipes.nano.retrieving.sheet import LETTERS
from recipes.nano.shape import FAR, HEAD_DIM, slow_numbers

JOINS = (1, 0)
"""Layer and head that joins a code and a thing of one pair."""
LAST_MARGIN = 1.5
"""Times that the last layer's margin counts: its heads tell a code from all that differ in a
letter, and a time from all others, of a million tokens."""
JOINS_MARGIN = 2.0
"""Times that its margin counts: in a long video a thing that is alone sees every code before it."""
SLOW = slow_numbers(FAR, 0.5)
"""Numbers by which it is told to find it: a million tokens hardly turn them."""


def look_losses(
    watched: list[Watched], lesson: Lesson, bias: Tensor, margin: float = 0.0
) -> dict[str, Tensor]:
    """−log of the attention that each told head gives to where it should look, the mean of each.

    Behind the first layer that place scores `margin` less than it does, by the head of `JOINS` and
    in the last layer more than that: what is told apart by a hair here is mistaken where a
    million others are.
    """
    losses = {}
    # Taken apart once: the gradient of each single selection would fill all of it.
    apart = [[own.q.unbind(1), own.k.unbind(1)] for own in watched]
    for look in lesson.looks:
        query, key = (heads[look.head] for heads in apart[look.layer])
        joins = (look.layer, look.head) == JOINS
        less = margin * _margins(look, len(watched))
        own = _missed(query, key, look, bias, less)
        losses[f"look{look.layer}{look.head}"] = own.mean()
        if joins:
            layer, is_shown = watched[look.layer], lesson.visual[look.of, look.at]
            query, key = layer.still_q[:, look.head, :, SLOW], layer.still_k[:, look.head, :, SLOW]
            own = _missed(query, key, look, bias, less)[is_shown]
            losses[f"still{look.layer}{look.head}"] = own.sum() / is_shown.sum().clamp_min(1)
    return losses


def _margins(look: Looks, layers: int) -> float:
    """Times that its margin counts."""
    if (look.layer, look.head) == JOINS:
        return JOINS_MARGIN
    if look.layer + 1 == layers:
        return LAST_MARGIN
    return 1.0 if look.layer else 0.0


def _missed(query: Tensor, key: Tensor, look: Looks, bias: Tensor, margin: float) -> Tensor:
    """(rows,) −log of the attention to where each should look, from (B, N, numbers) of its head."""
    columns = look.padded - (key.shape[1] - query.shape[1])
    rows = query.gather(1, columns[..., None].expand(-1, -1, query.shape[2]))
    own = (rows @ key.mT).flatten(0, 1).index_select(0, look.number)
    scores = own * HEAD_DIM**-0.5 + bias[look.of, 0, look.at]
    row, column = look.wanted
    scores.index_put_((row, column), scores.new_tensor(-margin), accumulate=True)
    return -log_sums(scores.log_softmax(-1)[row, column], row, len(scores))


def log_sums(logs: Tensor, of: Tensor, rows: int) -> Tensor:
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
