"""Loop IR -> LLVM IR text: the one emitter that the CPU and the GPU share.

A body is emitted in order; `serial` loops become LLVM loops, `unroll` loops are repeated with the variable bound to a constant, and
inside a `vector` loop every expression that depends on the lane becomes an LLVM vector: a load whose index moves by 1 a lane is a
vector load, one whose index does not move is a scalar load and a splat, any other is a gather.  The accumulator tile is an
`Alloc(reg)` that SROA promotes to registers.  Targets override how parallel, block and thread loops and memory spaces map.

No fast-math anywhere: `fma` is fused because it is written so, nothing else is.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..ir.errors import CodegenError
from ..ir.loops import (
    Alloc,
    Barrier,
    Bitcast,
    Buf,
    Cast,
    Const,
    Expr,
    For,
    If,
    Let,
    Load,
    Op,
    Prefetch,
    Stmt,
    Store,
    Sym,
    Transpose,
    Var,
    While,
    children,
    coefficient,
)
from ..ir.types import DType, bf16, bool_, f32, f64, i64, u32

REGISTER_TYPES = {
    "f64": "double", "f32": "float", "f16": "half", "bf16": "i16", "i64": "i64", "i32": "i32", "i16": "i16", "i8": "i8",
    "u64": "i64", "u32": "i32", "u16": "i16", "u8": "i8", "bool": "i1",
}  # fmt: skip


@dataclass(frozen=True)
class Val:
    """An SSA value or literal; `lanes` is 0 for a scalar."""

    text: str
    dtype: DType
    lanes: int = 0


@dataclass
class _Vector:
    """The vector loop being emitted."""

    var: Var
    lanes: int
    mask: str | None  # SSA name of <lanes x i1>, or None when every lane is live
    hidden: str | None  # the same, but no constant to LLVM: for use with another mask


@dataclass
class _Scope:
    """Values known at this point; a child sees its parent's."""

    parent: _Scope | None
    values: dict[tuple[int, bool], Val] = field(default_factory=dict)


