"""Words to write LLVM IR with: vector types, loops, and the arithmetic of sixteen lanes.

What is said here is compiled in memory (`model.fused`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

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


def _exp2_coefficients(degree: int) -> list[float]:
    """Polynomial of 2^x on [-1/2, 1/2], constant first: Chebyshev interpolation."""
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    fitted = np.polynomial.chebyshev.chebfit(nodes, 2.0 ** (nodes / 2), degree)
    powers = np.polynomial.chebyshev.cheb2poly(fitted) * 2.0 ** np.arange(degree + 1)
    return [float(np.float32(c)) for c in powers]


_EXP2 = _exp2_coefficients(4)


def int64(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def words(value: int) -> ir.Constant:
    return ir.Constant(WORDS, [value] * 16)


def floats(value: float) -> ir.Constant:
    return ir.Constant(FLOATS, [value] * 16)


class Writer:
    """A module with one function, `worker(int64 *)`, and a place to write the next instruction."""

    def __init__(self, name: str, *, has_bf16: bool) -> None:
        """`has_bf16`: for CPUs with AVX-512 BF16; others get its three instructions acted out."""
        self.has_bf16 = has_bf16
        self.module = ir.Module(name=name)
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(I64)])
        self.function = ir.Function(self.module, kind, "worker")
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))

    def text(self) -> str:
        """The module as LLVM assembly."""
        return str(self.module)

    def call(self, name: str, kind: Any, *args: Any, fastmath: tuple[str, ...] = ()) -> Any:
        known = self.module.globals.get(name)
        if known is None:
            signature = ir.FunctionType(kind, [arg.type for arg in args])
            known = ir.Function(self.module, signature, name)
        return self.b.call(known, args, fastmath=fastmath)

    def loop(self, start: Any, stop: Any, step: int, body: Callable[[Any], None]) -> None:
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
        at.add_incoming(b.add(at, int64(step)), b.block)
        b.branch(head)
        b.position_at_end(end)

    def less(self, x: Any, y: Any) -> Any:
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def splat(self, value: Any, kind: Any) -> Any:
        empty = ir.Constant(kind, ir.Undefined)
        first = self.b.insert_element(empty, value, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
        return self.b.shuffle_vector(first, empty, zeros)

    def at(self, address: Any, kind: Any) -> Any:
        return self.b.inttoptr(address, ir.PointerType(kind))

    def offset(self, base: Any, *terms: tuple[Any, int]) -> Any:
        """base + Σ term × bytes."""
        for term, size in terms:
            base = self.b.add(base, self.b.mul(term, int64(size)))
        return base

    def larger(self, x: Any, y: Any) -> Any:
        return self.b.select(self.b.fcmp_ordered(">", x, y), x, y)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.call("llvm.fma.v16f32", FLOATS, x, y, z)

    def exp2(self, x: Any) -> Any:
        # 2^-127 and less is zero either way: acted out, its exponent is.
        x = self.larger(x, floats(-200.0 if self.has_bf16 else -127.0))
        whole = self.call("llvm.rint.v16f32", FLOATS, x)
        rest = self.b.fsub(x, whole)
        value: Any = floats(_EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            value = self.fma(value, rest, floats(coefficient))
        if self.has_bf16:
            everywhere, current = ir.Constant(I16, -1), ir.Constant(I32, 4)
            name = "llvm.x86.avx512.mask.scalef.ps.512"
            return self.call(name, FLOATS, value, whole, value, everywhere, current)
        exponent = self.b.add(self.b.fptosi(whole, WORDS), words(127))
        return self.b.fmul(value, self.b.bitcast(self.b.shl(exponent, words(23)), FLOATS))

    def round(self, x: Any) -> Any:
        """To the nearest bf16, of two as near the even one."""
        if self.has_bf16:
            return self.call("llvm.x86.avx512bf16.cvtneps2bf16.512", HALVES, x)
        word = self.b.bitcast(x, WORDS)
        odd = self.b.and_(self.b.lshr(word, words(16)), words(1))
        upper = self.b.lshr(self.b.add(word, self.b.add(odd, words(0x7FFF))), words(16))
        return self.b.bitcast(self.b.trunc(upper, ir.VectorType(I16, 16)), HALVES)

    def add_product(self, total: Any, x: Any, y: Any) -> Any:
        """float32 lanes, each plus the products of its two bf16 numbers of `x` and `y`."""
        if self.has_bf16:
            return self.call("llvm.x86.avx512bf16.dpbf16ps.512", FLOATS, total, x, y)
        for half in (self._lower, self._upper):
            total = self.fma(half(x), half(y), total)
        return total

    def _lower(self, pairs: Any) -> Any:
        return self.b.bitcast(self.b.shl(self.b.bitcast(pairs, WORDS), words(16)), FLOATS)

    def _upper(self, pairs: Any) -> Any:
        return self.b.bitcast(self.b.and_(self.b.bitcast(pairs, WORDS), words(-65536)), FLOATS)

    def pair(self, address: Any) -> Any:
        """Two neighbouring bf16 numbers in every lane."""
        word = self.b.load(self.at(address, I32), align=4)
        return self.b.bitcast(self.splat(word, WORDS), PAIRS)

    def prefetch(self, address: Any) -> None:
        """Ask for one cache line that is read soon; any address may be asked for."""
        place = self.at(address, I8)
        reading, level, data = (ir.Constant(I32, value) for value in (0, 2, 1))
        self.call("llvm.prefetch.p0", ir.VoidType(), place, reading, level, data)

    def vectors(self, address: Any, count: int) -> list[Any]:
        places = [self.b.add(address, int64(64 * x)) for x in range(count)]
        return [self.b.load(self.at(place, PAIRS), align=64) for place in places]
