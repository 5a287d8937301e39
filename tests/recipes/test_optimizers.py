"""Muon as torch has it, and steps by several losses at once."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from recipes.nano import tokenizer
from recipes.nano.muon import Muon
from recipes.nano.optimizers import Optimizers
from recipes.nano.retrieving.plan import Plan
from recipes.nano.retrieving.retrieve import means


def matrices() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    shapes = ((24, 8), (8, 8), (24, 8), (8, 16), (24, 8))
    return [nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]


def theirs(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        params, lr=0.05, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw"
    )


def test_muon_steps_as_the_library_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    own = matrices()
    library = deepcopy(own)
    ours, other = Muon(own, lr=0.05, weight_decay=0.1, momentum=0.9), theirs(library)
    rng = torch.Generator().manual_seed(1)
    for step in range(6):
        if step == 3:
            ours, before = Muon(own, lr=0.05, weight_decay=0.1, momentum=0.9), ours
            ours.load_state_dict(deepcopy(other.state_dict()))
            assert before.state_dict()["state"].keys() == other.state_dict()["state"].keys()
        for param, twin in zip(own, library, strict=True):
            param.grad = torch.randn(param.shape, generator=rng)
            twin.grad = param.grad.clone()
        own[1].grad = library[1].grad = None
        ours.step()
        other.step()
    began = matrices()
    assert torch.equal(own[1], began[1])
    for param, twin, first in zip(own, library, began, strict=True):
        torch.testing.assert_close(param, twin)
        assert param is own[1] or (param - first).detach().norm() > 0.1


def test_a_step_by_two_losses_is_one_by_their_mean() -> None:
    def losses(params: list[nn.Parameter]) -> tuple[torch.Tensor, torch.Tensor]:
        return params[0].square().sum(), (params[0].sum() - 3) ** 2 + params[3].sum()

    one, two = matrices(), matrices()
    two[4].requires_grad_(False)
    first = Optimizers(one[:3], one[3:], 0.01)
    second = Optimizers(two[:3], two[3:], 0.01)
    both = losses(one)
    first.step((both[0] + both[1]) / 2)
    second.follow([second.slopes(loss) for loss in losses(two)])
    for param, twin in zip(one, two, strict=True):
        torch.testing.assert_close(param, twin)
    assert not torch.equal(one[0], matrices()[0])
    assert torch.equal(two[4], matrices()[4])


def test_lessons_of_a_step_share_its_tokens() -> None:
    whole, parts = (Plan(tokenizer.build(), 10, 3000, True, 0.5, parts=n) for n in (1, 3))
    for step in range(4):
        (one,) = whole.draw(np.random.default_rng(step), step)
        three = parts.draw(np.random.default_rng(step), step)
        assert len(three) == 3
        assert len({lesson.ids.shape for lesson in three}) > 1
        assert max(lesson.ids.numel() for lesson in three) < one.ids.numel() + 1500


def test_what_one_half_of_a_step_alone_tells_is_told() -> None:
    assert means([{"answer": 1.0}, {"answer": 3.0, "know10": 5.0}]) == {"answer": 2.0, "know10": 5}
