"""Positions: the three rows (time, row, column) of Interleaved-MRoPE, built as the prompt grows.

The cursor belongs to a session, never to the module. Text: all three rows count on. A patch pair's
visual tokens: time stands still, rows and columns count from it; then the cursor moves on by the
longer side of the grid, not by the number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next free position."""

    at: int = 0

    def text(self, count: int) -> tuple[Tensor, Cursor]:
        """(3, count) positions of text tokens, and the cursor behind them."""
        row = torch.arange(self.at, self.at + count)
        return row.expand(3, -1), Cursor(self.at + count)

    def pair(self, rows: int, cols: int) -> tuple[Tensor, Cursor]:
        """(3, rows × cols) positions of one patch pair's visual tokens, and the cursor behind."""
        row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        time = torch.zeros(rows * cols, dtype=torch.long)
        grid = torch.stack([time, row.flatten(), col.flatten()])
        return grid + self.at, Cursor(self.at + max(rows, cols))
