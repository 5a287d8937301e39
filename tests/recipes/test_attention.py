"""Attention of lessons in blocks: what plain attention gives, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recipes.nano.retrieving import attention
from recipes.nano.retrieving.batch import SHUT


def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    scores = q @ k.mT + bias[:, :, k.shape[2] - q.shape[2] :]
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("cells", [1, 300, 1000, 1 << 19])
@pytest.mark.parametrize("asks", [13, 5, 1])
def test_blocks_give_what_plain_attention_gives(
    cells: int, asks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "CELLS", cells)
    rng = torch.Generator().manual_seed(asks)
    shapes = [(3, 2, asks, 8), (3, 2, 13, 8), (3, 2, 13, 8)]
    given = [torch.randn(shape, generator=rng) for shape in shapes]
    own = [part.requires_grad_() for part in given]
    bias = torch.randn(3, 1, 13, 13, generator=rng)
    bias = bias.masked_fill(torch.ones(13, 13, dtype=torch.bool).triu(1), SHUT)
    up = torch.randn(shapes[0], generator=rng)
    found = attention.attend(*own, bias)
    torch.testing.assert_close(found, plain(*own, bias), rtol=1e-4, atol=1e-5)
    ours = torch.autograd.grad(found, own, up)
    theirs = torch.autograd.grad(plain(*own, bias), own, up)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
