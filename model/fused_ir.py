"""The fused attention kernel as LLVM IR: scores, softmax and weighted values of one task at a time.

Written once for vectors of sixteen numbers and compiled in memory (`model.fused`), so that an
installation needs no compiler. bf16 products with float32 sums (`vdpbf16ps`, or two of float32); a
few query rows × 64 keys of scores live in registers (`Tile`), 512 keys of them in the first-level
cache, and the exponential is a degree-4 polynomial: relative error 4e-6, a thousandth of bf16's.

The first block of keys is seen first, then from the last to the second: heads look near them, or at
the first token where there is nothing to look at, so a row knows early what the rest has to be
beside. Where all scores of a tile lie `NEGLIGIBLE` below what its rows have seen, exponentials and
second product are left out: exact, since a million such keys weigh 1e-6 of a row together.

Layout of what it reads (`model.segments`): two numbers that are multiplied at once lie together.

    keys    block of 64 tokens × dims/2 × 64 × 2        values    tokens/2 × dims × 2
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir

from model.fused_args import Arg
from model.ir_words import (
    F32,
    FLOATS,
    HALVES,
    I8,
    I32,
    I64,
    LANES,
    PAIRS,
    WORDS,
    Writer,
    floats,
    int64,
)
from model.running import Running

TILE = 64
"""Keys of one tile of scores, and of one block of the cache."""
BLOCK = 512
"""Keys whose scores are kept between the two products."""
NEGLIGIBLE = 40.0
"""Powers of two below a row's peak."""


class Tile(NamedTuple):
    """What goes through the registers together."""

    rows: int
    """Query rows, at most."""
    vectors: int
    """Vectors of sixteen keys, or of sixteen dimensions of values."""


BF16_TILE = Tile(6, 4)
"""6 × 4 vectors of scores and 5 operands fill the 32 registers of AVX-512."""
FLOAT_TILE = Tile(4, 1)
"""4 rows' scores, the keys' two halves and a query's fill the 16 half as wide ones of AVX2."""


def tile_for(*, has_bf16: bool) -> Tile:
    """What the registers hold of a CPU with AVX-512 BF16, or without."""
    return BF16_TILE if has_bf16 else FLOAT_TILE


