"""Machines that lack something: OpenMP's entry, or the instructions of the fused kernel."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from model import fused
from model.attention import attend
from model.engine import LoadedModel, load_model
from model.fused_args import Arg
from model.kv_cache import CacheForm, KvCache
from model.segments import View
from tests.model.test_attention import cut, fused_only, random, with_codes
from tests.model.test_engine import QUESTIONS, read
from tests.model.test_prefill import Case
from tests.model.tiny import Shape, make_plan, make_tiny


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Pool(ThreadPoolExecutor):
    """Notes how many of the tasks another thread took, where it is let go first."""

    first = False
    taken: ClassVar[list[tuple[int, int]]] = []

    def submit(self, worker: Any, given: int) -> Any:  # type: ignore[override]
        future = super().submit(worker, given)
        if self.first:
            future.result()
        numbers = (ctypes.c_int64 * len(Arg)).from_address(given)
        self.taken.append((numbers[Arg.COUNTER], numbers[Arg.TASKS]))
        return future


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[Pool]:
    Pool.taken.clear()
    monkeypatch.setattr(fused, "ThreadPoolExecutor", Pool)
    return Pool


@fused_only
@pytest.mark.parametrize(("past", "count"), [(0, 1), (128, 200), (8960, 1), (704, 65)])
@pytest.mark.parametrize("int8", [False, True])
def test_a_pool_of_threads_gives_what_openmp_gives(
    monkeypatch: pytest.MonkeyPatch,
    two_threads: None,
    pool: type[Pool],
    past: int,
    count: int,
    int8: bool,
) -> None:
    """The same tasks, whoever takes them: equal to the last bit."""
    queries = random(4, count, 64, seed=1).bfloat16()
    keys, values = (random(2, past + count, 64, seed=n).bfloat16() for n in (2, 3))
    views = cut("pairs", keys, values, count, [past] if past else [])
    if int8 and past:
        views[0] = View(0, count, with_codes("pairs", keys[:, :past], values[:, :past]))
    expected = attend(queries, views, 2, 0.125)
    monkeypatch.setattr(fused, "_parallel", lambda: None)
    monkeypatch.setattr(fused, "ALONE", 0)
    for first in (False, True):
        pool.taken.clear()
        monkeypatch.setattr(pool, "first", first)
        assert torch.equal(attend(queries, views, 2, 0.125), expected)
        assert len(pool.taken) == len(views)
    # Every worker asks once more than there are tasks.
    assert all(taken > tasks for taken, tasks in pool.taken)


@fused_only
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc to find it by")
def test_openmps_entry_is_used_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, two_threads: None
) -> None:
    entry = fused._parallel()
    assert entry is not None, "the pinned torch brings GNU's OpenMP on Linux"
    threads = []

    def noting(worker: int, given: int, count: int, flags: int) -> None:
        threads.append(count)
        entry(worker, given, count, flags)

    monkeypatch.setattr(fused, "_parallel", lambda: noting)
    monkeypatch.setattr(fused, "ALONE", 0)
    queries = random(2, 5, 32, seed=1).bfloat16()
    attend(queries, cut("pairs", queries, queries, 5, []), 2, 0.2)
    assert threads == [2]


def test_without_a_list_of_libraries_there_is_no_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other systems than Linux have no /proc."""

    def missing(_path: object) -> str:
        raise FileNotFoundError

    fused._parallel.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(fused.Path, "read_text", missing)
        assert fused._parallel() is None
    fused._parallel.cache_clear()


def lacking() -> bool:
    return False


class Narrow(Case):
    """A bfloat16 checkpoint, its prompt whole, and the cache that this machine would keep."""

    def __init__(self, kv_dtype: torch.dtype) -> None:
        super().__init__(make_tiny(Shape(tied=False)), pairs=9)
        self.kept = kv_dtype

    def narrow_logits(self) -> tuple[Tensor, str]:
        """Logits behind the question in bfloat16, and the layout of the cache."""
        weights = load_model(str(self.tiny.folder), dtype="bfloat16").weights
        form = CacheForm(self.checkpoint.spec.text, self.kept, weights.dtype, weights.layer_devices)
        self.weights = weights
        parts = [self.prefix, self.video, self.question]
        return self.logits(parts, 50, KvCache(form, len(self.ids))), form.layout


@fused_only
@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, torch.int8], ids=str)
def test_rows_come_close_to_pairs(monkeypatch: pytest.MonkeyPatch, kv_dtype: torch.dtype) -> None:
    """Both are bfloat16 roundings of the same sums: no further apart than from the truth."""
    case = Narrow(kv_dtype)
    exact = case.expected()
    pairs, layout = case.narrow_logits()
    assert layout == "pairs"
    monkeypatch.setattr(fused, "runs_here", lacking)
    rows, layout = case.narrow_logits()
    assert layout == "rows"
    size, errors = exact.norm(), [(one - exact).norm() for one in (pairs, rows)]
    assert not torch.equal(pairs, rows)
    assert max(errors) <= 2**-5 * size
    assert (pairs - rows).norm() <= max(errors)


def answers(model: LoadedModel) -> list[str]:
    replies = read(model, make_plan(model.counter)).ask(QUESTIONS)
    return [reply.text for reply in replies]


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
def test_answers_without_the_kernel(monkeypatch: pytest.MonkeyPatch, kv_dtype: str) -> None:
    """Any machine answers in form: a kernel that is not there is not asked for."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(fused, "runs_here", lacking)
    monkeypatch.setattr(fused, "_compiled", forbidden)
    folder = str(make_tiny(Shape(tied=False)).folder)
    model = load_model(folder, dtype="bfloat16", kv_dtype=kv_dtype)
    assert model.cache_form.layout == "rows"
    assert all(text.startswith('{"') for text in answers(model))
