"""Attention segment by segment against one softmax over everything, every way through a segment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from model import attention, flash, fused
from model.attention import attend, attend_apart
from model.quantise import quantise_keys, quantise_values
from model.running import LOG2_E, Running
from model.segments import Layout, Segment, View, key_blocks, put, reserve, value_blocks

fused_only = pytest.mark.skipif(
    not fused.runs_here(), reason="the fused kernel is for CPUs with AVX2"
)


@pytest.fixture(params=[False, True] if fused.has_bf16() else [False])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused kernel with each kind of products that this CPU has: float32's, bf16's."""
    monkeypatch.setattr(fused, "has_bf16", lambda: request.param)


def plain(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Causal attention of the newest tokens with every score at once: (n, heads × dim) float64."""
    heads, count, _ = queries.shape
    repeat = heads // keys.shape[0]
    q, k, v = (t.double() for t in (queries, keys, values))
    scores = q @ k.repeat_interleave(repeat, 0).transpose(1, 2) * scale
    total = keys.shape[1]
    later = torch.arange(total)[None] > torch.arange(total - count, total)[:, None]
    mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v.repeat_interleave(repeat, 0)
    return mixed.transpose(0, 1).flatten(1)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def segment(layout: Layout, keys: Tensor, values: Tensor) -> Segment:
    """Tokens (kv heads, n, dim) laid out, in memory that is longer and holds rubbish behind."""
    heads, count, dim = keys.shape
    place = {"dtype": keys.dtype, "device": keys.device}
    far_keys, far_values = reserve(layout, heads, count + 70, dim, **place)  # type: ignore[arg-type]
    far_keys.fill_(torch.nan if keys.dtype.is_floating_point else 99)
    far_values.zero_()
    put(key_blocks(layout, far_keys), 0, keys)
    put(value_blocks(layout, far_values), 0, values)
    return Segment(layout, far_keys, far_values, count)


def cut(
    layout: Layout, keys: Tensor, values: Tensor, count: int, cuts: Sequence[int]
) -> list[View]:
    """Views of the newest `count` tokens over segments cut at `cuts`; the last is their own."""
    edges = [0, *cuts, keys.shape[1]]
    past = keys.shape[1] - count
    views = []
    for a, b in pairwise(edges):
        limit = past + 1 - a if b > past else None
        views.append(View(0, count, segment(layout, keys[:, a:b], values[:, a:b]), limit))
    return views


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
@pytest.mark.parametrize(("past", "count"), [(0, 1), (0, 33), (15, 1), (16, 16), (17, 33), (64, 5)])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_blocks_equal_one_softmax(
    monkeypatch: pytest.MonkeyPatch, block: int, past: int, count: int, kv_heads: int
) -> None:
    monkeypatch.setattr(attention, "takes_flash", lambda _queries: False)
    monkeypatch.setattr(attention, "ATTENTION_KEYS", block)
    monkeypatch.setattr(attention, "ATTENTION_ROWS", max(1, block // 2))
    queries = random(4, count, 8, seed=1)
    keys = random(kv_heads, past + count, 8, seed=2) * 3
    values = random(kv_heads, past + count, 8, seed=3)
    cuts = [at for at in (past // 2, past) if at]
    got = attend(queries, cut("rows", keys, values, count, cuts), kv_heads, 0.35)
    assert (got.double() - plain(queries, keys, values, 0.35)).abs().max() <= 1e-5


@fused_only
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dim", [16, 32, 48, 64, 128, 256])
@pytest.mark.parametrize("threads", [1, 2])
def test_fused_equals_one_softmax(dim: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for heads, kv_heads, past, count in (
            (4, 2, 0, 1),
            (3, 1, 700, 5),
            (4, 4, 63, 65),
            (8, 2, 130, 200),
            (2, 2, 9000, 1),
        ):
            queries = random(heads, count, dim, seed=1).bfloat16()
            keys = random(kv_heads, past + count, dim, seed=2).bfloat16() * 2
            values = random(kv_heads, past + count, dim, seed=3).bfloat16()
            cuts = [past] if past else []
            views = cut("pairs", keys, values, count, cuts)
            got = attend(queries, views, kv_heads, dim**-0.5).double()
            expected = plain(queries, keys, values, dim**-0.5)
            # Weights are rounded to bfloat16 (2^-9) before the second product, the result after.
            assert (got - expected).norm() <= 4e-3 * expected.norm()
            assert (got - expected).abs().max() <= 0.02 * expected.abs().max()
    finally:
        torch.set_num_threads(before)


@fused_only
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fused_equals_blocks_however_it_is_cut(data: st.DataObject) -> None:
    kv_heads = data.draw(st.integers(1, 3))
    heads = kv_heads * data.draw(st.integers(1, 7))
    total = data.draw(st.integers(1, 1400))
    count = data.draw(st.integers(1, total))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, total - count)), max_size=3)))
    cuts = [at for at in cuts if at <= total - count]
    queries = random(heads, count, 32, seed=total).bfloat16()
    keys, values = (random(kv_heads, total, 32, seed=count + n).bfloat16() for n in (1, 2))
    pairs = attend(queries, cut("pairs", keys, values, count, cuts), kv_heads, 0.2)
    rows = attend(
        queries.float(), cut("rows", keys.float(), values.float(), count, cuts), kv_heads, 0.2
    )
    assert (pairs - rows).abs().max() <= 0.02 * rows.abs().max()


def far_and_near(above: float) -> tuple[Tensor, Tensor, Tensor]:
    """Four blocks of keys, of which the last scores `above` more than the others, in powers of two
    behind a scale of 1; values in the two middle ones are no numbers."""
    queries, keys = torch.zeros(4, 100, 32), torch.zeros(2, 2048, 32)
    queries[..., 0] = 1
    keys[:, 1536:, 0] = above / LOG2_E
    values = random(2, 2048, 32, seed=1)
    values[:, 512:1536] = torch.nan
    return queries.bfloat16(), keys.bfloat16(), values.bfloat16()


@fused_only
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("cuts", [[], [1792]])
def test_values_that_weigh_nothing_are_not_looked_at(cuts: list[int]) -> None:
    queries, keys, values = far_and_near(45)
    got = attend(queries, cut("pairs", keys, values, 100, cuts), 2, 1.0).double()
    expected = plain(queries, keys, values.nan_to_num(), 1.0)
    assert (got - expected).norm() <= 4e-3 * expected.norm()


@fused_only
@pytest.mark.usefixtures("products")
def test_values_that_weigh_something_are_looked_at() -> None:
    queries, keys, values = far_and_near(35)
    assert attend(queries, cut("pairs", keys, values, 100, []), 2, 1.0).isnan().all()
    # One row of a tile, one head.
    queries, keys, values = far_and_near(45)
    values = values.nan_to_num()
    keys[1, 700, 5], queries[3, 41, 5] = 20, 20
    got = attend(queries, cut("pairs", keys, values, 100, []), 2, 1.0)
    assert (got[41, 96:] - values[1, 700]).abs().max() <= 0.01 * values[1, 700].abs().max()
    expected = plain(queries, keys, values, 1.0)
    assert (got.double() - expected).norm() <= 4e-3 * expected.norm()


@fused_only
@pytest.mark.usefixtures("products")
def test_fused_error_is_no_larger_than_the_librarys_own() -> None:
    for dim in (32, 64, 128):
        queries = random(2, 64, dim, seed=1).bfloat16()
        keys, values = (random(2, 8192, dim, seed=n).bfloat16() for n in (2, 3))
        q, k, v = (tensor.double() for tensor in (queries, keys, values))
        expected = ((q @ k.transpose(1, 2) * dim**-0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)
        library = F.scaled_dot_product_attention(queries[None], keys[None], values[None])[0]
        ours = attend(queries, [View(0, 64, segment("pairs", keys, values))], 2, dim**-0.5)
        ours_error = (ours.double() - expected).norm()
        library_error = (library.transpose(0, 1).flatten(1).double() - expected).norm()
        # Both round the weights and the result once; which way the rest falls is chance.
        assert ours_error <= 1.03 * library_error


def with_codes(layout: Layout, keys: Tensor, values: Tensor) -> Segment:
    key_codes, key_scales = quantise_keys(keys)
    value_codes, value_scales = quantise_values(values)
    codes = segment(layout, key_codes, value_codes)
    return Segment(layout, codes.keys, codes.values, codes.count, key_scales, value_scales)


@pytest.mark.parametrize("layout", ["rows", pytest.param("pairs", marks=fused_only)])
@pytest.mark.parametrize("dim", [32, 128])
def test_codes_attend_like_the_numbers_they_stand_for(layout: Layout, dim: int) -> None:
    keys, values = random(2, 640, dim, seed=2), random(2, 640, dim, seed=3)
    keys[:, :, 5] *= 30  # a channel that is large in every token
    queries = random(4, 7, dim, seed=1).bfloat16()
    codes = with_codes(layout, keys, values)
    wide_keys, wide_values = codes.plain(0, 640, torch.float32)
    assert (wide_keys - keys).abs().max(1).values.max() <= 30 * keys[:, :, 5].std() / 200
    got = attend(queries, [View(0, 7, codes)], 2, dim**-0.5).double()
    scores = queries.double() @ wide_keys.double().repeat_interleave(2, 0).transpose(1, 2)
    mixed = (scores * dim**-0.5).softmax(-1) @ wide_values.double().repeat_interleave(2, 0)
    expected = mixed.transpose(0, 1).flatten(1)
    assert (got - expected).norm() <= 0.02 * expected.norm()


@pytest.mark.parametrize(("past", "count"), [(0, 40), (70, 40), (70, 1), (128, 100)])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("rows", [1, 16, 2048])
def test_flash_equals_one_softmax(
    monkeypatch: pytest.MonkeyPatch, past: int, count: int, group: int, rows: int
) -> None:
    """The way through torch's operators, over the CPU's, which has the same face as a GPU's."""
    monkeypatch.setattr(flash, "_ROWS_ON_CPU", rows)
    queries = random(2 * group, count, 32, seed=1)
    assert flash.takes_flash(queries)
    keys, values = (random(2, past + count, 32, seed=n) for n in (2, 3))
    got = attend(queries, cut("rows", keys, values, count, [past] if past else []), 2, 0.2)
    assert (got.double() - plain(queries, keys, values, 0.2)).abs().max() <= 1e-5
    whole = attend(queries, cut("rows", keys, values, count, []), 2, 0.2)
    assert (whole - got).abs().max() <= 1e-5


@pytest.mark.parametrize("rows", [16, 2048])
def test_flash_where_a_segment_ends_or_begins_among_the_queries(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """As int8 has it: whole blocks end inside or before a chunk; the rest is another segment."""
    monkeypatch.setattr(flash, "_ROWS_ON_CPU", rows)
    keys, values = random(2, 100, 32, seed=2), random(2, 100, 32, seed=3)
    first = segment("rows", keys[:, :64], values[:, :64])
    rest = segment("rows", keys[:, 64:], values[:, 64:])
    for count in (1, 20, 60):
        queries = random(4, count, 32, seed=count)
        limit = 100 - count + 1
        views = [View(0, count, first, limit), View(0, count, rest, limit - 64)]
        got = attend(queries, views, 2, 0.2)
        assert (got.double() - plain(queries, keys, values, 0.2)).abs().max() <= 1e-5


@pytest.mark.parametrize("widened", [7, 2048])
def test_flash_over_keys_of_another_dtype(monkeypatch: pytest.MonkeyPatch, widened: int) -> None:
    """They are widened a stretch at a time: what the whole would take is not reckoned."""
    monkeypatch.setattr(flash, "_WIDENED_ON_CPU", widened)
    queries = random(4, 20, 32, seed=1)
    keys, values = (random(2, 90, 32, seed=n).bfloat16() for n in (2, 3))
    got = attend(queries, cut("rows", keys, values, 20, [50]), 2, 0.2)
    assert (got.double() - plain(queries, keys, values, 0.2)).abs().max() <= 1e-5


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="flash in bfloat16 is MKL's")
def test_flash_in_bfloat16_is_off_by_rounding() -> None:
    for heads, kv_heads, past, count in ((4, 2, 0, 1), (3, 1, 700, 5), (8, 2, 130, 200)):
        queries = random(heads, count, 64, seed=1).bfloat16()
        keys = random(kv_heads, past + count, 64, seed=2).bfloat16() * 2
        values = random(kv_heads, past + count, 64, seed=3).bfloat16()
        folded = queries.view(kv_heads, -1, 64)
        assert flash.takes_flash(folded)
        got = attend(queries, cut("rows", keys, values, count, []), kv_heads, 0.125).double()
        expected = plain(queries, keys, values, 0.125)
        assert (got - expected).norm() <= 4e-3 * expected.norm()
        assert (got - expected).abs().max() <= 0.02 * expected.abs().max()


def test_a_row_alone_in_bfloat16_takes_plain_products() -> None:
    assert not flash.takes_flash(random(8, 1, 64, seed=1).bfloat16())
    assert not flash.takes_flash(random(8, 9, 64, seed=1).half())


def test_gpu_operators_take_what_they_are_given() -> None:
    """No GPU here: the operators' own signatures are held against the calls."""
    for name, names in (
        ("_scaled_dot_product_cudnn_attention", ["attn_bias", "compute_log_sumexp", "is_causal"]),
        ("_scaled_dot_product_flash_attention", ["dropout_p", "is_causal", "return_debug_mask"]),
    ):
        schema = getattr(torch.ops.aten, name).default._schema
        assert set(names) <= {argument.name for argument in schema.arguments}
        assert [value.name for value in schema.returns][:2] == ["output", "logsumexp"]


def test_rows_look_at_different_segments() -> None:
    """Two lanes share a prefix and have a token of their own each."""
    queries = random(2, 2, 8, seed=1)
    shared, own = random(2, 20, 8, seed=2), random(2, 2, 8, seed=3)
    views = [View(0, 2, segment("rows", shared, shared))]
    views += [
        View(n, n + 1, segment("rows", own[:, n : n + 1], own[:, n : n + 1]), 1) for n in (0, 1)
    ]
    got = attend(queries, views, 2, 0.3)
    for n in (0, 1):
        both = torch.cat([shared, own[:, n : n + 1]], 1)
        expected = plain(queries[:, n : n + 1], both, both, 0.3)
        assert (got[n].double() - expected[0]).abs().max() <= 1e-5


def test_huge_scores_stay_finite() -> None:
    queries, keys = random(2, 3, 8, seed=1) * 1e3, random(2, 20, 8, seed=2) * 1e3
    values = random(2, 20, 8, seed=3)
    got = attend(queries, cut("rows", keys, values, 3, [17]), 2, 1.0)
    assert torch.isfinite(got).all()
    assert (got.double() - plain(queries, keys, values, 1.0)).abs().max() <= 1e-3


def test_parts_that_saw_different_keys_merge() -> None:
    queries, keys, values = (
        random(2, 3, 8, seed=1),
        random(2, 40, 8, seed=2),
        random(2, 40, 8, seed=3),
    )
    whole, parts = Running.start(queries, 0.4), Running.start(queries, 0.4)
    whole.add(slice(0, 3), queries @ keys.transpose(1, 2), values)
    both = Running.start(queries, 0.4, parts=2)
    for n, span in enumerate((slice(0, 11), slice(11, 40))):
        one = Running.start(queries, 0.4)
        one.add(slice(0, 3), queries @ keys[:, span].transpose(1, 2), values[:, span])
        heads = slice(2 * n, 2 * n + 2)
        both.peak[heads], both.total[heads], both.mixed[heads] = one.peak, one.total, one.mixed
    parts.merge(slice(0, 3), both)
    assert (parts.result() - whole.result()).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [64, 72])
def test_sequences_apart(dtype: torch.dtype, dim: int) -> None:
    """Short sequences that see only themselves, also of a width that fills no whole vectors."""
    q, k, v = (random(5, 33, 4, dim, seed=n).to(dtype) for n in (1, 2, 3))
    got = attend_apart(q, k, v, dim**-0.5)
    assert got.shape == (5, 33, 4, dim)
    scores = torch.einsum("snhd,smhd->shnm", q.double(), k.double()) * dim**-0.5
    expected = torch.einsum("shnm,smhd->snhd", scores.softmax(-1), v.double())
    assert (got.double() - expected).abs().max() <= (1e-5 if dtype is torch.float32 else 0.01)
