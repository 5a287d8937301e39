"""The fused attention kernel at work: compiled once per head dimension, run on torch's own threads.

Promises what `model.attention` does block by block, at the speed of the CPU's products: a softmax
that goes on (`Running`) over one more segment of a cache in pairs. Products are bf16's where there
is AVX-512 BF16 and float32's where there is AVX2; other CPUs never come here.
"""

from __future__ import annotations

import ctypes
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import torch
from torch import Tensor

from model.fused_args import Arg
from model.fused_ir import BLOCK, FusedKernel, tile_for
from model.running import Running
from model.segments import Segment, View

_BF16 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512bf16")
_FLOATS = ("avx2", "fma")
TASK_ROWS = 384
"""Rows of one task: their sums and one block of keys and values stay in the second-level cache."""
PART_KEYS = 4096
"""Fewest keys of a part where a few rows over a long cache are shared among threads."""

ALONE = 4096
"""Query rows × keys below which one thread does it all."""


@lru_cache(maxsize=2)
def _has(needed: tuple[str, ...]) -> bool:
    try:
        found = llvm.get_host_cpu_features()
    except RuntimeError:
        return False
    return all(found.get(name, False) for name in needed)


def runs_here() -> bool:
    """Whether this machine's CPU has what the kernel is written for, AVX2 at least."""
    return has_bf16() or _has(_FLOATS)


def has_bf16() -> bool:
    """Whether the kernel multiplies in bf16 here."""
    return _has(_BF16)


def takes(head_dim: int) -> bool:
    """Whether the kernel can be had for this head dimension: whole vectors, at most 256."""
    return runs_here() and head_dim % 16 == 0 and head_dim <= 256


_WORKER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Compiled:
    """Machine code of one kernel; lives as long as the process."""

    def __init__(self, dim: int, height: int, *, int8: bool, bf16: bool) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        kernel = FusedKernel(dim, int8=int8, has_bf16=bf16, height=height, block=BLOCK)
        module = llvm.parse_assembly(kernel.text())
        module.verify()
        features = llvm.get_host_cpu_features().flatten()
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=3
        )
        # The register tiles are laid out by hand; the vectorisers would only take them apart.
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_unrolling = options.loop_vectorization = options.slp_vectorization = False
        builder = llvm.create_pass_builder(target, options)
        builder.getModulePassManager().run(module, builder)
        self._engine = llvm.create_mcjit_compiler(module, target)
        self._engine.finalize_object()
        self.address = int(self._engine.get_function_address("worker"))
        self.worker = _WORKER(self.address)


@lru_cache(maxsize=16)
def _compiled(dim: int, height: int, int8: bool, bf16: bool) -> _Compiled:
    return _Compiled(dim, height, int8=int8, bf16=bf16)


@lru_cache(maxsize=1)
def _parallel() -> Any:
    """OpenMP's own entry into its threads, the ones that torch uses; None where it has another."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    paths = {line.split()[-1] for line in lines if "omp" in line and ".so" in line}
    # Other libraries may bring an OpenMP of their own, whose threads would compete with torch's.
    for path in sorted(paths, key=lambda path: ("torch" not in path, path)):
        try:
            entry = ctypes.CDLL(path).GOMP_parallel
        except (OSError, AttributeError):
            continue
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        entry.restype = None
        return entry
    return None


def _run(kernel: _Compiled, arguments: ctypes.Array[ctypes.c_int64], threads: int) -> None:
    """Run the worker in every thread; the interpreter's lock is free meanwhile."""
    given, worker = ctypes.addressof(arguments), kernel.worker
    if threads == 1:
        worker(given)
    elif (parallel := _parallel()) is not None:
        parallel(kernel.address, given, threads, 0)
    else:
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(worker, given) for _ in range(threads - 1)]
            worker(given)
            for other in others:
                other.result()


def add_fused(running: Running, queries: Tensor, view: View, group: int) -> None:
    """Let a view's rows of `queries` (kv heads, rows, dim), bf16, see its segment in pairs."""
    segment, limit, rows = view.segment, view.limit, view.rows(group)
    count, threads, dim = rows.stop - rows.start, torch.get_num_threads(), queries.shape[2]
    parts, part_keys = _cut_keys(segment, count, threads, limit)
    state, first = running, rows.start
    if parts > 1:
        state, first = Running.start(queries[:, rows], running.scale, parts), 0
    tile_rows = tile_for(has_bf16=has_bf16()).rows
    task_rows = min(TASK_ROWS, _up(_ceil(count * segment.kv_heads, threads), tile_rows))
    state_rows = state.peak.shape[1]
    values = {
        Arg.COUNTER: 0,
        Arg.TASKS: _ceil(count, task_rows) * segment.kv_heads * parts,
        Arg.HEADS: segment.kv_heads,
        Arg.ROWS: count,
        Arg.TASK_ROWS: task_rows,
        Arg.KEYS: segment.count,
        Arg.PART_KEYS: part_keys,
        Arg.QUERIES: queries.data_ptr() + rows.start * dim * 2,
        Arg.QUERY_STRIDE: queries.shape[1] * dim * 2,
        Arg.STATE_ROWS: state_rows,
        Arg.PART_STATE_ROWS: state_rows * segment.kv_heads,
        Arg.LIMIT: segment.count if limit is None else limit,
        Arg.GROUP: count if limit is None else group,
        Arg.PEAK: state.peak.data_ptr() + first * 4,
        Arg.TOTAL: state.total.data_ptr() + first * 4,
        Arg.MIXED: state.mixed.data_ptr() + first * dim * 4,
        Arg.SCALE: _bits(running.scale * math.log2(math.e)),
        **_addresses(segment),
    }
    arguments = (ctypes.c_int64 * len(Arg))(*(values[arg] for arg in Arg))
    # A decoded token has a row or a few per head: a whole tile would mostly multiply for nobody.
    height = min(tile_rows, _up(count, 2))
    kernel = _compiled(dim, height, segment.key_scales is not None, has_bf16())
    # Waking a thread takes longer than a fork's own few keys.
    _run(kernel, arguments, 1 if count * segment.count < ALONE else threads)
    if parts > 1:
        running.merge(rows, state)


def _bits(number: float) -> int:
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def _cut_keys(segment: Segment, rows: int, threads: int, limit: int | None) -> tuple[int, int]:
    """Parts of the keys and keys of each: more than one where rows and heads are too few."""
    tasks = segment.kv_heads * _ceil(rows, TASK_ROWS)
    wanted = 1 if limit is not None or tasks >= threads else _ceil(threads, tasks)
    part_keys = max(PART_KEYS, _up(_ceil(segment.count, wanted), 512))
    return _ceil(segment.count, part_keys), part_keys


def _addresses(segment: Segment) -> dict[Arg, int]:
    found = {
        Arg.KEY_DATA: segment.keys.data_ptr(),
        Arg.KEY_STRIDE: segment.keys.stride(0) * segment.keys.element_size(),
        Arg.VALUE_DATA: segment.values.data_ptr(),
        Arg.VALUE_STRIDE: segment.values.stride(0) * segment.values.element_size(),
    }
    scales = segment.key_scales, segment.value_scales
    places = (
        (Arg.KEY_SCALES, Arg.KEY_SCALE_STRIDE),
        (Arg.VALUE_SCALES, Arg.VALUE_SCALE_STRIDE),
    )
    for scale, (data, stride) in zip(scales, places, strict=True):
        found[data] = scale.data_ptr() if scale is not None else 0
        found[stride] = scale.stride(0) * 2 if scale is not None else 0
    return found


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _up(count: int, size: int) -> int:
    return _ceil(count, size) * size
