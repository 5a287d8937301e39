"""Step 2: rows as one batch, packed small on the way from where they are drawn to where they are
learnt from.

A short lesson stands for a long video: every token of the video that is not asked for counts as if
there were many of it, by adding the logarithm of that number to its attention scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.nano.retrieving import befores, gathers, links
from recipes.nano.retrieving.groups import GROUPS
from recipes.nano.retrieving.sheet import LETTERS, Sheet
from recipes.nano.shape import ID

ENDED = -1000
"""Owner of what stands behind a row's end."""
SHUT = -1e9
"""Added to the score of what is not seen."""
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
    """(2, wanted) row and column of where each row should look, in one place of several."""


@dataclass(frozen=True, slots=True)
class Knows:
    """Tokens that should know something."""

    of: Tensor
    at: Tensor
    classes: Tensor
    """(tokens, parts)."""


@dataclass(frozen=True, slots=True)
class Held:
    """Tokens whose queries or keys of one head are told, as in `gathers`, `befores` and `links`."""

    layer: int
    head: int
    is_key: bool
    of: Tensor
    at: Tensor
    told: Tensor
    """(tokens, parts), see `wanted` of either."""


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to attention scores, before it is written out for every pair of tokens: in
    full it grows with the square of a row and is most of what a lesson would send."""

    owner: Tensor
    """(B, N), as `Sheet.owner`; `ENDED` where a row has ended."""
    loudness: Tensor
    """(B, N) of columns."""
    cells: Tensor
    """(3, edits) sequence, row and column of what is as in `values` instead."""
    values: Tensor
    hidden: Tensor
    """(3, columns) sequence, column and the only row outside its pair that sees it, or −1."""

    def written_out(self) -> Tensor:
        """(B, 1, N, N)."""
        bias = _bias(self.owner, self.loudness)
        bias[tuple(self.cells)] = self.values
        of, column, only = self.hidden
        closed = torch.zeros_like(self.owner, dtype=torch.bool)
        closed[of, column] = True
        is_apart = self.owner[:, :, None] != self.owner[:, None]
        bias.masked_fill_(closed[:, None] & is_apart, SHUT)
        is_seen = only >= 0
        bias[of[is_seen], only[is_seen], column[is_seen]] = 0
        return bias[:, None]


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
    bias: Bias
    """Loudness, and what is not seen."""
    tail: int
    """First column that any question begins at: the last layer's queries start there."""
    labels: Tensor
    """(B, N − tail), −100 where nothing is learnt."""
    also: Tensor
    """(others, 3): sequence, column from `tail` on, and a token that is as right as the label."""
    reads: Tensor
    """(places, 4): sequence, row, column and token, as in `Sheet.reads`."""
    nears: Tensor
    """(pairs, 6): sequence, and as in `Sheet.nears`."""
    weights: Tensor
    looks: tuple[Looks, ...]
    held: tuple[Held, ...]
    knows: dict[int, Knows]

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
    owner = torch.full((size, total), ENDED)
    labels, weights = torch.full((size, total), -100), torch.zeros(size, total)
    for i, sheet in enumerate(sheets):
        n = len(sheet.ids)
        ids[i, :n] = torch.tensor(sheet.ids)
        positions[:, i, :n] = torch.tensor(sheet.positions).T
        owner[i, :n] = torch.tensor(sheet.owner)
        for at, label in sheet.labels.items():
            labels[i, at] = label
            weights[i, at] = sheet.weights[at]
    begins = (owner < -1) & (owner > ENDED)
    tail = int(torch.where(begins, torch.arange(total), total - 1).amin())
    loud = torch.zeros(size, total)
    for i, (sheet, own) in enumerate(zip(sheets, loudness, strict=True)):
        loud[i] = own.ground
        for column, what in sheet.holds.items():
            loud[i, column] = own.codes if what == LETTERS else own.things
    return Lesson(
        ids,
        positions,
        ids == ID["<|video_pad|>"],
        torch.cat(features),
        Bias(owner, loud, *_edits(sheets), _hidden(sheets)),
        tail,
        labels[:, tail:],
        _rows([[(at - tail, token) for at, token in sheet.also] for sheet in sheets], 3),
        _rows([sheet.reads for sheet in sheets], 4),
        _rows([sheet.nears for sheet in sheets], 6),
        weights[:, tail:],
        _looks(sheets, total),
        (
            *_held([sheet.gathers for sheet in sheets], gathers.LAYER, GROUPS),
            *_held([sheet.befores for sheet in sheets], befores.LAYER, befores.TOLD),
            *_held([sheet.links for sheet in sheets], links.LAYER, links.TOLD),
        ),
        _knows(sheets),
    )


def _rows(of_sheets: Sequence[Sequence[tuple[int, ...]]], width: int) -> Tensor:
    """(rows, width) of all sequences, each row behind the number of its own."""
    found = [(i, *row) for i, rows in enumerate(of_sheets) for row in rows]
    return torch.tensor(found, dtype=torch.long).view(-1, width)


def _edits(sheets: list[Sheet]) -> tuple[Tensor, Tensor]:
    """`Bias.cells` and `Bias.values`."""
    found: dict[tuple[int, int, int], float] = {}
    for i, sheet in enumerate(sheets):
        for row, columns in sheet.exempt:
            found |= {(i, row, column): 0.0 for column in columns}
        for row, columns, count in sheet.crowds:
            found |= {(i, row, column): float(np.log(count)) for column in columns}
    cells = torch.tensor(list(found), dtype=torch.long).view(-1, 3).T
    return cells, torch.tensor(list(found.values()))


def _hidden(sheets: list[Sheet]) -> Tensor:
    """`Bias.hidden`."""
    found = [
        (i, column, -1 if only is None else only)
        for i, sheet in enumerate(sheets)
        for column, only in sheet.hidden
    ]
    return torch.tensor(found, dtype=torch.long).view(-1, 3).T


def _bias(owner: Tensor, loudness: Tensor) -> Tensor:
    """(B, N, N): the video is seen by all behind it, a question by itself alone. `loudness` (B, N)
    is that of columns."""
    asks, holds = owner[:, :, None], owner[:, None]
    of_columns = loudness.masked_fill(owner < 0, 0)[:, None]
    bias = of_columns * (asks != -1)
    is_own = asks == holds
    bias.masked_fill_(is_own, 0)
    bias.masked_fill_(is_own.logical_not_() & (holds < -1), SHUT)
    later = torch.ones(owner.shape[1], owner.shape[1], dtype=torch.bool, device=owner.device)
    return bias.masked_fill_(later.triu_(1), SHUT)


def _looks(sheets: list[Sheet], total: int) -> tuple[Looks, ...]:
    found: dict[tuple[int, int], list[tuple[int, int, list[int]]]] = {}
    for i, sheet in enumerate(sheets):
        for layer, head, row, columns in sheet.looks:
            found.setdefault((layer, head), []).append((i, row, columns))
    out = []
    for (layer, head), rows in sorted(found.items()):
        of, at = _columns([(i, row) for i, row, _ in rows])
        wanted = _columns([(k, column) for k, (_, _, own) in enumerate(rows) for column in own])
        padded = _padded(of, at, len(sheets), total)
        out.append(Looks(layer, head, of, at, *padded, wanted))
    return tuple(out)


def _columns(pairs: list[tuple[int, int]]) -> Tensor:
    """(2, pairs). By way of an array: a tensor of a long list takes three times as long."""
    flat = np.fromiter(chain.from_iterable(pairs), np.int64, 2 * len(pairs))
    return torch.from_numpy(flat).view(-1, 2).T


def _padded(of: Tensor, at: Tensor, size: int, total: int) -> tuple[Tensor, Tensor]:
    """`Looks.padded` and `Looks.number` of rows in the order of their sequences."""
    counts = of.bincount(minlength=size)
    most = int(counts.max())
    within = torch.arange(len(of)) - (counts.cumsum(0) - counts)[of]
    number = of * most + within
    padded = torch.full((size * most,), total - 1).index_put((number,), at)
    return padded.view(size, most), number


def _held(
    told_of: list[list[tuple[int, bool, int, dict[int, int]]]], layer: int, parts: int
) -> list[Held]:
    found: dict[tuple[int, bool], list[tuple[int, int, dict[int, int]]]] = {}
    for i, rows_of in enumerate(told_of):
        for head, is_key, column, told in rows_of:
            found.setdefault((head, is_key), []).append((i, column, told))
    out = []
    for (head, is_key), rows in sorted(found.items()):
        table = np.zeros((len(rows), parts), dtype=np.int8)
        for k, (_, _, told) in enumerate(rows):
            for number, value in told.items():
                table[k, number] = value
        of, at = _columns([(i, column) for i, column, _ in rows])
        out.append(Held(layer, head, is_key, of, at, torch.from_numpy(table)))
    return out


def _knows(sheets: list[Sheet]) -> dict[int, Knows]:
    out = {}
    for what in sorted({what for sheet in sheets for _, what, _ in sheet.knows}):
        rows = [
            (i, at, *classes)
            for i, sheet in enumerate(sheets)
            for at, asked, classes in sheet.knows
            if asked == what
        ]
        if rows:
            table = torch.from_numpy(np.array(rows))
            out[what] = Knows(table[:, 0], table[:, 1], table[:, 2:])
    return out


def draw_loudness(rng: np.random.Generator, size: int, most: float) -> list[Loudness]:
    """Of each row: from one to what makes a million tokens of a short lesson, `most` for ground."""
    rows = []
    for share in rng.uniform(0, 1, size):
        things, codes = rng.uniform(0, share, 2) * (min(most, LOUDEST_THINGS), LOUDEST_CODES)
        rows.append(Loudness(float(share * most), float(things), float(codes)))
    return rows
