"""Frames' features and text → TimedTokens: timestamps, delimiters and visual tokens in one row.

Promises that any slice of a row can be prefilled on its own: every token carries its position,
every visual token its features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.positions import Cursor
from model.prompt import PromptLayout
from model.vision import PairFeatures
from schemas.plan import FrameGrid, PatchPair


@dataclass(frozen=True, slots=True)
class TimedTokens:
    """A run of prompt tokens."""

    ids: Tensor
    """(n,) token ids."""
    positions: Tensor
    """(3, n): time, row, column."""
    visual: Tensor
    """(n,) bool: which tokens are visual."""
    levels: tuple[Tensor, ...]
    """Features of the visual tokens in order, main level first, each (visual tokens, hidden)."""

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> TimedTokens:
        """Tokens [start, stop); a cut may go through a frame."""
        before = int(self.visual[:start].sum())
        inside = int(self.visual[start:stop].sum())
        return TimedTokens(
            self.ids[start:stop],
            self.positions[:, start:stop],
            self.visual[start:stop],
            tuple(level[before : before + inside] for level in self.levels),
        )


def text_tokens(ids: list[int], cursor: Cursor) -> tuple[TimedTokens, Cursor]:
    """Plain text at the cursor."""
    positions, after = cursor.text(len(ids))
    return TimedTokens(
        torch.tensor(ids, dtype=torch.long),
        positions,
        torch.zeros(len(ids), dtype=torch.bool),
        (),
    ), after


def video_tokens(
    pairs: tuple[PatchPair, ...],
    grid: FrameGrid,
    features: PairFeatures,
    layout: PromptLayout,
    cursor: Cursor,
) -> tuple[TimedTokens, Cursor]:
    """Patch pairs with their timestamps at the cursor."""
    return _visual([layout.pair_ids(p.text, grid.tokens) for p in pairs], grid, features, cursor)


def image_tokens(
    grid: FrameGrid, features: PairFeatures, layout: PromptLayout, cursor: Cursor
) -> tuple[TimedTokens, Cursor]:
    """An image at the cursor. To the model it is a patch pair without a time: its features are
    those of the picture twice."""
    return _visual([layout.image_ids(grid.tokens)], grid, features, cursor)


def _visual(
    runs: list[list[int]], grid: FrameGrid, features: PairFeatures, cursor: Cursor
) -> tuple[TimedTokens, Cursor]:
    """Runs of ids at the cursor, each with one grid of visual tokens before its last id."""
    positions: list[Tensor] = []
    visual: list[Tensor] = []
    is_visual = torch.ones(grid.tokens, dtype=torch.bool)
    for run in runs:
        head = len(run) - grid.tokens - 1
        before, cursor = cursor.text(head)
        inside, cursor = cursor.pair(grid.rows, grid.cols)
        behind, cursor = cursor.text(1)
        positions += [before, inside, behind]
        visual += [~is_visual[:1].expand(head), is_visual, ~is_visual[:1]]
    return TimedTokens(
        torch.tensor([number for run in runs for number in run], dtype=torch.long),
        torch.cat(positions, dim=1),
        torch.cat(visual),
        features.levels,
    ), cursor


def join_tokens(parts: Sequence[TimedTokens]) -> TimedTokens:
    """Parts one behind the other, as one."""
    if len(parts) == 1:
        return parts[0]
    levels = zip(*(part.levels for part in parts if part.levels), strict=True)
    return TimedTokens(
        torch.cat([part.ids for part in parts]),
        torch.cat([part.positions for part in parts], 1),
        torch.cat([part.visual for part in parts]),
        tuple(torch.cat(level) for level in levels),
    )
