"""The fused attention kernel as LLVM IR: scores, softmax and weighted values of one task at a time.

Written once as instructions for CPUs with AVX-512 BF16 and compiled in memory (`model.fused`), so
that an installation needs no compiler. bf16 products with float32 sums (`vdpbf16ps`); six query
rows × 64 keys of scores live in registers, 512 keys of them in the first-level cache, and the
exponential is a degree-4 polynomial: relative error 4e-6, a thousandth of bf16's own.

Layout of what it reads (`model.layout`): pairs of numbers that `vdpbf16ps` multiplies lie together.

    keys    block of 64 tokens × dims/2 × 64 × 2        values    tokens/2 × dims × 2
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto
from typing import Any

import numpy as np
from llvmlite import ir

from model.running import Running

ROWS = 6
"""Query rows of one register tile: 6 × 4 vectors of scores and 5 operands fill 32 registers."""
TILE = 64
"""Keys of one register tile, and of one block of the cache."""
BLOCK = 512
"""Keys whose scores are kept between the two products."""

I8, I16, I32, I64, F32 = (*(ir.IntType(bits) for bits in (8, 16, 32, 64)), ir.FloatType())


class _BFloat(ir.types.Type):  # type: ignore[misc]  # the library is untyped
    """LLVM's `bfloat`, which the builder lacks; values only pass through."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(self.intrinsic_name)


FLOATS = ir.VectorType(F32, 16)
PAIRS = ir.VectorType(_BFloat(), 32)
HALVES = ir.VectorType(_BFloat(), 16)
LANES = ir.VectorType(I64, 16)
WORDS = ir.VectorType(I32, 16)


class Arg(IntEnum):
    """The kernel's arguments: one array of 64-bit integers, addresses and strides in bytes."""

    COUNTER = 0
    """Next task; threads take tasks by counting it up."""
    TASKS = auto()
    HEADS = auto()
    """KV heads."""
    ROWS = auto()
    """Query rows per KV head: tokens × grouped heads, token by token."""
    TASK_ROWS = auto()
    KEYS = auto()
    PART_KEYS = auto()
    """Keys of one part: parts of a long cache are summed apart, each with a state of its own."""
    QUERIES = auto()
    QUERY_STRIDE = auto()
    """From head to head."""
    STATE_ROWS = auto()
    """Rows of the state from head to head."""
    PART_STATE_ROWS = auto()
    """Rows of the state from part to part."""
    KEY_DATA = auto()
    KEY_STRIDE = auto()
    VALUE_DATA = auto()
    VALUE_STRIDE = auto()
    LIMIT = auto()
    """Keys that the first token's rows see; each later token sees one more."""
    GROUP = auto()
    """Rows of one token."""
    PEAK = auto()
    TOTAL = auto()
    MIXED = auto()
    SCALE = auto()
    """float32 bits of the scale × log2(e): exponentials are powers of two."""
    KEY_SCALES = auto()
    KEY_SCALE_STRIDE = auto()
    VALUE_SCALES = auto()
    VALUE_SCALE_STRIDE = auto()