class FusedKernel(Writer):
    """Builds the module for one head dimension; `worker(args)` takes tasks until none is left."""

    def __init__(
        self, dim: int, *, int8: bool, has_bf16: bool, height: int, block: int = BLOCK
    ) -> None:
        """`height` query rows go through a register tile together, at most its own; the scores of
        `block` keys are kept between the two products."""
        super().__init__("fused_attention", has_bf16=has_bf16)
        self.tile = tile_for(has_bf16=has_bf16)
        self.dim, self.int8, self.height, self.block = dim, int8, height, block
        self._read_arguments()
        self._reserve()
        self._tasks()

    def _multiply(self, row: int, vectors: list[Any], pair: Any) -> None:
        """Register row += vectors · pair."""
        for register, vector in zip(self._registers(row), vectors, strict=False):
            self.b.store(self.add_product(self.b.load(register), vector, pair), register)

    def _registers(self, row: int) -> list[Any]:
        return self.registers[row * self.tile.vectors : (row + 1) * self.tile.vectors]

    # --- the frame ---

    def _read_arguments(self) -> None:
        base = self.function.args[0]
        self.a = {arg: self.b.load(self.b.gep(base, [int64(arg)])) for arg in list(Arg)[1:]}
        self.scale = self.b.bitcast(self.b.trunc(self.a[Arg.SCALE], I32), F32)
        self.scales = self.splat(self.scale, FLOATS)

    def _reserve(self) -> None:
        def room(kind: Any, count: int, align: int) -> Any:
            place = self.b.alloca(kind, count)
            place.align = align
            return place

        self.scores = room(FLOATS, self.height * self.block // 16, 64)
        self.weights = room(HALVES, self.height * self.block // 16, 64)
        self.decay = room(F32, self.height, 4)
        self.nowhere = room(FLOATS, self.dim // 16 + 1, 64)
        self.registers = [room(FLOATS, 1, 64) for _ in range(self.height * self.tile.vectors)]
        self.peaks = [room(FLOATS, 1, 64) for _ in range(self.height)]
        self.sum = room(FLOATS, 1, 64)
        if self.int8:
            self.wide_keys = room(PAIRS, self.block * self.dim // 32, 64)
            self.wide_values = room(PAIRS, self.block * self.dim // 32, 64)

    def _tasks(self) -> None:
        b, a = self.b, self.a
        rows, task_rows = a[Arg.ROWS], a[Arg.TASK_ROWS]
        tiles = b.sdiv(b.add(rows, b.sub(task_rows, int64(1))), task_rows)
        top, work, done = (self.function.append_basic_block() for _ in range(3))
        b.branch(top)
        b.position_at_end(top)
        task = b.atomic_rmw("add", self.function.args[0], int64(1), "monotonic")
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
        stop = self.less(a[Arg.ROWS], b.add(first, a[Arg.TASK_ROWS]))
        start_key = b.mul(part, a[Arg.PART_KEYS])
        end = self.less(a[Arg.KEYS], b.add(start_key, a[Arg.PART_KEYS]))
        self.end = self.less(end, self._limit(b.sub(stop, int64(1))))

        def block(at: Any) -> None:
            if self.int8:
                self._widen_block(at)
            else:
                self.block_keys = self.offset(self.keys, (at, self.dim * 2))
                self.block_values = self.offset(self.values, (at, self.dim * 2))
            self.loop(first, stop, self.height, lambda row: self._row_tile(at, row))

        blocks = b.sdiv(b.add(b.sub(self.end, start_key), int64(self.block - 1)), int64(self.block))

        def first_and_then_from_the_last(number: Any) -> None:
            is_first = b.icmp_signed("==", number, int64(0))
            place = b.select(is_first, number, b.sub(blocks, number))
            block(self.offset(start_key, (place, self.block)))

        self.loop(int64(0), blocks, 1, first_and_then_from_the_last)

    def _limit(self, row: Any) -> Any:
        """Keys that one row sees."""
        return self.b.add(self.a[Arg.LIMIT], self.b.sdiv(row, self.a[Arg.GROUP]))

    # --- int8 → bf16, one block at a time ---

    def _widen_block(self, at: Any) -> None:
        b = self.b
        count = self.less(b.sub(self.end, at), int64(self.block))
        tiles = b.sdiv(b.add(count, int64(TILE - 1)), int64(TILE))
        half = self.dim // 2
        self._widen(
            self.offset(self.keys, (at, self.dim)),
            # A block of 64 tokens has one scale per dimension: dim × 2 bytes for 64 tokens.
            self.offset(self.key_scales, (b.sdiv(at, int64(TILE)), self.dim * 2)),
            b.ptrtoint(self.wide_keys, I64),
            b.mul(tiles, int64(half)),
            TILE * 2,
        )
        self._widen(
            self.offset(self.values, (at, self.dim)),
            self.offset(self.value_scales, (at, 2)),
            b.ptrtoint(self.wide_values, I64),
            b.mul(tiles, int64(TILE // 2)),
            self.dim * 2,
        )
        self.block_keys = b.ptrtoint(self.wide_keys, I64)
        self.block_values = b.ptrtoint(self.wide_values, I64)

    def _widen(self, codes: Any, scales: Any, wide: Any, rows: Any, width: int) -> None:
        """Rows of `width` int8 codes in pairs, one pair of bf16 scales per row, to bf16."""
        b = self.b
        alternate = ir.Constant(WORDS, [0, 17] * 8)

        def row(at: Any) -> None:
            both = b.load(self.at(self.offset(scales, (at, 4)), I32), align=4)
            low = self.splat(b.shl(both, ir.Constant(I32, 16)), WORDS)
            high = self.splat(b.and_(both, ir.Constant(I32, -65536)), WORDS)
            scale = b.bitcast(b.shuffle_vector(low, high, alternate), FLOATS)
            source = self.offset(codes, (at, width))
            target = self.offset(wide, (at, width * 2))
            for x in range(width // 16):
                place = self.at(b.add(source, int64(16 * x)), ir.VectorType(I8, 16))
                numbers = b.sitofp(b.sext(b.load(place, align=16), WORDS), FLOATS)
                rounded = self.round(b.fmul(numbers, scale))
                b.store(rounded, self.at(b.add(target, int64(32 * x)), HALVES), align=32)

        self.loop(int64(0), rows, 1, row)

    # --- a tile of rows × one block of keys ---

    def _row_tile(self, at: Any, row: Any) -> None:
        b = self.b
        last = b.sub(self.a[Arg.ROWS], int64(1))
        indices = [b.add(row, int64(j)) for j in range(self.height)]
        # Rows behind the last one read its query and write nowhere.
        self.real = [b.icmp_signed("<=", index, last) for index in indices]
        index = [self.less(i, last) for i in indices]
        self.row_queries = [self.offset(self.queries, (i, self.dim * 2)) for i in index]
        self.row_state = [b.add(self.state, i) for i in index]
        self.row_limits = [self.less(self.end, self._limit(i)) for i in index]
        seen = b.sub(self.less(self.row_limits[-1], b.add(at, int64(self.block))), at)
        tiles = b.sdiv(b.add(seen, int64(TILE - 1)), int64(TILE))
        with b.if_then(b.icmp_signed(">", seen, int64(0))):
            for peak in self.peaks:
                b.store(floats(Running.HIDDEN), peak)
            self.loop(int64(0), tiles, 1, lambda tile: self._score_tile(at, tile))
            with b.if_then(self._counts()):
                for j in range(self.height):
                    self._soften(j, b.mul(tiles, int64(TILE // 16)))
                for start in range(0, self.dim, 16 * self.tile.vectors):
                    self._mix(start, b.mul(tiles, int64(TILE // 2)))

    def _counts(self) -> Any:
        """Whether any row's largest score here is worth the second product."""
        b, counts = self.b, ir.Constant(ir.IntType(1), 0)
        for j in range(self.height):
            before = b.load(self.at(self._place(Arg.PEAK, j), F32))
            above = b.fmul(b.fsub(self._here(j), before), self.scale)
            is_near = b.fcmp_unordered(">=", above, ir.Constant(F32, -NEGLIGIBLE))
            counts = b.or_(counts, b.and_(is_near, self.real[j]))
        return counts

    def _here(self, j: int) -> Any:
        """Row j's largest score in this block."""
        name, peaks = "llvm.vector.reduce.fmax.v16f32", self.b.load(self.peaks[j])
        return self.call(name, F32, peaks, fastmath=("nnan",))

    def _place(self, arg: Arg, j: int) -> Any:
        """Address of row j's state; of nothing for a row behind the last."""
        size = self.dim * 4 if arg is Arg.MIXED else 4
        address = self.offset(self.a[arg], (self.row_state[j], size))
        return self.b.select(self.real[j], address, self.b.ptrtoint(self.nowhere, I64))

    def _score_tile(self, at: Any, tile: Any) -> None:
        for first in range(0, TILE // 16, self.tile.vectors):
            self._score_vectors(at, tile, first)

    def _score_vectors(self, at: Any, tile: Any, first: int) -> None:
        """As many vectors of a tile's keys as the registers take, from number `first` on."""
        b, count = self.b, self.tile.vectors
        for register in self.registers:
            b.store(floats(0.0), register)
        # Keys and values of a tile are as long: one address runs through both.
        keys, values = (
            self.offset(start, (tile, TILE * self.dim * 2), (int64(first), 64))
            for start in (self.block_keys, self.block_values)
        )

        def step(pair: Any) -> None:
            vectors = self.vectors(self.offset(keys, (pair, TILE * 4)), count)
            self._ask(self.offset(values, (pair, TILE * 4)), count)
            for j in range(self.height):
                self._multiply(j, vectors, self.pair(self.offset(self.row_queries[j], (pair, 4))))

        self.loop(int64(0), int64(self.dim // 2), 1, step)
        first_key = b.add(self.offset(at, (tile, TILE)), int64(16 * first))
        crosses = b.icmp_signed(">", b.add(first_key, int64(16 * count)), self.row_limits[0])
        with b.if_then(crosses, likely=False):
            self._hide(first_key)
        for j in range(self.height):
            peak = b.load(self.peaks[j])
            for x, register in enumerate(self._registers(j), first):
                score = b.load(register)
                place = b.add(b.mul(tile, int64(TILE // 16)), int64(j * self.block // 16 + x))
                b.store(score, b.gep(self.scores, [place]), align=64)
                peak = self.larger(peak, score)
            b.store(peak, self.peaks[j])

    def _ask(self, address: Any, vectors: int) -> None:
        """Fetch what the other product reads next. Few rows wait for memory; what many rows
        read stays near. int8 is read while it is widened."""
        if self.height < self.tile.rows and not self.int8:
            for x in range(vectors):
                self.prefetch(self.b.add(address, int64(64 * x)))

    def _hide(self, first_key: Any) -> None:
        """Scores of keys that a row may not see."""
        b = self.b
        lanes = ir.Constant(LANES, list(range(16)))
        for j in range(self.height):
            for x, register in enumerate(self._registers(j)):
                left = b.sub(self.row_limits[j], b.add(first_key, int64(16 * x)))
                seen = b.icmp_signed("<", lanes, self.splat(left, LANES))
                b.store(b.select(seen, b.load(register), floats(Running.HIDDEN)), register)

    def _soften(self, j: int, vectors: Any) -> None:
        """Scores of row j to weights; its peak and total move on."""
        b = self.b
        peak_at = self.at(self._place(Arg.PEAK, j), F32)
        total_at = self.at(self._place(Arg.TOTAL, j), F32)
        before = b.load(peak_at)
        peak = self.larger(before, self._here(j))
        b.store(peak, peak_at)
        change = self.splat(b.fmul(b.fsub(before, peak), self.scale), FLOATS)
        decay = b.extract_element(self.exp2(change), ir.Constant(I32, 0))
        b.store(decay, b.gep(self.decay, [int64(j)]))
        shift = self.splat(b.fneg(b.fmul(peak, self.scale)), FLOATS)
        b.store(floats(0.0), self.sum)

        def step(vector: Any) -> None:
            total = b.load(self.sum)
            for x in range(4):
                place = b.add(vector, int64(j * self.block // 16 + x))
                score = b.load(b.gep(self.scores, [place]), align=64)
                weight = self.exp2(self.fma(score, self.scales, shift))
                total = b.fadd(total, weight)
                b.store(self.round(weight), b.gep(self.weights, [place]), align=32)
            b.store(total, self.sum)

        self.loop(int64(0), vectors, 4, step)
        added = self.call(
            "llvm.vector.reduce.fadd.v16f32",
            F32,
            ir.Constant(F32, 0.0),
            b.load(self.sum),
            fastmath=("reassoc",),
        )
        b.store(b.fadd(b.fmul(b.load(total_at), decay), added), total_at)

    def _mix(self, start: int, pairs: Any) -> None:
        """As many dimensions of the weighted values as the registers take, from `start` on."""
        b = self.b
        count = min(16 * self.tile.vectors, self.dim - start) // 16
        rows = [self._place(Arg.MIXED, j) for j in range(self.height)]
        places = [
            self.at(b.add(row, int64(4 * start + 64 * x)), FLOATS)
            for row in rows
            for x in range(count)
        ]
        for n, place in enumerate(places):
            j, x = divmod(n, count)
            decay = self.splat(b.load(b.gep(self.decay, [int64(j)])), FLOATS)
            b.store(b.fmul(b.load(place, align=64), decay), self._registers(j)[x])
        base = b.add(self.block_values, int64(start * 4))
        following = self.offset(self.block_keys, (int64(-self.block), self.dim * 2))
        following = b.add(following, int64(start * 4))
        weights = b.ptrtoint(self.weights, I64)

        def step(pair: Any) -> None:
            vectors = self.vectors(self.offset(base, (pair, self.dim * 4)), count)
            self._ask(self.offset(following, (pair, self.dim * 4)), count)
            for j in range(self.height):
                word = b.add(self.offset(weights, (pair, 4)), int64(j * self.block * 2))
                self._multiply(j, vectors, self.pair(word))

        self.loop(int64(0), pairs, 1, step)
        for n, place in enumerate(places):
            j, x = divmod(n, count)
            b.store(b.load(self._registers(j)[x]), place, align=64)