class Emitter:
    """Emits function bodies as LLVM IR text; `declarations` and `globals` belong to the module being built."""

    def __init__(self) -> None:
        self.declarations: set[str] = set()
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.count = 0
        self.block = "entry"
        self.vector: _Vector | None = None
        self.scope = _Scope(None)
        self.statement: dict[tuple[int, bool], Val] = {}
        self.bindings: dict[int, Val] = {}  # id(Var) -> its value
        self.symbols: dict[str, Val] = {}
        self.buffers: dict[int, str] = {}  # id(Buf) -> pointer
        self._impure: dict[int, bool] = {}
        self._alive: list[Expr] = []  # expressions whose ids are keys here must not be collected
        self._coefficients: dict[tuple[int, int], Expr | None] = {}

    # --- text ---------------------------------------------------------------------------------------------------------------

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
        return str(int(value))

    # --- values -------------------------------------------------------------------------------------------------------------

    def splat(self, v: Val, lanes: int) -> Val:
        """The value in every lane; vectors and, for no lanes, scalars stay as they are."""
        if v.lanes or not lanes:
            return v
        t, vt = self.type(v.dtype), self.type(v.dtype, lanes)
        if not v.text.startswith("%"):
            return Val("<" + ", ".join([f"{t} {v.text}"] * lanes) + ">", v.dtype, lanes)
        first = self.define(f"insertelement {vt} poison, {t} {v.text}, i64 0", v.dtype, lanes)
        return self.define(f"shufflevector {vt} {first.text}, {vt} poison, <{lanes} x i32> zeroinitializer", v.dtype, lanes)

    def impure(self, e: Expr) -> bool:
        """Whether an expression reads memory, so that its value must not outlive the statement."""
        known = self._impure
        stack = [e]
        while stack:
            x = stack[-1]
            if id(x) in known:
                stack.pop()
            elif isinstance(x, Load):
                known[id(x)] = True
            else:
                missing = [c for c in children(x) if id(c) not in known]
                if missing:
                    stack.extend(missing)
                else:
                    known[id(x)] = any(known[id(c)] for c in children(x))
        return known[id(e)]

    def value(self, e: Expr, base: bool = False) -> Val:
        """The value of an expression.  With `base`, the lane variable counts as 0 and the result is a scalar."""
        base = base and self.vector is not None
        self._alive.append(e)
        stack: list[tuple[Expr, bool]] = [(e, False)]
        while stack:  # operands first, without recursion: fused expressions can be deep
            x, ready = stack.pop()
            if self._known(x, base) is not None:
                continue
            if ready or isinstance(x, Const | Var | Sym | Load):
                self._remember(x, base, self._emit(x, base))
            else:
                stack.append((x, True))
                stack.extend((c, False) for c in reversed(children(x)))
        known = self._known(e, base)
        assert known is not None
        return known

    def _known(self, e: Expr, base: bool) -> Val | None:
        key = (id(e), base)
        if key in self.statement:
            return self.statement[key]
        scope: _Scope | None = self.scope
        while scope is not None:
            if key in scope.values:
                return scope.values[key]
            scope = scope.parent
        return None

    def _remember(self, e: Expr, base: bool, v: Val) -> None:
        (self.statement if self.impure(e) else self.scope.values)[(id(e), base)] = v

    def _emit(self, e: Expr, base: bool) -> Val:
        match e:
            case Const():
                return Val(self.literal(e.value, e.dtype), e.dtype)
            case Sym():
                return self.symbols[e.name]
            case Var():
                if self.vector is not None and e is self.vector.var:
                    if base:
                        return Val("0", i64)
                    lanes = self.vector.lanes
                    return Val("<" + ", ".join(f"i64 {k}" for k in range(lanes)) + ">", i64, lanes)
                return self.bindings[id(e)]
            case Load():
                return self.load(e, base)
            case Cast():
                return self.cast(self.value(e.x, base), e.dtype)
            case Bitcast():
                v = self._to_memory(self.value(e.x, base))  # a bool is a byte
                if self.memory_type(v.dtype) == self.type(e.dtype):
                    return Val(v.text, e.dtype, v.lanes)
                source, target = self.memory_type(v.dtype, v.lanes), self.type(e.dtype, v.lanes)
                return self.define(f"bitcast {source} {v.text} to {target}", e.dtype, v.lanes)
            case Op():
                return self.operation(e.name, [self.value(a, base) for a in e.args], e.dtype)
        raise CodegenError(f"cannot emit {e!r}")

    # --- memory -------------------------------------------------------------------------------------------------------------

    def address(self, buf: Buf, index: Val) -> str:
        """A pointer to an element."""
        if index.text == "0":
            return self.buffers[id(buf)]
        name = self.fresh("p")
        self.put(f"{name} = getelementptr inbounds {self.memory_type(buf.dtype)}, ptr {self.buffers[id(buf)]}, i64 {index.text}")
        return name

    def stride(self, index: Expr) -> int | None:
        """How far the index moves a lane: 0, 1 or another constant, or None where it is not a constant."""
        assert self.vector is not None
        key = (id(index), id(self.vector.var))
        if key not in self._coefficients:
            self._coefficients[key] = coefficient(index, self.vector.var)
        c = self._coefficients[key]
        return int(c.value) if isinstance(c, Const) else None

    def align(self, dtype: DType) -> int:
        """The alignment that an access may count on, in bytes."""
        return dtype.itemsize

    def load(self, e: Load, base: bool) -> Val:
        """The element, or elements, that a load gives."""
        vector = None if base else self.vector
        mask = self.value(e.mask, base) if e.mask is not None else None
        if mask is not None and mask.text == "false":
            assert e.other is not None
            return self.value(e.other, base)
        if mask is not None and mask.text == "true":
            mask = None
        moves = self.stride(e.index) if vector else 0
        given = self.value(e.other, base) if e.other is not None and mask is not None else None
        if vector is None or (moves == 0 and all(v is None or not v.lanes for v in (mask, given))):
            return self._scalar_load(e, mask, given)
        lanes = vector.lanes
        live = self._live(vector, mask, e.buf)
        other = self.splat(given, lanes) if given is not None else None
        if moves == 1:
            pointer = self.address(e.buf, self.value(e.index, base=True))
            loaded = self._vector_load(e.buf.dtype, pointer, lanes, live, other)
        else:
            loaded = self._gather(e.buf, self.splat(self.value(e.index), lanes), lanes, live, other)
        return loaded

    def _live(self, vector: _Vector, mask: Val | None, buf: Buf) -> str | None:
        """The lanes that may touch memory; dead lanes of registers do no harm."""
        if mask is None:
            return vector.mask if buf.space != "reg" else None
        wide = self.splat(mask, vector.lanes).text
        if buf.space == "reg" or vector.hidden is None:
            return wide
        return self.define(f"and <{vector.lanes} x i1> {vector.hidden}, {wide}", bool_, vector.lanes).text

    def _scalar_load(self, e: Load, mask: Val | None, other: Val | None) -> Val:
        """One element for all lanes: an index that moves by 0 is the same with the lane variable at 0."""
        t = self.memory_type(e.dtype)
        index = self.value(e.index, base=True)
        if mask is None:
            pointer = self.address(e.buf, index)
            return self._from_memory(self.define(f"load {t}, ptr {pointer}, align {self.align(e.dtype)}", e.dtype))
        assert other is not None
        then, done = self.new_label("read"), self.new_label("skip")
        before = self.block
        self.put(f"br i1 {mask.text}, label %{then}, label %{done}")
        self.label(then)
        pointer = self.address(e.buf, index)
        v = self._from_memory(self.define(f"load {t}, ptr {pointer}, align {self.align(e.dtype)}", e.dtype))
        self.put(f"br label %{done}")
        self.label(done)
        return self.define(f"phi {self.type(e.dtype)} [ {v.text}, %{then} ], [ {other.text}, %{before} ]", e.dtype)

    def _vector_load(self, dtype: DType, pointer: str, lanes: int, live: str | None, other: Val | None) -> Val:
        vt = self.memory_type(dtype, lanes)
        if live is None:
            return self._from_memory(self.define(f"load {vt}, ptr {pointer}, align {self.align(dtype)}", dtype, lanes))
        name = f"llvm.masked.load.v{lanes}{self._suffix(dtype, memory=True)}.p0"
        self.declarations.add(f"declare {vt} @{name}(ptr, i32, <{lanes} x i1>, {vt})")
        rest = "zeroinitializer" if other is None else self._to_memory(other).text
        call = f"call {vt} @{name}(ptr {pointer}, i32 {self.align(dtype)}, <{lanes} x i1> {live}, {vt} {rest})"
        return self._from_memory(self.define(call, dtype, lanes))

    def _gather(self, buf: Buf, index: Val, lanes: int, live: str | None, other: Val | None) -> Val:
        vt, t = self.memory_type(buf.dtype, lanes), self.memory_type(buf.dtype)
        pointers = self.fresh("ps")
        self.put(f"{pointers} = getelementptr inbounds {t}, ptr {self.buffers[id(buf)]}, <{lanes} x i64> {index.text}")
        name = f"llvm.masked.gather.v{lanes}{self._suffix(buf.dtype, memory=True)}.v{lanes}p0"
        self.declarations.add(f"declare {vt} @{name}(<{lanes} x ptr>, i32, <{lanes} x i1>, {vt})")
        mask = live or "<" + ", ".join(["i1 true"] * lanes) + ">"
        rest = "zeroinitializer" if other is None else self._to_memory(other).text
        call = f"call {vt} @{name}(<{lanes} x ptr> {pointers}, i32 {self.align(buf.dtype)}, <{lanes} x i1> {mask}, {vt} {rest})"
        return self._from_memory(self.define(call, buf.dtype, lanes))

    def _from_memory(self, v: Val) -> Val:
        if v.dtype is not bool_:
            return v
        vt = self.memory_type(bool_, v.lanes)
        zero = "zeroinitializer" if v.lanes else "0"
        return self.define(f"icmp ne {vt} {v.text}, {zero}", bool_, v.lanes)

    def _to_memory(self, v: Val) -> Val:
        if v.dtype is not bool_:
            return v
        if not v.lanes and v.text in ("true", "false"):
            return Val(str(int(v.text == "true")), bool_)
        return self.define(f"zext {self.type(bool_, v.lanes)} {v.text} to {self.memory_type(bool_, v.lanes)}", bool_, v.lanes)

    def store(self, s: Store) -> None:
        """Emit a store: of one element, of neighbours, or a scatter."""
        vector = self.vector
        mask = self.value(s.mask) if s.mask is not None else None
        value = self.value(s.value)
        moves = self.stride(s.index) if vector else 0
        if vector is None or (moves == 0 and not value.lanes and (mask is None or not mask.lanes)):
            self._scalar_store(s, value, mask)
            return
        lanes = vector.lanes
        live = self._live(vector, mask, s.buf)
        value = self._to_memory(self.splat(value, lanes))
        vt = self.memory_type(s.buf.dtype, lanes)
        if moves == 1:
            pointer = self.address(s.buf, self.value(s.index, base=True))
            if live is None:
                self.put(f"store {vt} {value.text}, ptr {pointer}, align {self.align(s.buf.dtype)}")
                return
            name = f"llvm.masked.store.v{lanes}{self._suffix(s.buf.dtype, memory=True)}.p0"
            self.declarations.add(f"declare void @{name}({vt}, ptr, i32, <{lanes} x i1>)")
            align = self.align(s.buf.dtype)
            self.put(f"call void @{name}({vt} {value.text}, ptr {pointer}, i32 {align}, <{lanes} x i1> {live})")
            return
        index = self.splat(self.value(s.index), lanes)
        pointers = self.fresh("ps")
        t = self.memory_type(s.buf.dtype)
        self.put(f"{pointers} = getelementptr inbounds {t}, ptr {self.buffers[id(s.buf)]}, <{lanes} x i64> {index.text}")
        name = f"llvm.masked.scatter.v{lanes}{self._suffix(s.buf.dtype, memory=True)}.v{lanes}p0"
        self.declarations.add(f"declare void @{name}({vt}, <{lanes} x ptr>, i32, <{lanes} x i1>)")
        all_lanes = live or "<" + ", ".join(["i1 true"] * lanes) + ">"
        align = self.align(s.buf.dtype)
        self.put(f"call void @{name}({vt} {value.text}, <{lanes} x ptr> {pointers}, i32 {align}, <{lanes} x i1> {all_lanes})")

    def _scalar_store(self, s: Store, value: Val, mask: Val | None) -> None:
        if mask is not None and mask.text == "false":
            return
        done = None
        index = self.value(s.index, base=True)
        if mask is not None and mask.text != "true":
            then, done = self.new_label("write"), self.new_label("skip")
            self.put(f"br i1 {mask.text}, label %{then}, label %{done}")
            self.label(then)
        value = self._to_memory(value)
        pointer = self.address(s.buf, index)
        self.put(f"store {self.memory_type(s.buf.dtype)} {value.text}, ptr {pointer}, align {self.align(s.buf.dtype)}")
        if done:
            self.put(f"br label %{done}")
            self.label(done)

    # --- operations ---------------------------------------------------------------------------------------------------------

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
        raise CodegenError(f"the emitter has no operation {name}")

    def _select(self, condition: Val, a: Val, b: Val) -> Val:
        lanes = a.lanes
        t = self.type(a.dtype, lanes)
        ct = self.type(bool_, condition.lanes)
        return self.define(f"select {ct} {condition.text}, {t} {a.text}, {t} {b.text}", a.dtype, lanes)

    def _integer_division(self, name: str, a: Val, b: Val) -> Val:
        """Truncating division that never traps: x / 0 divides by 1, MIN / -1 wraps.  For literals LLVM folds the checks."""
        t = self.type(a.dtype, a.lanes)
        zero = "zeroinitializer" if a.lanes else "0"
        one = self.splat(Val("1", a.dtype), a.lanes)
        signed = a.dtype.kind == "i"
        opcode = ("s" if signed else "u") + name
        safe = self._select(self.define(f"icmp eq {t} {b.text}, {zero}", bool_, a.lanes), one, b)
        if not signed:
            return self.define(f"{opcode} {t} {a.text}, {safe.text}", a.dtype, a.lanes)
        minus_one = self.splat(Val("-1", a.dtype), a.lanes)
        is_minus = self.define(f"icmp eq {t} {safe.text}, {minus_one.text}", bool_, a.lanes)
        safe = self._select(is_minus, one, safe)
        q = self.define(f"{opcode} {t} {a.text}, {safe.text}", a.dtype, a.lanes)
        if name == "rem":
            return self._select(is_minus, Val(zero, a.dtype, a.lanes), q)
        negated = self.define(f"sub {t} {zero}, {a.text}", a.dtype, a.lanes)
        return self._select(is_minus, negated, q)

    def _index_division(self, name: str, a: Val, b: Val) -> Val:
        """Flooring division and modulo by a positive divisor."""
        t = self.type(i64, a.lanes)
        literal = b.text if not b.lanes else b.text.strip("<>").split(",")[0].removeprefix("i64 ")
        if literal.isdigit() and int(literal) & (int(literal) - 1) == 0:
            power = int(literal)
            amount = self.splat(Val(str(power.bit_length() - 1 if name == "floordiv" else power - 1), i64), a.lanes)
            return self.define(f"{'ashr' if name == 'floordiv' else 'and'} {t} {a.text}, {amount.text}", i64, a.lanes)
        zero = "zeroinitializer" if a.lanes else "0"
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

    # --- statements ---------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Values from here on are known only until `leave`."""
        self.scope = _Scope(self.scope)
        self.statement = {}

    def leave(self) -> None:
        assert self.scope.parent is not None
        self.scope = self.scope.parent
        self.statement = {}

    def body(self, statements: Sequence[Stmt]) -> None:
        """Emit statements in a scope of their own."""
        self.enter()
        for s in statements:
            self.statement = {}
            self.emit(s)
        self.leave()

    def emit(self, s: Stmt) -> None:
        """Emit one statement."""
        match s:
            case Store():
                self.store(s)
            case Let():
                self.bindings[id(s.var)] = self.value(s.value)
            case Alloc():
                self.alloc(s.buf)
            case If():
                self._if(s)
            case While():
                self._while(s)
            case For():
                self.loop(s)
            case Barrier():
                self.barrier()
            case Prefetch():
                self.prefetch(s)
            case Transpose():
                self.transpose(s)

    def alloc(self, buf: Buf) -> None:
        """Reserve memory for a buffer; targets place the spaces that only they know."""
        if not isinstance(buf.size, int):
            raise CodegenError(f"buffer {buf.name} in registers needs a constant size, not {buf.size}")
        name = self.fresh("a")
        self.entry.append(f"  {name} = alloca [{max(buf.size, 1)} x {self.memory_type(buf.dtype)}], align 64")
        self.buffers[id(buf)] = name

    def transpose(self, s: Transpose) -> None:
        """log2(size) rounds of shuffles: round k exchanges, between rows and columns whose numbers differ in bit k, the blocks off
        the diagonal (Eklundh, "A fast computer method for matrix transposing", 1972).
        """
        n, dtype = s.size, s.tile.dtype
        vt = self.memory_type(dtype, n)
        places = [self.address(s.tile, Val(str(k * n), i64)) for k in range(n)]
        rows = [self.define(f"load {vt}, ptr {p}, align {self.align(dtype)}", dtype, n).text for p in places]
        bit = 1
        while bit < n:
            low = [j if not j & bit else n + j - bit for j in range(n)]
            high = [j + bit if not j & bit else n + j for j in range(n)]
            for i in range(n):
                if not i & bit:
                    a, b = rows[i], rows[i + bit]
                    for row, lanes in ((i, low), (i + bit, high)):
                        mask = "<" + ", ".join(f"i32 {k}" for k in lanes) + ">"
                        rows[row] = self.define(f"shufflevector {vt} {a}, {vt} {b}, <{n} x i32> {mask}", dtype, n).text
            bit *= 2
        for row, place in zip(rows, places, strict=True):
            self.put(f"store {vt} {row}, ptr {place}, align {self.align(dtype)}")

    def prefetch(self, s: Prefetch) -> None:
        """Into the second-level cache."""
        index = self.value(s.index)
        name = self.fresh("p")  # no inbounds: the address may lie past the end
        self.put(f"{name} = getelementptr {self.memory_type(s.buf.dtype)}, ptr {self.buffers[id(s.buf)]}, i64 {index.text}")
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.put(f"call void @llvm.prefetch.p0(ptr {name}, i32 0, i32 2, i32 1)")

    def barrier(self) -> None:
        """Nothing, where nothing runs beside this."""

    def loop(self, s: For) -> None:
        """Emit a loop by its kind."""
        match s.kind:
            case "serial":
                self._serial(s)
            case "unroll":
                self._unroll(s)
            case "vector":
                self._vector_loop(s)
            case _:
                self.special_loop(s)

    def special_loop(self, s: For) -> None:
        """Loops whose kind only a target knows."""
        raise CodegenError(f"a loop of kind {s.kind!r} cannot stand here")

    def _constant_extent(self, s: For) -> int:
        if not isinstance(s.extent, Const):
            raise CodegenError(f"a loop of kind {s.kind!r} needs a constant extent")
        return int(s.extent.value)

    def _serial(self, s: For) -> None:
        extent = self.value(s.extent)
        if extent.text == "1":
            self.bindings[id(s.var)] = Val("0", i64)
            self.body(s.body)
            return
        self.counted_loop(s.var, Val("0", i64), extent, s.body)

    def counted_loop(self, var: Var, begin: Val, end: Val, body: Sequence[Stmt]) -> None:
        """for var in begin..end (scalars): body."""
        head, inside, done = self.new_label("head"), self.new_label("loop"), self.new_label("done")
        before = self.block
        i, following = self.fresh("i"), self.fresh("n")
        self.put(f"br label %{head}")
        self.label(head)
        at = len(self.lines)
        self.lines.append("")  # the phi, known once the body's last block is
        more = self.define(f"icmp slt i64 {i}, {end.text}", bool_)
        self.put(f"br i1 {more.text}, label %{inside}, label %{done}")
        self.label(inside)
        self.bindings[id(var)] = Val(i, i64)
        self.body(body)
        self.put(f"{following} = add nsw i64 {i}, 1")
        self.put(f"br label %{head}")
        self.lines[at] = f"  {i} = phi i64 [ {begin.text}, %{before} ], [ {following}, %{self.block} ]"
        self.label(done)

    def _unroll(self, s: For) -> None:
        for k in range(self._constant_extent(s)):
            self.bindings[id(s.var)] = Val(str(k), i64)
            self.body(s.body)

    def _vector_loop(self, s: For) -> None:
        if self.vector is not None:
            raise CodegenError("a vector loop stands inside another")
        lanes = self._constant_extent(s)
        mask = hidden = None
        if s.limit is not None:
            limit = self.value(s.limit)
            mask = self._first_lanes(limit, lanes)
            # LLVM 22 reads without a mask for AVX2 where `and` with a constant leaves none of a register's lanes live.
            hidden = self._first_lanes(self.define(f'call i64 asm "", "=r,0"(i64 {limit.text})', i64), lanes)
        self.vector = _Vector(s.var, lanes, mask, hidden)
        self.body(s.body)
        self.vector = None

    def _first_lanes(self, limit: Val, lanes: int) -> str:
        iota = "<" + ", ".join(f"i64 {k}" for k in range(lanes)) + ">"
        return self.define(f"icmp slt <{lanes} x i64> {iota}, {self.splat(limit, lanes).text}", bool_, lanes).text

    def _if(self, s: If) -> None:
        condition = self.value(s.condition)
        if condition.lanes:
            raise CodegenError("the condition of a branch differs from lane to lane")
        if condition.text in ("true", "false"):
            self.body(s.then if condition.text == "true" else s.otherwise)
            return
        then, otherwise, done = self.new_label("then"), self.new_label("else"), self.new_label("end")
        self.put(f"br i1 {condition.text}, label %{then}, label %{otherwise if s.otherwise else done}")
        self.label(then)
        self.body(s.then)
        self.put(f"br label %{done}")
        if s.otherwise:
            self.label(otherwise)
            self.body(s.otherwise)
            self.put(f"br label %{done}")
        self.label(done)

    def _while(self, s: While) -> None:
        head, inside, done = self.new_label("while"), self.new_label("do"), self.new_label("done")
        self.put(f"br label %{head}")
        self.label(head)
        self.enter()
        condition = self.value(s.condition)
        self.put(f"br i1 {condition.text}, label %{inside}, label %{done}")
        self.label(inside)
        self.body(s.body)
        self.leave()
        self.put(f"br label %{head}")
        self.label(done)


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
