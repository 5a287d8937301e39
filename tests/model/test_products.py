"""Products in bfloat16 on a CPU that has none: the same numbers, whichever way they are made."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeTextConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeTextExperts

from model import products
from model.attention import attend_apart


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without bfloat16 products, whatever this one has."""
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: False)


def error(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("widened", [1, 100, 48 * 7, 1 << 22])
@pytest.mark.parametrize("rows", [(1,), (products.FEW_ROWS,), (products.FEW_ROWS + 1,), (3, 40)])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.usefixtures("without")
def test_rows_come_out_the_same(
    widened: int, rows: tuple[int, ...], has_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "WIDENED", widened)
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(shape, generator=rng).bfloat16() for shape in ((*rows, 48), (33, 48), (33,))
    )
    more = bias if has_bias else None
    got = products.linear(x, weight, more)
    exact = F.linear(x.double(), weight.double(), more.double() if more is not None else None)
    assert got.dtype is torch.bfloat16
    assert got.shape == (*rows, 33)
    assert error(got, exact) < 2**-8


@pytest.mark.usefixtures("without")
def test_many_rows_are_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []

    def plain(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        seen.append(weight.dtype)
        return x @ weight.mT

    monkeypatch.setattr(products.F, "linear", plain)
    layer = nn.Sequential(nn.Linear(8, 8, bias=False)).bfloat16()
    products.take_over(layer)
    for rows in (1, 100):
        layer(torch.ones(rows, 8, dtype=torch.bfloat16))
    layer.float()(torch.ones(100, 8))
    assert seen == [torch.bfloat16, torch.float32, torch.float32]


@pytest.mark.parametrize("rows", [1, 300])
def test_experts_come_out_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Qwen3VLMoeTextConfig(
        hidden_size=24, moe_intermediate_size=16, num_experts=5, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    experts = Qwen3VLMoeTextExperts(config)
    rng = torch.Generator().manual_seed(rows)
    for weights in experts.parameters():
        nn.init.normal_(weights, std=0.3, generator=rng)
    experts = experts.bfloat16()
    x = torch.randn(rows, 24, generator=rng).bfloat16()
    shares = torch.rand(rows, 2, generator=rng).bfloat16()
    # The last expert is never asked.
    picked = torch.rand(rows, 4, generator=rng).argsort(1)[:, :2]
    exact = deepcopy(experts).double()(x.double(), picked, shares.double())
    products.take_over(experts)
    for has in (True, False):
        monkeypatch.setattr(products, "has_bfloat16_products", lambda has=has: has)
        got = experts(x, picked, shares)
        assert got.dtype is torch.bfloat16
        assert error(got.detach(), exact.detach()) < 2**-6


@pytest.mark.usefixtures("without")
def test_sequences_apart_come_out_the_same() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 20, 2, 16, generator=rng).bfloat16() for _ in range(3))
    got = attend_apart(q, k, v, 0.3)
    wide = [t.double().transpose(1, 2) for t in (q, k, v)]
    exact = F.scaled_dot_product_attention(*wide, scale=0.3).transpose(1, 2)
    assert got.dtype is torch.bfloat16
    assert error(got, exact) < 2**-7


def test_a_cpu_that_has_them_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "has_bfloat16_products", lambda: True)
    assert not products.is_acted_out(torch.ones(1, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("told", "has"),
    [
        ({"architecture": "x86_64", "avx2": True}, False),
        ({"architecture": "x86_64", "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_bf16": True}, True),
        ({"architecture": "aarch64"}, True),
        ({}, True),
    ],
)
def test_what_torch_tells_of_a_cpu(
    told: dict[str, object], has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told)
    assert products.has_bfloat16_products.__wrapped__() is has