def _exp2_coefficients(degree: int) -> list[float]:
    """Polynomial of 2^x on [-1/2, 1/2], constant first: Chebyshev interpolation."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    fitted = np.polynomial.chebyshev.chebfit(nodes, 2.0 ** (nodes / 2), degree)
    powers = np.polynomial.chebyshev.cheb2poly(fitted) * 2.0 ** np.arange(degree + 1)
    return [float(np.float32(c)) for c in powers]


_EXP2 = _exp2_coefficients(4)


def _int(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _floats(value: float) -> ir.Constant:
    return ir.Constant(FLOATS, [value] * 16)


class FusedKernel:
    """Builds the module for one head dimension; `worker(args)` takes tasks until none is left."""

    def __init__(self, dim: int, *, int8: bool) -> None:
        self.dim, self.int8 = dim, int8
        self.module = ir.Module(name="fused_attention")
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(I64)])
        self.function = ir.Function(self.module, kind, "worker")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self._read_arguments()
        self._reserve()
        self._tasks()

    def text(self) -> str:
        """The module as LLVM assembly."""
        return str(self.module)

    # --- small words ---

    def _call(self, name: str, kind: Any, *args: Any, fastmath: tuple[str, ...] = ()) -> Any:
        known = self.module.globals.get(name)
        if known is None:
            signature = ir.FunctionType(kind, [arg.type for arg in args])
            known = ir.Function(self.module, signature, name)
        return self.b.call(known, args, fastmath=fastmath)

    def _loop(self, start: Any, stop: Any, step: int, body: Callable[[Any], None]) -> None:
        b = self.b
        before = b.block
        head, inner, end = (self.function.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        at = b.phi(I64)
        at.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", at, stop), inner, end)
        b.position_at_end(inner)
        body(at)
        at.add_incoming(b.add(at, _int(step)), b.block)
        b.branch(head)
        b.position_at_end(end)

    def _less(self, x: Any, y: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def _splat(self, value: Any, kind: Any) -> Any:
        empty = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(empty, value, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        return self.b.shuffle_vector(first, empty, zeros)

    def _at(self, address: Any, kind: Any) -> Any:
        return self.b.inttoptr(address, ir.PointerType(kind))

    def _offset(self, base: Any, *terms: tuple[Any, int]) -> Any:
        """base + Σ term × bytes."""
        for term, size in terms:
            base = self.b.add(base, self.b.mul(term, _int(size)))
        return base

    def _larger(self, x: Any, y: Any) -> Any:
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    def _fma(self, x: Any, y: Any, z: Any) -> Any:
        return self._call("llvm.fma.v16f32", FLOATS, x, y, z)

    def _exp2(self, x: Any) -> Any:
        x = self._larger(x, _floats(-200.0))
        whole = self._call("llvm.rint.v16f32", FLOATS, x)
        rest = self.b.fsub(x, whole)
        value: Any = _floats(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            value = self._fma(value, rest, _floats(coefficient))
        everywhere, current = ir.Constant(I16, -1), ir.Constant(I32, 4)
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return self._call(name, FLOATS, value, whole, value, everywhere, current)

    def _round(self, x: Any) -> Any:
        return self._call("llvm.x86.avx512bf16.cvtneps2bf16.512", HALVES, x)

    def _pair(self, address: Any) -> Any:
        """Two neighbouring bf16 numbers in every lane."""
        word = self.b.load(self._at(address, I32), align=4)
        return self.b.bitcast(self._splat(word, WORDS), PAIRS)

    def _multiply(self, row: int, vectors: list[Any], pair: Any) -> None:
        """Register row += vectors · pair."""
        name = "llvm.x86.avx512bf16.dpbf16ps.512"
        for x, vector in enumerate(vectors):
            register = self.registers[row * 4 + x]
            self.b.store(self._call(name, FLOATS, self.b.load(register), vector, pair), register)

    def _vectors(self, address: Any, count: int) -> list[Any]:
        places = [self.b.add(address, _int(64 * x)) for x in range(count)]
        return [self.b.load(self._at(place, PAIRS), align=64) for place in places]

    # --- the frame ---

    def _read_arguments(self) -> None:
        base = self.function.args[0]
        self.a = {arg: self.b.load(self.b.gep(base, [_int(arg)])) for arg in list(Arg)[1:]}
        self.scale = self.b.bitcast(self.b.trunc(self.a[Arg.SCALE], I32), F32)
        self.scales = self._splat(self.scale, FLOATS)

    def _reserve(self) -> None:
        def room(kind: Any, count: int, align: int) -> Any:
            place = self.b.alloca(kind, count)
            place.align = align
            return place

        self.scores = room(FLOATS, ROWS * BLOCK // 16, 64)
        self.weights = room(HALVES, ROWS * BLOCK // 16, 64)
        self.decay = room(F32, ROWS, 4)
        self.nowhere = room(FLOATS, self.dim // 16 + 1, 64)
        self.registers = [room(FLOATS, 1, 64) for _ in range(ROWS * 4)]
        self.peaks = [room(FLOATS, 1, 64) for _ in range(ROWS)]
        self.sum = room(FLOATS, 1, 64)
        if self.int8:
            self.wide_keys = room(PAIRS, BLOCK * self.dim // 32, 64)
            self.wide_values = room(PAIRS, BLOCK * self.dim // 32, 64)

    def _tasks(self) -> None:
        b, a = self.b, self.a
        rows, task_rows = a[Arg.ROWS], a[Arg.TASK_ROWS]
        tiles = b.sdiv(b.add(rows, b.sub(task_rows, _int(1))), task_rows)
        top, work, done = (self.function.append_basic_block() for _ in range(3))
        b.branch(top)
        b.position_at_end(top)
        task = b.atomic_rmw("add", self.function.args[0], _int(1), "monotonic")
        b.cbranch(b.icmp_signed("<", task, a[Arg.TASKS]), work, done)
        b.position_at_end(work)
        rest = b.sdiv(task, tiles)
        head, part = b.srem(rest, a[Arg.HEADS]), b.sdiv(rest, a[Arg.HEADS])
        self._task(head, part, b.mul(b.srem(task, tiles), task_rows))
        b.branch(top)
        b.position_at_end(done)
        b.ret_void()

    def _task(self, head: Any, part: Any, first: Any) -> None:
        b, a = self.b, self.a
        self.queries = b.add(a[Arg.QUERIES], b.mul(head, a[Arg.QUERY_STRIDE]))
        self.keys = b.add(a[Arg.KEY_DATA], b.mul(head, a[Arg.KEY_STRIDE]))
        self.values = b.add(a[Arg.VALUE_DATA], b.mul(head, a[Arg.VALUE_STRIDE]))
        self.key_scales = b.add(a[Arg.KEY_SCALES], b.mul(head, a[Arg.KEY_SCALE_STRIDE]))
        self.value_scales = b.add(a[Arg.VALUE_SCALES], b.mul(head, a[Arg.VALUE_SCALE_STRIDE]))
        self.state = b.add(b.mul(part, a[Arg.PART_STATE_ROWS]), b.mul(head, a[Arg.STATE_ROWS]))
        stop = self._less(a[Arg.ROWS], b.add(first, a[Arg.TASK_ROWS]))
        start_key = b.mul(part, a[Arg.PART_KEYS])
        end = self._less(a[Arg.KEYS], b.add(start_key, a[Arg.PART_KEYS]))
        self.end = self._less(end, self._limit(b.sub(stop, _int(1))))

        def block(at: Any) -> None:
            if self.int8:
                self._widen_block(at)
            else:
                self.block_keys = self._offset(self.keys, (at, self.dim * 2))
                self.block_values = self._offset(self.values, (at, self.dim * 2))
            self._loop(first, stop, ROWS, lambda row: self._row_tile(at, row))

        self._loop(start_key, self.end, BLOCK, block)

    def _limit(self, row: Any) -> Any:
        """Keys that one row sees."""
        return self.b.add(self.a[Arg.LIMIT], self.b.sdiv(row, self.a[Arg.GROUP]))

    # --- int8 → bf16, one block at a time ---

    def _widen_block(self, at: Any) -> None:
        b = self.b
        count = self._less(b.sub(self.end, at), _int(BLOCK))
        tiles = b.sdiv(b.add(count, _int(TILE - 1)), _int(TILE))
        half = self.dim // 2
        self._widen(
            self._offset(self.keys, (at, self.dim)),
            # A block of 64 tokens has one scale per dimension: dim × 2 bytes for 64 tokens.
            self._offset(self.key_scales, (b.sdiv(at, _int(TILE)), self.dim * 2)),
            b.ptrtoint(self.wide_keys, I64),
            b.mul(tiles, _int(half)),
            TILE * 2,
        )
        self._widen(
            self._offset(self.values, (at, self.dim)),
            self._offset(self.value_scales, (at, 2)),
            b.ptrtoint(self.wide_values, I64),
            b.mul(tiles, _int(TILE // 2)),
            self.dim * 2,
        )
        self.block_keys = b.ptrtoint(self.wide_keys, I64)
        self.block_values = b.ptrtoint(self.wide_values, I64)

    def _widen(self, codes: Any, scales: Any, wide: Any, rows: Any, width: int) -> None:
        """Rows of `width` int8 codes in pairs, one pair of bf16 scales per row, to bf16."""
        b = self.b
        alternate = ir.Constant(WORDS, [0, 17] * 8)

        def row(at: Any) -> None:
            both = b.load(self._at(self._offset(scales, (at, 4)), I32), align=4)
            low = self._splat(b.shl(both, ir.Constant(I32, 16)), WORDS)
            high = self._splat(b.and_(both, ir.Constant(I32, -65536)), WORDS)
            scale = b.bitcast(b.shuffle_vector(low, high, alternate), FLOATS)
            source = self._offset(codes, (at, width))
            target = self._offset(wide, (at, width * 2))
            for x in range(width // 16):
                place = self._at(b.add(source, _int(16 * x)), ir.VectorType(I8, 16))
                numbers = b.sitofp(b.sext(b.load(place, align=16), WORDS), FLOATS)
                rounded = self._round(b.fmul(numbers, scale))
                b.store(rounded, self._at(b.add(target, _int(32 * x)), HALVES), align=32)

        self._loop(_int(0), rows, 1, row)

    # --- six rows × one block of keys ---

    def _row_tile(self, at: Any, row: Any) -> None:
        b = self.b
        last = b.sub(self.a[Arg.ROWS], _int(1))
        indices = [b.add(row, _int(j)) for j in range(ROWS)]
        # Rows behind the last one read its query and write nowhere.
        self.real = [b.icmp_signed("<=", index, last) for index in indices]
        index = [self._less(i, last) for i in indices]
        self.row_queries = [self._offset(self.queries, (i, self.dim * 2)) for i in index]
        self.row_state = [b.add(self.state, i) for i in index]
        self.row_limits = [self._less(self.end, self._limit(i)) for i in index]
        seen = b.sub(self._less(self.row_limits[-1], b.add(at, _int(BLOCK))), at)
        tiles = b.sdiv(b.add(seen, _int(TILE - 1)), _int(TILE))
        with b.if_then(b.icmp_signed(">", seen, _int(0))):
            for peak in self.peaks:
                b.store(_floats(Running.HIDDEN), peak)
            self._loop(_int(0), tiles, 1, lambda tile: self._score_tile(at, tile))
            for j in range(ROWS):
                self._soften(j, b.mul(tiles, _int(TILE // 16)))
            for start in range(0, self.dim, 64):
                self._mix(start, b.mul(tiles, _int(TILE // 2)))

    def _place(self, arg: Arg, j: int) -> Any:
        """Address of row j's state; of nothing for a row behind the last."""
        size = self.dim * 4 if arg is Arg.MIXED else 4
        address = self._offset(self.a[arg], (self.row_state[j], size))
        return self.b.select(self.real[j], address, self.b.ptrtoint(self.nowhere, I64))

    def _score_tile(self, at: Any, tile: Any) -> None:
        b = self.b
        for register in self.registers:
            b.store(_floats(0.0), register)
        base = self._offset(self.block_keys, (tile, TILE * self.dim * 2))

        def step(pair: Any) -> None:
            vectors = self._vectors(self._offset(base, (pair, TILE * 4)), 4)
            for j in range(ROWS):
                self._multiply(j, vectors, self._pair(self._offset(self.row_queries[j], (pair, 4))))

        self._loop(_int(0), _int(self.dim // 2), 1, step)
        first_key = self._offset(at, (tile, TILE))
        crosses = b.icmp_signed(">", b.add(first_key, _int(TILE)), self.row_limits[0])
        with b.if_then(crosses, likely=False):
            self._hide(first_key)
        for j in range(ROWS):
            peak = b.load(self.peaks[j])
            for x in range(4):
                score = b.load(self.registers[j * 4 + x])
                place = b.add(b.mul(tile, _int(4)), _int(j * BLOCK // 16 + x))
                b.store(score, b.gep(self.scores, [place]), align=64)
                peak = self._larger(peak, score)
            b.store(peak, self.peaks[j])

    def _hide(self, first_key: Any) -> None:
        """Scores of keys that a row may not see."""
        b = self.b
        lanes = ir.Constant(LANES, list(range(16)))
        for j in range(ROWS):
            for x in range(4):
                left = b.sub(self.row_limits[j], b.add(first_key, _int(16 * x)))
                seen = b.icmp_signed("<", lanes, self._splat(left, LANES))
                register = self.registers[j * 4 + x]
                b.store(b.select(seen, b.load(register), _floats(Running.HIDDEN)), register)

    def _soften(self, j: int, vectors: Any) -> None:
        """Scores of row j to weights; its peak and total move on."""
        b = self.b
        peak_at = self._at(self._place(Arg.PEAK, j), F32)
        total_at = self._at(self._place(Arg.TOTAL, j), F32)
        before = b.load(peak_at)
        here = self._call(
            "llvm.vector.reduce.fmax.v16f32", F32, b.load(self.peaks[j]), fastmath=("nnan",)
        )
        peak = self._larger(before, here)
        b.store(peak, peak_at)
        change = self._splat(b.fmul(b.fsub(before, peak), self.scale), FLOATS)
        decay = b.extract_element(self._exp2(change), ir.Constant(I32, 0))
        b.store(decay, b.gep(self.decay, [_int(j)]))
        shift = self._splat(b.fneg(b.fmul(peak, self.scale)), FLOATS)
        b.store(_floats(0.0), self.sum)

        def step(vector: Any) -> None:
            total = b.load(self.sum)
            for x in range(4):
                place = b.add(vector, _int(j * BLOCK // 16 + x))
                score = b.load(b.gep(self.scores, [place]), align=64)
                weight = self._exp2(self._fma(score, self.scales, shift))
                total = b.fadd(total, weight)
                b.store(self._round(weight), b.gep(self.weights, [place]), align=32)
            b.store(total, self.sum)

        self._loop(_int(0), vectors, 4, step)
        added = self._call(
            "llvm.vector.reduce.fadd.v16f32",
            F32,
            ir.Constant(F32, 0.0),
            b.load(self.sum),
            fastmath=("reassoc",),
        )
        b.store(b.fadd(b.fmul(b.load(total_at), decay), added), total_at)

    def _mix(self, start: int, pairs: Any) -> None:
        """Dimensions [start, start + 64) of the weighted values."""
        b = self.b
        count = min(64, self.dim - start) // 16
        rows = [self._place(Arg.MIXED, j) for j in range(ROWS)]
        places = [
            self._at(b.add(row, _int(4 * start + 64 * x)), FLOATS)
            for row in rows
            for x in range(count)
        ]
        for n, place in enumerate(places):
            j, x = divmod(n, count)
            decay = self._splat(b.load(b.gep(self.decay, [_int(j)])), FLOATS)
            b.store(b.fmul(b.load(place, align=64), decay), self.registers[j * 4 + x])
        base = b.add(self.block_values, _int(start * 4))
        weights = b.ptrtoint(self.weights, I64)

        def step(pair: Any) -> None:
            vectors = self._vectors(self._offset(base, (pair, self.dim * 4)), count)
            for j in range(ROWS):
                word = b.add(self._offset(weights, (pair, 4)), _int(j * BLOCK * 2))
                self._multiply(j, vectors, self._pair(word))

        self._loop(_int(0), pairs, 1, step)
        for n, place in enumerate(places):
            j, x = divmod(n, count)
            b.store(b.load(self.registers[j * 4 + x]), place, align=64)
