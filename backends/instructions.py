"""LLVM instructions as text: typed SSA values, literals, operations and conversions, over scalars and vectors alike.

What a number means is decided here: which rounding a conversion has, that integer division never traps, that bf16 and 8-bit floats are
integers until they are widened, that a 4-bit integer is the lower half of a byte in memory and a whole one in registers.  Where values
come from (loops, buffers) is `llvm.py`'s business.  No fast-math anywhere: `fma` is fused because it is written so, nothing else is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import CodegenError
from ..ir.types import DType, bf16, bool_, f16, f32, f64, i8, i16, i32, i64, u8, u32
from .target import Target

REGISTER_TYPES = {
    "f64": "double", "f32": "float", "f16": "half", "bf16": "i16", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8",
    "u64": "i64", "u32": "i32", "u16": "i16", "u8": "i8", "bool": "i1", "f8e4m3": "i8", "f8e5m2": "i8", "i4": "i8", "u4": "i8",
}  # fmt: skip


# Bits of the fraction, bias of the exponent, the code of what is too large and that of NaN.
_FLOAT8 = {"f8e4m3": (3, 7, 0x7F, 0x7F), "f8e5m2": (2, 15, 0x7C, 0x7E)}
# By lanes, at least a register: what `Target.dot4` names, as LLVM calls it.
_DOT4 = {
    "vpdpbusd": {4: "llvm.x86.avx512.vpdpbusd.128", 8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"},
    "vpmaddwd": {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"},
    "usdot": {2: "llvm.aarch64.neon.usdot.v2i32.v8i8", 4: "llvm.aarch64.neon.usdot.v4i32.v16i8"},
    "sdot": {2: "llvm.aarch64.neon.sdot.v2i32.v8i8", 4: "llvm.aarch64.neon.sdot.v4i32.v16i8"},
    "dp4a": {0: "llvm.nvvm.idp4a.u.s"},
    "": {},
}
# By lanes of i32 in a register of x86: f32 to the nearest i32, two registers of those to i16, and two of these to bytes of either sign.
_PACKING = {
    8: ("llvm.x86.avx.cvt.ps2dq.256", "llvm.x86.avx2.packssdw", {"i": "llvm.x86.avx2.packsswb", "u": "llvm.x86.avx2.packuswb"}),
    16: (
        "llvm.x86.avx512.mask.cvtps2dq.512",
        "llvm.x86.avx512.packssdw.512",
        {"i": "llvm.x86.avx512.packsswb.512", "u": "llvm.x86.avx512.packuswb.512"},
    ),
}
_BYTE = {"i": i8, "u": u8}  # what a 4-bit integer is in registers


@dataclass(frozen=True)
class Val:
    """An SSA value or literal; `lanes` is 0 for a scalar."""

    text: str
    dtype: DType
    lanes: int = 0


class Instructions:
    """The lines of one function, and the declarations that they need.

    target: whose instructions may be used beside those that LLVM knows how to build from others; None: nobody's.
    """

    def __init__(self, target: Target | None = None) -> None:
        self.target = target
        self.declarations: set[str] = set()
        self.lines: list[str] = []
        self.count = 0
        self.block = "entry"

    def fresh(self, hint: str = "v") -> str:
        """A new SSA name."""
        self.count += 1
        return f"%{hint}{self.count}"

    def put(self, line: str) -> None:
        """Append an instruction."""
        self.lines.append("  " + line)

    def define(self, right: str, dtype: DType, lanes: int = 0) -> Val:
        """Append an instruction that gives a value."""
        name = self.fresh()
        self.lines.append(f"  {name} = {right}")
        return Val(name, dtype, lanes)

    def label(self, name: str) -> None:
        """Begin a basic block."""
        self.lines.append(f"{name}:")
        self.block = name

    def new_label(self, hint: str) -> str:
        """A new name for a basic block."""
        self.count += 1
        return f"{hint}{self.count}"

    def type(self, dtype: DType, lanes: int = 0) -> str:
        """The LLVM type of a value in registers.  Raises CodegenError for a dtype that has none."""
        try:
            t = REGISTER_TYPES[dtype.name]
        except KeyError:
            raise CodegenError(f"no machine code for values of dtype {dtype}; cast them first") from None
        return f"<{lanes} x {t}>" if lanes else t

    def memory_type(self, dtype: DType, lanes: int = 0) -> str:
        """The LLVM type of a value in memory, where a bool is a byte."""
        return self.type(dtype, lanes).replace("i1", "i8") if dtype is bool_ else self.type(dtype, lanes)

    def literal(self, value: float | int | bool, dtype: DType) -> str:
        """A constant as LLVM spells it, rounded to its dtype."""
        if dtype is bool_:
            return "true" if value else "false"
        if dtype.name == "f64":
            return f"0x{struct.unpack('<Q', struct.pack('<d', float(value)))[0]:016X}"
        if dtype.name == "f32":
            rounded = struct.unpack("<f", struct.pack("<f", _to_f32(float(value))))[0]
            return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
        if dtype.name == "f16":
            return f"0xH{struct.unpack('<H', struct.pack('<e', _to_f16(float(value))))[0]:04X}"
        if dtype.name == "bf16":
            return str(bf16_bits(float(value)))
        if dtype.name in _FLOAT8:
            return str(np.asarray(value, np.float32).astype(dtype.np).view(np.uint8))
        return str(int(value))

    def splat(self, v: Val, lanes: int) -> Val:
        """The value in every lane; vectors and, for no lanes, scalars stay as they are."""
        if v.lanes or not lanes:
            return v
        t, vt = self.type(v.dtype), self.type(v.dtype, lanes)
        if not v.text.startswith("%"):
            return Val("<" + ", ".join([f"{t} {v.text}"] * lanes) + ">", v.dtype, lanes)
        first = self.define(f"insertelement {vt} poison, {t} {v.text}, i64 0", v.dtype, lanes)
        return self.define(f"shufflevector {vt} {first.text}, {vt} poison, <{lanes} x i32> zeroinitializer", v.dtype, lanes)

    def _from_memory(self, v: Val) -> Val:
        if v.dtype.bits == 4:
            return self._half_byte(v)
        if v.dtype is not bool_:
            return v
        vt = self.memory_type(bool_, v.lanes)
        zero = "zeroinitializer" if v.lanes else "0"
        return self.define(f"icmp ne {vt} {v.text}, {zero}", bool_, v.lanes)

    def _half_byte(self, v: Val) -> Val:
        """The lower half of a byte as a 4-bit integer."""
        t = self.type(v.dtype, v.lanes)
        four = self.splat(Val("4", v.dtype), v.lanes).text
        upper = self.define(f"shl {t} {v.text}, {four}", v.dtype, v.lanes)
        return self.define(f"{'ashr' if v.dtype.kind == 'i' else 'lshr'} {t} {upper.text}, {four}", v.dtype, v.lanes)

    def _to_memory(self, v: Val) -> Val:
        if v.dtype.bits == 4:
            lower = self.splat(Val("15", v.dtype), v.lanes).text
            return self.define(f"and {self.type(v.dtype, v.lanes)} {v.text}, {lower}", v.dtype, v.lanes)
        if v.dtype is not bool_:
            return v
        if not v.lanes and v.text in ("true", "false"):
            return Val(str(int(v.text == "true")), bool_)
        return self.define(f"zext {self.type(bool_, v.lanes)} {v.text} to {self.memory_type(bool_, v.lanes)}", bool_, v.lanes)

    def _suffix(self, dtype: DType, memory: bool = False) -> str:
        t = self.memory_type(dtype) if memory else self.type(dtype)
        return {"double": "f64", "float": "f32", "half": "f16"}.get(t, t)

    def intrinsic(self, name: str, args: Sequence[Val], dtype: DType) -> Val:
        """A call of an LLVM intrinsic over operands of one type."""
        lanes = args[0].lanes
        t = self.type(dtype, lanes)
        full = f"llvm.{name}.{f'v{lanes}' if lanes else ''}{self._suffix(dtype)}"
        self.declarations.add(f"declare {t} @{full}({', '.join([t] * len(args))})")
        return self.define(f"call {t} @{full}({', '.join(f'{t} {a.text}' for a in args)})", dtype, lanes)

    def operation(self, name: str, args: list[Val], dtype: DType) -> Val:
        """One of `OPERATIONS`; scalars among vector operands are splat."""
        lanes = max(a.lanes for a in args)
        if name == "where" and not args[0].lanes and lanes:  # a condition that all lanes share
            args = [args[0], self.splat(args[1], lanes), self.splat(args[2], lanes)]
        else:
            args = [self.splat(a, lanes) for a in args]
        a = args[0]
        of = a.dtype
        t = self.type(of, lanes)
        floating = of.is_float
        signed = of.kind == "i"

        def simple(opcode: str) -> Val:
            return self.define(f"{opcode} {t} {a.text}, {args[1].text}", dtype, lanes)

        match name:
            case "add" | "sub" | "mul":
                return simple(("f" if floating else "") + name)
            case "div" if floating:
                return simple("fdiv")
            case "div" | "rem":
                return self._integer_division(name, a, args[1])
            case "floordiv" | "mod":
                return self._index_division(name, a, args[1])
            case "and" | "or" | "xor":
                return simple(name)
            case "shl" | "shr":
                return self._shift(name, a, args[1])
            case "not":
                ones = self.splat(Val("true" if of is bool_ else "-1", of), lanes)
                return self.define(f"xor {t} {a.text}, {ones.text}", dtype, lanes)
            case "neg" if floating:
                return self.define(f"fneg {t} {a.text}", dtype, lanes)
            case "neg":
                return self.define(f"sub {t} {'zeroinitializer' if lanes else '0'}, {a.text}", dtype, lanes)
            case "abs" if floating:
                return self.intrinsic("fabs", args, dtype)
            case "abs":
                negative = self.define(f"sub {t} {'zeroinitializer' if lanes else '0'}, {a.text}", dtype, lanes)
                below = self.define(f"icmp slt {t} {a.text}, {'zeroinitializer' if lanes else '0'}", bool_, lanes)
                return self._select(below, negative, a)
            case "min" | "max":
                less = self.define(f"icmp {'s' if signed else 'u'}lt {t} {a.text}, {args[1].text}", bool_, lanes)
                return self._select(less, a, args[1]) if name == "min" else self._select(less, args[1], a)
            case "sqrt" | "floor" | "ceil" | "rint" | "trunc" | "fma":
                return self.intrinsic(name, args, dtype)
            case "lt" | "le" | "eq" | "ne":
                if floating:
                    return simple("fcmp " + {"lt": "olt", "le": "ole", "eq": "oeq", "ne": "une"}[name])
                sign = ("s" if signed else "u") if name in ("lt", "le") else ""
                return simple("icmp " + sign + name)
            case "where":
                return self._select(a, args[1], args[2])
            case "dot4":
                return self._dot4(*args)
        raise CodegenError(f"the emitter has no operation {name}")

    def _select(self, condition: Val, a: Val, b: Val) -> Val:
        lanes = a.lanes
        t = self.type(a.dtype, lanes)
        ct = self.type(bool_, condition.lanes)
        return self.define(f"select {ct} {condition.text}, {t} {a.text}, {t} {b.text}", a.dtype, lanes)

    def _dot4(self, a: Val, b: Val, c: Val) -> Val:
        """c + the sum of u8 * i8 over the bytes of a and b; no way of computing it saturates."""
        lanes, t = c.lanes, self.type(i32, c.lanes)
        fits = self.target is not None and lanes * i32.bits <= max(i32.bits, self.target.vector_bits)
        how = self.target.dot4 if self.target is not None and fits else ""
        name = _DOT4[how].get(lanes)

        def op(opcode: str, x: Val, k: int) -> Val:
            return self.define(f"{opcode} {t} {x.text}, {self.splat(Val(str(k), i32), lanes).text}", i32, lanes)

        def halves(opcode: str, x: str) -> str:
            """A shift by a byte of the 16-bit halves of every word."""
            return self.define(f"{opcode} {pairs} {x}, {self.splat(Val('8', i16), 2 * lanes).text}", i16, 2 * lanes).text

        if how == "dp4a" and name:
            self.declarations.add(f"declare i32 @{name}(i32, i32, i32)")
            return self.define(f"call i32 @{name}(i32 {a.text}, i32 {b.text}, i32 {c.text})", i32)
        if how in ("vpdpbusd", "usdot", "sdot") and name:
            of = f"<{4 * lanes} x i8>"
            self.declarations.add(f"declare {t} @{name}({t}, {of}, {of})")

            def dot(old: Val, first: Val, second: Val) -> Val:
                x, y = (self.define(f"bitcast {t} {v.text} to {of}", i8, 4 * lanes).text for v in (first, second))
                return self.define(f"call {t} @{name}({t} {old.text}, {of} {x}, {of} {y})", i32, lanes)

            if how == "sdot":  # a - 128 is a signed byte; 128 is none, but twice 64: once for all the rows that meet b
                half = self.splat(Val(str(0x40404040), i32), lanes)
                c = self.operation("add", [c, dot(dot(self.splat(Val("0", i32), lanes), half, b), half, b)], i32)
                a = self.operation("xor", [a, Val(str(0x80808080 - (1 << 32)), i32)], i32)
            return dot(c, a, b)
        if how == "vpmaddwd" and name:  # the bytes with even and with odd numbers as 16-bit numbers
            pairs = self.type(i16, 2 * lanes)
            x, y = (self.define(f"bitcast {t} {v.text} to {pairs}", i16, 2 * lanes).text for v in (a, b))
            low = op("and", a, 0x00FF00FF)
            even_a = self.define(f"bitcast {t} {low.text} to {pairs}", i16, 2 * lanes).text
            products = ((even_a, halves("ashr", halves("shl", y))), (halves("lshr", x), halves("ashr", y)))
            self.declarations.add(f"declare {t} @{name}({pairs}, {pairs})")
            for u, v in products:
                sums = self.define(f"call {t} @{name}({pairs} {u}, {pairs} {v})", i32, lanes)
                c = self.define(f"add {t} {c.text}, {sums.text}", i32, lanes)
            # Nothing, but LLVM would add up the products of several steps in registers of their own, of which there are too few.
            return self.define(f'call {t} asm "", "=v,0"({t} {c.text})', i32, lanes)
        for k in (0, 8, 16, 24):
            x, y = op("and", op("lshr", a, k), 255), op("ashr", op("shl", b, 24 - k), 24)
            c = self.operation("add", [c, self.operation("mul", [x, y], i32)], i32)
        return c

    def _integer_division(self, name: str, a: Val, b: Val) -> Val:
        """Truncating division that never traps: x / 0 and x rem 0 are 0, MIN / -1 wraps.  For literals LLVM folds the checks."""
        t = self.type(a.dtype, a.lanes)
        zero = "zeroinitializer" if a.lanes else "0"
        one = self.splat(Val("1", a.dtype), a.lanes)
        signed = a.dtype.kind == "i"
        opcode = ("s" if signed else "u") + name
        nothing = Val(zero, a.dtype, a.lanes)
        is_zero = self.define(f"icmp eq {t} {b.text}, {zero}", bool_, a.lanes)
        a = self._select(is_zero, nothing, a) if name == "div" else a
        safe = self._select(is_zero, one, b)
        if not signed:
            return self.define(f"{opcode} {t} {a.text}, {safe.text}", a.dtype, a.lanes)
        minus_one = self.splat(Val("-1", a.dtype), a.lanes)
        is_minus = self.define(f"icmp eq {t} {safe.text}, {minus_one.text}", bool_, a.lanes)
        safe = self._select(is_minus, one, safe)
        q = self.define(f"{opcode} {t} {a.text}, {safe.text}", a.dtype, a.lanes)
        if name == "rem":
            return self._select(is_minus, nothing, q)
        negated = self.define(f"sub {t} {zero}, {a.text}", a.dtype, a.lanes)
        return self._select(is_minus, negated, q)

    def _index_division(self, name: str, a: Val, b: Val) -> Val:
        """Flooring division and modulo by a positive divisor; a size that is 0 counts as 1, so that nothing traps."""
        t = self.type(i64, a.lanes)
        literal = b.text if not b.lanes else b.text.strip("<>").split(",")[0].removeprefix("i64 ")
        if literal.isdigit() and int(literal) & (int(literal) - 1) == 0:
            power = int(literal)
            amount = self.splat(Val(str(power.bit_length() - 1 if name == "floordiv" else power - 1), i64), a.lanes)
            return self.define(f"{'ashr' if name == 'floordiv' else 'and'} {t} {a.text}, {amount.text}", i64, a.lanes)
        zero = "zeroinitializer" if a.lanes else "0"
        if not literal.isdigit():
            b = self.operation("max", [b, Val("1", i64)], i64)
        r = self.define(f"srem {t} {a.text}, {b.text}", i64, a.lanes)
        negative = self.define(f"icmp slt {t} {r.text}, {zero}", bool_, a.lanes)
        if name == "mod":
            return self._select(negative, self.define(f"add {t} {r.text}, {b.text}", i64, a.lanes), r)
        q = self.define(f"sdiv {t} {a.text}, {b.text}", i64, a.lanes)
        less = self.define(f"sub {t} {q.text}, {self.splat(Val('1', i64), a.lanes).text}", i64, a.lanes)
        return self._select(negative, less, q)

    def _shift(self, name: str, a: Val, b: Val) -> Val:
        """Shifts by the width of the type or more give 0 (or the sign).  For literals LLVM folds the check."""
        t = self.type(a.dtype, a.lanes)
        bits = a.dtype.bits
        last = self.splat(Val(str(bits - 1), a.dtype), a.lanes)
        opcode = "shl" if name == "shl" else "ashr" if a.dtype.kind == "i" else "lshr"
        fits = self.define(f"icmp ule {t} {b.text}, {last.text}", bool_, a.lanes)
        amount = self._select(fits, b, last)
        shifted = self.define(f"{opcode} {t} {a.text}, {amount.text}", a.dtype, a.lanes)
        if opcode == "ashr":
            return shifted
        return self._select(fits, shifted, Val("zeroinitializer" if a.lanes else "0", a.dtype, a.lanes))

    def cast(self, v: Val, to: DType) -> Val:
        """See `loops.Cast`: floats saturate to integers, NaN gives 0."""
        of, lanes = v.dtype, v.lanes
        if of is to:
            return v
        if of.bits == 4:
            return self.cast(Val(v.text, _BYTE[of.kind], lanes), to)
        if to.bits == 4:
            byte = _BYTE[to.kind]
            if of.is_float:  # saturates
                v = self.operation("max", [self.cast(v, byte), Val(str(to.min), byte)], byte)
                return Val(self.operation("min", [v, Val(str(to.max), byte)], byte).text, to, lanes)
            return self._half_byte(Val(self.cast(v, byte).text, to, lanes))
        if of.name in _FLOAT8:
            return self.cast(self._from_float8(v), to)
        if to.name in _FLOAT8:
            return self._to_float8(self._to_odd(v) if of is f64 else self.cast(v, f32), to)
        t, tt = self.type(of, lanes), self.type(to, lanes)
        zero = "zeroinitializer" if lanes else "0"
        if to is bool_:
            if of.is_float and of.name != "bf16":
                return self.define(f"fcmp une {t} {v.text}, {'zeroinitializer' if lanes else '0.0'}", bool_, lanes)
            if of.name == "bf16":
                return self.cast(self.cast(v, f32), to)
            return self.define(f"icmp ne {t} {v.text}, {zero}", bool_, lanes)
        if of.name == "bf16":
            wide = self.define(f"zext {t} {v.text} to {self._int(32, lanes)}", of, lanes)
            sixteen = self.splat(Val("16", i64), lanes).text.replace("i64", "i32")
            up = self.define(f"shl {self._int(32, lanes)} {wide.text}, {sixteen}", of, lanes)
            single = self.define(f"bitcast {self._int(32, lanes)} {up.text} to {self.type(f32, lanes)}", f32, lanes)
            return self.cast(single, to)
        if to.name == "bf16":
            return self._to_bf16(v if of is f32 else self.cast(v, f32))
        if of.is_float and to.is_float:
            if of.name == "f64" and to.name == "f16":
                v, t = self._to_odd(v), self.type(f32, lanes)
            return self.define(f"{'fpext' if to.bits > of.bits else 'fptrunc'} {t} {v.text} to {tt}", to, lanes)
        if of.is_float:
            kind = "s" if to.kind == "i" else "u"
            if of.name == "f16":
                v, of, t = self.cast(v, f32), f32, self.type(f32, lanes)
            if to.bits < i32.bits:
                return self._to_small(v, to)
            prefix = f"v{lanes}" if lanes else ""
            name = f"llvm.fpto{kind}i.sat.{prefix}i{to.bits}.{prefix}{self._suffix(of)}"
            self.declarations.add(f"declare {tt} @{name}({t})")
            return self.define(f"call {tt} @{name}({t} {v.text})", to, lanes)
        if to.is_float:
            if to.name == "f16":
                return self.cast(self.cast(v, f32), to)
            return self.define(f"{'sitofp' if of.kind == 'i' else 'uitofp'} {t} {v.text} to {tt}", to, lanes)
        from_bits, to_bits = (1 if of is bool_ else of.bits), to.bits
        if from_bits == to_bits:
            return Val(v.text, to, lanes)
        opcode = "trunc" if to_bits < from_bits else "sext" if of.kind == "i" else "zext"
        return self.define(f"{opcode} {t} {v.text} to {tt}", to, lanes)

    def nibbles(self, words: Val, bit: int, of: DType) -> Val:
        """The 4-bit integers from a bit of words on, as f32: by a table where a register has room for one, else as the lowest bits of a
        power of two, less that; both exact.
        """
        lanes, t, both = words.lanes, self.type(i32, words.lanes), self.type(f32, words.lanes)
        if self.target is not None and self.target.vector_bits == 512 and lanes == 16:
            values = ", ".join(f"float {self.literal(n - 16 if of.kind == 'i' and n > of.max else n, f32)}" for n in range(16))
            if bit:
                words = self.operation("shr", [words, Val(str(bit), i32)], i32)
            name = "llvm.x86.avx512.permvar.sf.512"
            self.declarations.add(f"declare {both} @{name}({both}, {t})")  # it looks at no other bits of a word
            return self.define(f"call {both} @{name}({both} <{values}>, {t} {words.text})", f32, lanes)
        fraction, bias = 23, 127  # of f32
        if bit + of.bits > fraction - 3:  # past the fraction: one shift for all those
            words, bit = self.operation("shr", [words, Val("12", i32)], i32), bit - 12
        middle = -of.min  # of i4, which this makes 0 the least
        power = fraction - bit  # of which a unit is that bit
        own = self.operation("and", [words, Val(str(15 << bit), i32)], i32)
        bits = self.operation("xor", [own, Val(str(bias + power << fraction | middle << bit), i32)], i32)
        number = self.define(f"bitcast {t} {bits.text} to {both}", f32, lanes)
        return self.operation("sub", [number, Val(self.literal(float((1 << power) + middle), f32), f32)], f32)

    def rounded(self, v: Val, zero: int, to: DType) -> Val:
        """The cast of rint(v) + zero, of f32, to an integer of 8 or 16 bits, of NaN the greatest; f32 holds zero exactly."""
        low, high = (self.splat(Val(self.literal(k - zero, f32), f32), v.lanes) for k in (to.min, to.max))
        x = self._limited("olt", v, high)  # NaN is not below: it becomes the upper limit
        register = self.target.lanes(32) if self.target is not None else 0
        packs = to.bits == 8 and to.min <= zero <= to.max and register in _PACKING
        if packs and x.lanes in (2 * register, 4 * register):
            return self._packed(x, register, zero, to)
        x = self._limited("ogt", x, low)
        if x.lanes:
            n = self._call(f"llvm.lrint.v{x.lanes}i32.v{x.lanes}f32", [x], i32, x.lanes)  # one instruction
        else:
            n = self.define(f"fptosi float {self.intrinsic('rint', [x], f32).text} to i32", i32)
        if zero:
            n = self.operation("add", [n, Val(str(zero), i32)], i32)
        return self.cast(n, to)

    def _packed(self, x: Val, register: int, zero: int, to: DType) -> Val:
        """rint(x) + zero as bytes, of 2 or 4 registers of f32, none above the range of `to`.

        Packing saturates and is one step for two registers, where narrowing takes two steps for one.  What is below all i32 becomes the
        least of them.  Instructions join parts of 128 bits, which are then put in order.
        """
        nearest, words, bytes_ = _PACKING[register]
        count = x.lanes // register
        numbers = [self._shuffled(x, range(k * register, (k + 1) * register)) for k in range(count)]
        if register == 16:  # as the mode of rounding says
            ti = self.type(i32, register)
            rest = f"{ti} zeroinitializer, i16 -1, i32 4"
            self.declarations.add(f"declare {ti} @{nearest}({self.type(f32, register)}, {ti}, i16, i32)")
            numbers = [
                self.define(f"call {ti} @{nearest}({self.type(f32, register)} {n.text}, {rest})", i32, register) for n in numbers
            ]
        else:
            numbers = [self._call(nearest, [n], i32, register) for n in numbers]
        pairs = [self._call(words, numbers[k : k + 2], i16, 2 * register) for k in range(0, count, 2)]
        if zero:
            by = self.splat(Val(str(zero), i16), 2 * register)
            pairs = [self._call(f"llvm.sadd.sat.v{2 * register}i16", [p, by], i16, 2 * register) for p in pairs]
        joined = self._call(bytes_[to.kind], [pairs[0], pairs[-1]], to, 4 * register)
        quads = self.define(f"bitcast {self.type(to, 4 * register)} {joined.text} to {self.type(i32, register)}", i32, register)
        parts = register // 4
        ordered = self._shuffled(quads, [part * 4 + k for k in range(count) for part in range(parts)])
        return self.define(f"bitcast {self.type(i32, ordered.lanes)} {ordered.text} to {self.type(to, x.lanes)}", to, x.lanes)

    def _shuffled(self, v: Val, lanes: Sequence[int]) -> Val:
        """Those lanes of a vector."""
        t, mask = self.type(v.dtype, v.lanes), ", ".join(f"i32 {k}" for k in lanes)
        return self.define(f"shufflevector {t} {v.text}, {t} poison, <{len(lanes)} x i32> <{mask}>", v.dtype, len(lanes))

    def _call(self, name: str, args: Sequence[Val], dtype: DType, lanes: int) -> Val:
        """A call of a function of vectors by its whole name."""
        types = [self.type(a.dtype, a.lanes) for a in args]
        t = self.type(dtype, lanes)
        self.declarations.add(f"declare {t} @{name}({', '.join(types)})")
        return self.define(f"call {t} @{name}({', '.join(f'{of} {a.text}' for of, a in zip(types, args, strict=True))})", dtype, lanes)

    def _limited(self, order: str, v: Val, limit: Val) -> Val:
        """v where it is below ("olt") or above ("ogt") a limit, which NaN never is, and the limit elsewhere."""
        t, bits = self.type(v.dtype, v.lanes), self.type(bool_, v.lanes)
        inside = self.define(f"fcmp {order} {t} {v.text}, {limit.text}", bool_, v.lanes)
        return self.define(f"select {bits} {inside.text}, {t} {v.text}, {t} {limit.text}", v.dtype, v.lanes)

    def _to_small(self, v: Val, to: DType) -> Val:
        """v truncated and saturated to an integer of 8 or 16 bits; NaN gives 0."""
        lanes = v.lanes
        t = self.type(v.dtype, lanes)
        low, high = (self.splat(Val(self.literal(k, v.dtype), v.dtype), lanes) for k in (to.min, to.max))
        x = self._limited("olt", self._limited("ogt", v, low), high)  # NaN is not above: it becomes the lower limit
        n = self.define(f"fptosi {t} {x.text} to {self._int(32, lanes)}", i32, lanes)
        if to.kind == "i":
            number = self.define(f"fcmp ord {t} {v.text}, {v.text}", bool_, lanes)
            n = self._select(number, n, self.splat(Val("0", i32), lanes))
        return self.cast(n, to)

    def _int(self, bits: int, lanes: int) -> str:
        return f"<{lanes} x i{bits}>" if lanes else f"i{bits}"

    def _to_odd(self, v: Val) -> Val:
        """f64 -> f32, where what is not exact becomes the neighbour with an odd last bit: rounding that once more rounds once."""
        nearest = self.cast(v, f32)
        back = self.cast(nearest, f64)
        lanes, wide, t = v.lanes, self.type(f64, v.lanes), self._int(32, v.lanes)
        one = self.splat(Val("1", u32), lanes)
        bits = self.define(f"bitcast {self.type(f32, lanes)} {nearest.text} to {t}", u32, lanes)
        up = self.define(f"or {t} {bits.text}, {one.text}", u32, lanes)  # of an even one: away from zero
        down = self.define(f"sub {t} {bits.text}, {one.text}", u32, lanes)
        size, was = (self.intrinsic("fabs", [x], f64) for x in (back, v))
        above = self.define(f"fcmp ogt {wide} {size.text}, {was.text}", bool_, lanes)
        inexact = self.define(f"fcmp one {wide} {back.text}, {v.text}", bool_, lanes)
        last = self.define(f"and {t} {bits.text}, {one.text}", u32, lanes)
        even = self.define(f"icmp eq {t} {last.text}, {'zeroinitializer' if lanes else '0'}", bool_, lanes)
        move = self.define(f"and {self.type(bool_, lanes)} {inexact.text}, {even.text}", bool_, lanes)
        odd = self._select(move, self._select(above, down, up), bits)
        return self.define(f"bitcast {t} {odd.text} to {self.type(f32, lanes)}", f32, lanes)

    def _from_float8(self, v: Val) -> Val:
        """The f32 of an 8-bit float, by way of f16, which has room for all of them as normal or subnormal numbers."""
        lanes, e5m2 = v.lanes, v.dtype.name == "f8e5m2"
        wide, narrow = self.type(i16, lanes), self.type(v.dtype, lanes)

        def constant(k: int) -> str:
            return self.splat(Val(str(k), i16), lanes).text

        bits = self.define(f"zext {narrow} {v.text} to {wide}", i16, lanes)
        high = self.define(f"shl {wide} {bits.text}, {constant(8)}", i16, lanes)
        if e5m2:  # the upper half of an f16
            return self.cast(self.define(f"bitcast {wide} {high.text} to {self.type(f16, lanes)}", f16, lanes), f32)
        rest = self.define(f"and {wide} {bits.text}, {constant(0x7F)}", i16, lanes)
        moved = self.define(f"shl {wide} {rest.text}, {constant(7)}", i16, lanes)  # the exponent's bias is 15 there and 7 here
        sign = self.define(f"and {wide} {high.text}, {constant(-0x8000)}", i16, lanes)
        both = self.define(f"or {wide} {moved.text}, {sign.text}", i16, lanes)
        scaled = self.cast(self.define(f"bitcast {wide} {both.text} to {self.type(f16, lanes)}", f16, lanes), f32)
        number = self.operation("mul", [scaled, Val(self.literal(256.0, f32), f32)], f32)
        is_nan = self.define(f"icmp eq {wide} {rest.text}, {constant(0x7F)}", bool_, lanes)
        return self._select(is_nan, self.splat(Val(self.literal(math.nan, f32), f32), lanes), number)

    def _to_float8(self, v: Val, to: DType) -> Val:
        """Round f32 half to even; what is too large becomes infinite, or NaN where there is no infinity."""
        lanes, wide = v.lanes, self.type(u32, v.lanes)
        fraction, bias, largest, nan = _FLOAT8[to.name]

        def op(opcode: str, a: Val, k: int) -> Val:
            return self.define(f"{opcode} {wide} {a.text}, {self.splat(Val(str(k), u32), lanes).text}", u32, lanes)

        def as_bits(x: Val) -> Val:
            return self.define(f"bitcast {self.type(f32, lanes)} {x.text} to {wide}", u32, lanes)

        all_bits = as_bits(v)
        size = op("and", all_bits, 0x7FFFFFFF)
        drop = 23 - fraction
        last = op("and", op("lshr", size, drop), 1)
        nudged = self.define(f"add {wide} {op('add', size, (1 << drop - 1) - 1).text}, {last.text}", u32, lanes)
        normal = op("sub", op("lshr", nudged, drop), 127 - bias << fraction)
        # below the least normal number: adding 2**k leaves as many bits as are wanted, rounded
        magic = 2.0 ** (24 - bias - fraction)
        magnitude = self.intrinsic("fabs", [v], f32)
        counted = as_bits(self.operation("add", [magnitude, Val(self.literal(magic, f32), f32)], f32))
        subnormal = op("sub", counted, struct.unpack("<I", struct.pack("<f", magic))[0])
        small = op("icmp ult", size, 128 - bias << 23)
        code = self._select(Val(small.text, bool_, lanes), subnormal, normal)
        code = self.operation("min", [code, Val(str(largest), u32)], u32)
        unordered = op("icmp ugt", size, 0x7F800000)
        code = self._select(Val(unordered.text, bool_, lanes), self.splat(Val(str(nan), u32), lanes), code)
        sign = op("and", op("lshr", all_bits, 24), 0x80)
        signed = self.define(f"or {wide} {code.text}, {sign.text}", u32, lanes)
        return self.define(f"trunc {wide} {signed.text} to {self.type(to, lanes)}", to, lanes)

    def _to_bf16(self, v: Val) -> Val:
        """Round to nearest even on the upper half of the bits; NaN stays NaN."""
        lanes = v.lanes
        bits = self.define(f"bitcast {self.type(f32, lanes)} {v.text} to {self._int(32, lanes)}", u32, lanes)

        def constant(k: int) -> str:
            return self.splat(Val(str(k), u32), lanes).text

        t = self._int(32, lanes)
        upper = self.define(f"lshr {t} {bits.text}, {constant(16)}", u32, lanes)
        odd = self.define(f"and {t} {upper.text}, {constant(1)}", u32, lanes)
        bias = self.define(f"add {t} {odd.text}, {constant(0x7FFF)}", u32, lanes)
        rounded = self.define(f"add {t} {bits.text}, {bias.text}", u32, lanes)
        high = self.define(f"lshr {t} {rounded.text}, {constant(16)}", u32, lanes)
        nan = self.define(f"fcmp uno {self.type(f32, lanes)} {v.text}, {'zeroinitializer' if lanes else '0.0'}", bool_, lanes)
        quiet = self.define(f"or {t} {upper.text}, {constant(0x40)}", u32, lanes)
        picked = self._select(nan, quiet, high)
        return self.define(f"trunc {t} {picked.text} to {self._int(16, lanes)}", bf16, lanes)


def string_constant(name: str, text: str) -> str:
    """A global that holds a text, ended by a zero."""
    data = text.encode() + b"\0"
    escaped = "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:02x}" for b in data)
    return f'@{name} = internal constant [{len(data)} x i8] c"{escaped}"'


def _to_f32(x: float) -> float:
    if math.isinf(x) or math.isnan(x):
        return x
    try:
        return struct.unpack("<f", struct.pack("<f", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def _to_f16(x: float) -> float:
    if math.isinf(x) or math.isnan(x):
        return x
    try:
        return struct.unpack("<e", struct.pack("<e", x))[0]
    except OverflowError:
        return math.copysign(math.inf, x)


def bf16_bits(x: float) -> int:
    """The bits of x rounded to bf16, half to even."""
    bits = struct.unpack("<I", struct.pack("<f", _to_f32(x)))[0]
    if math.isnan(x):
        return (bits >> 16) | 0x40
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF
