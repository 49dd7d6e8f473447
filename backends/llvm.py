"""Loop IR -> LLVM IR text: the one emitter that the CPU and the GPU share.

A body is emitted in order; `serial` loops become LLVM loops, `unroll` loops are repeated with the variable bound to a constant, and
inside a `vector` loop every expression that depends on the lane becomes an LLVM vector: a load whose index moves by 1 a lane is a
vector load, one whose index does not move is a scalar load and a splat, any other is a gather.  The accumulator tile is an
`Alloc(reg)` that SROA promotes to registers.  Targets override how parallel, block and thread loops and memory spaces map.

No fast-math anywhere: `fma` is fused because it is written so, nothing else is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir.errors import CodegenError
from ..ir.loops import (
    Address,
    Alloc,
    Barrier,
    Bitcast,
    Buf,
    Cast,
    Const,
    Expr,
    For,
    If,
    Interleave,
    Let,
    Load,
    Op,
    Prefetch,
    Reread,
    Stmt,
    Store,
    Sym,
    Transpose,
    Var,
    While,
    Word,
    children,
    coefficient,
)
from ..ir.types import DType, bool_, f32, i8, i32, i64
from .instructions import Instructions, Val
from .target import Target

_LEAVES = (Const, Var, Sym, Load, Word)  # a load sees to its index, mask and other value itself


def _rounded(e: Cast) -> tuple[Expr, int] | None:
    """(x, zero) of a cast of rint(x) + zero to 8 or 16 bits, infinity in place of NaN: how numbers are quantized."""
    match e.x:
        case Op(name="where", args=(Op(name="lt", args=(y, Const(value=math.inf))), number, Const(value=math.inf))) if y is number:
            match y:
                case Op(name="add", args=(Op(name="rint", args=(x,)), Const(value=zero)), dtype=of):
                    fits = of is f32 and e.dtype.is_int and e.dtype.bits in (8, 16)
                    return (x, int(zero)) if fits and abs(zero) < 1 << 16 and zero == int(zero) else None
    return None


def _nibble(e: Cast) -> tuple[Expr, int, DType] | None:
    """(words, bit, dtype) of a cast to f32 of the 4-bit integers that words hold from that bit on."""
    x = e.x.x if isinstance(e.x, Cast) and e.x.dtype.bits == 8 and e.x.dtype.is_int else e.x  # on the way they are bytes
    if e.dtype is not f32 or not isinstance(x, Cast) or x.dtype.bits != 4 or x.x.dtype is not i32:
        return None
    match x.x:
        case Op(name="shr", args=(words, Const(value=bit))) if bit % 4 == 0 and 0 <= bit < i32.bits:
            return words, int(bit), x.dtype
    return x.x, 0, x.dtype


def _operands(e: Expr) -> tuple[Expr, ...]:
    """What is to be computed before an expression."""
    if isinstance(e, Cast):
        rounded, nibble = _rounded(e), _nibble(e)
        return rounded[:1] if rounded else nibble[:1] if nibble else children(e)
    return children(e)


@dataclass
class _Vector:
    """The vector loop being emitted."""

    var: Var
    lanes: int
    mask: str | None  # SSA name of <lanes x i1>, or None when every lane is live
    hidden: str | None  # the same, but no constant to LLVM: for use with another mask


class Emitter(Instructions):
    """Emits function bodies as LLVM IR text; `declarations` and `globals` belong to the module being built."""

    def __init__(self, target: Target | None = None) -> None:
        super().__init__(target)
        self.entry: list[str] = []
        self.vector: _Vector | None = None
        self.known: dict[tuple[int, bool], Val] = {}  # by (id(Expr), as `base`), at this point of the code
        self.scopes: list[list[tuple[int, bool]]] = [[]]  # what became known in each scope that is open
        self.statement: dict[tuple[int, bool], Val] = {}
        self.bindings: dict[int, Val] = {}  # id(Var) -> its value
        self.symbols: dict[str, Val] = {}
        self.buffers: dict[int, str] = {}  # id(Buf) -> pointer
        self._impure: dict[int, bool] = {}
        self._alive: list[Expr] = []  # expressions whose ids are keys here must not be collected
        self._coefficients: dict[tuple[int, int], Expr | None] = {}
        self.streams = False  # whether a store so far goes past the caches

    # --- text ---------------------------------------------------------------------------------------------------------------

    # --- values -------------------------------------------------------------------------------------------------------------

    def impure(self, e: Expr) -> bool:
        """Whether an expression reads memory, so that its value must not outlive the statement."""
        known = self._impure
        stack = [e]
        while stack:
            x = stack[-1]
            if id(x) in known:
                stack.pop()
            elif isinstance(x, Load | Word):
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
        found = self._known(e, base)
        if found is not None:
            return found
        self._alive.append(e)
        stack = [e]
        while stack:  # operands first, without recursion: fused expressions can be deep
            x = stack[-1]
            missing = [] if type(x) in _LEAVES else [c for c in _operands(x) if self._known(c, base) is None]
            if missing:
                stack += reversed(missing)
            else:
                found = self._known(stack.pop(), base) or self._remember(x, base, self._emit(x, base))
        assert found is not None
        return found

    def _known(self, e: Expr, base: bool) -> Val | None:
        key = (id(e), base)
        return self.known.get(key) or self.statement.get(key)

    def _remember(self, e: Expr, base: bool, v: Val) -> Val:
        key = (id(e), base)
        if self.impure(e):
            self.statement[key] = v
        else:
            self.known[key] = v
            self.scopes[-1].append(key)
        return v

    def forget(self) -> None:
        """Compute anew what became known in this scope."""
        for key in self.scopes[-1]:
            del self.known[key]
        self.scopes[-1] = []

    def _emit(self, e: Expr, base: bool) -> Val:
        match e:
            case Op():
                if e.name == "floordiv" and self.vector is not None and not base and self.stride(e) == 0:
                    return self.value(e, base=True)
                return self.operation(e.name, [self._known(a, base) or self.value(a, base) for a in e.args], e.dtype)
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
            case Address():
                return self.define(f"ptrtoint ptr {self.buffers[id(e.buf)]} to i64", i64)
            case Load():
                return self.load(e, base)
            case Word():
                return self.word(e, base)
            case Cast():
                rounded = _rounded(e)
                if rounded:
                    return self.rounded(self.value(rounded[0], base), rounded[1], e.dtype)
                nibble = _nibble(e)
                if nibble:
                    return self.nibbles(self.value(nibble[0], base), *nibble[1:])
                return self.cast(self.value(e.x, base), e.dtype)
            case Bitcast():
                v = self._to_memory(self.value(e.x, base))  # a bool is a byte
                if self.memory_type(v.dtype) == self.type(e.dtype):
                    return Val(v.text, e.dtype, v.lanes)
                source, target = self.memory_type(v.dtype, v.lanes), self.type(e.dtype, v.lanes)
                return self.define(f"bitcast {source} {v.text} to {target}", e.dtype, v.lanes)
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
            self._coefficients[key] = coefficient(index, self.vector.var, self.vector.lanes)
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
        if moves == 1 and e.buf.space == "reg" and live is None and lanes > self._in_a_register(e.dtype):
            return self._from_registers(e, lanes)
        if moves == 1:
            pointer = self.address(e.buf, self.value(e.index, base=True))
            hides = mask is not None and mask.lanes and live is not None and self.target is not None and self.target.vector_bits == 256
            loaded = self._vector_load(e.buf.dtype, pointer, lanes, self._hidden(live, lanes) if hides and live else live, other)
        else:
            loaded = self._gather(e.buf, self.splat(self.value(e.index), lanes), lanes, live, other)
        return loaded

    def _in_a_register(self, dtype: DType) -> int:
        """How many values of a dtype a register holds."""
        return self.target.lanes(dtype.bits) if self.target is not None and self.target.kind == "cpu" else 1 << 16

    def _from_registers(self, e: Load, lanes: int) -> Val:
        """A vector of several registers' elements: one load would make them one value from where they are stored on."""
        start, register = self.value(e.index, base=True), self._in_a_register(e.dtype)
        parts = []
        for k in range(0, lanes, register):
            at = self.operation("add", [start, Val(str(k), i64)], i64)
            parts.append(self._vector_load(e.buf.dtype, self.address(e.buf, at), register, None, None))
        while len(parts) > 1:
            t, size = self.type(e.dtype, parts[0].lanes), 2 * parts[0].lanes
            mask = ", ".join(f"i32 {k}" for k in range(size))
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.define(f"shufflevector {t} {a.text}, {t} {b.text}, <{size} x i32> <{mask}>", e.dtype, size) for a, b in pairs]
        return parts[0]

    def word(self, e: Word, base: bool) -> Val:
        """Four bytes as one number, or those of every lane."""
        moves = self.stride(e.index) if self.vector and not base else 0
        if moves not in (0, 4):
            raise CodegenError(f"words of {e.buf.name} that are no neighbours cannot be one vector")
        pointer = self.address(e.buf, self.value(e.index, base=True))
        if moves == 0:
            return self.define(f"load i32, ptr {pointer}, align 1", i32)
        assert self.vector is not None
        return self._vector_load(i32, pointer, self.vector.lanes, self._live(self.vector, None, e.buf), None, align=1)

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

    def _hidden(self, mask: str, lanes: int) -> str:
        """A mask of which LLVM knows no lane: where all of a register's are off, LLVM 22 reads them for AVX2."""
        bits = self.define(f"bitcast <{lanes} x i1> {mask} to i{lanes}", i64).text
        same = self.define(f'call i{lanes} asm "", "=r,0"(i{lanes} {bits})', i64).text
        return self.define(f"bitcast i{lanes} {same} to <{lanes} x i1>", bool_).text

    def _vector_load(self, dtype: DType, pointer: str, lanes: int, live: str | None, other: Val | None, align: int = 0) -> Val:
        vt = self.memory_type(dtype, lanes)
        align = align or self.align(dtype)
        if live is None:
            return self._from_memory(self.define(f"load {vt}, ptr {pointer}, align {align}", dtype, lanes))
        name = f"llvm.masked.load.v{lanes}{self._suffix(dtype, memory=True)}.p0"
        self.declarations.add(f"declare {vt} @{name}(ptr, i32, <{lanes} x i1>, {vt})")
        rest = "zeroinitializer" if other is None else self._to_memory(other).text
        call = f"call {vt} @{name}(ptr {pointer}, i32 {align}, <{lanes} x i1> {live}, {vt} {rest})"
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
        if mask is None and live is not None and s.buf.dtype.itemsize < 4:
            live = vector.hidden  # LLVM 22 stores four bytes where it knows that one narrow lane, just truncated, is left
        value = self._to_memory(self.splat(value, lanes))
        vt = self.memory_type(s.buf.dtype, lanes)
        if moves == 1:
            pointer = self.address(s.buf, self.value(s.index, base=True))
            if live is None:
                self.streams |= s.stream > 0
                how = f"{s.stream}, !nontemporal !{{i32 1}}" if s.stream else str(self.align(s.buf.dtype))
                self.put(f"store {vt} {value.text}, ptr {pointer}, align {how}")
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

    # --- statements ---------------------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Values from here on are known only until `leave`."""
        self.scopes.append([])
        self.statement = {}

    def leave(self) -> None:
        self.forget()
        self.scopes.pop()
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
            case Reread():
                self.put('call void asm sideeffect "", "~{memory}"()')  # memory may have changed, for all that LLVM knows
            case Transpose():
                self.transpose(s)
            case Interleave():
                self.interleave(s)
            case _:
                raise CodegenError(f"no code for a {type(s).__name__} here")

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

    def interleave(self, s: Interleave) -> None:
        """A shuffle for each row after the first in each vector of the result."""
        dtype, lanes = s.tile.dtype, s.lanes
        vt = self.memory_type(dtype, lanes)
        places = [self.address(s.tile, Val(str(k * lanes), i64)) for k in range(s.rows)]
        rows = [self.define(f"load {vt}, ptr {p}, align {self.align(dtype)}", dtype, lanes).text for p in places]
        results = self._interleaved_words(rows, lanes) if s.rows == 4 and dtype.bits == 8 and lanes % 16 == 0 else []
        for k in range(0 if results else s.rows):
            elements = [divmod(k * lanes + j, s.rows) for j in range(lanes)]  # (column, row)
            joined = rows[0]
            for r in range(1, s.rows):
                # rows before this one are in place already, the first from the second shuffle on
                chosen = [lanes + column if row == r else column if r == 1 else j for j, (column, row) in enumerate(elements)]
                mask = "<" + ", ".join(f"i32 {i}" for i in chosen) + ">"
                joined = self.define(f"shufflevector {vt} {joined}, {vt} {rows[r]}, <{lanes} x i32> {mask}", dtype, lanes).text
            results.append(joined)
        for result, place in zip(results, places, strict=True):
            self.put(f"store {vt} {result}, ptr {place}, align {self.align(dtype)}")

    def _interleaved_words(self, rows: list[str], lanes: int) -> list[str]:
        """Four rows of bytes interleaved: words are moved to the part of 128 bits that they end in, and then shuffled within it."""
        parts, t, words = lanes // 16, f"<{lanes} x i8>", f"<{lanes // 4} x i32>"

        def shuffled(kind: str, a: str, b: str, chosen: list[int]) -> str:
            mask = ", ".join(f"i32 {i}" for i in chosen)
            return self.define(f"shufflevector {kind} {a}, {kind} {b}, <{len(chosen)} x i32> <{mask}>", i8, lanes).text

        def as_type(kind: str, v: str, of: str) -> str:
            return self.define(f"bitcast {of} {v} to {kind}", i8, lanes).text

        moved = []
        for row in rows:
            word = shuffled(words, as_type(words, row, t), "poison", [parts * k + part for part in range(parts) for k in range(4)])
            moved.append(as_type(t, word, words))

        def unpacked(size: int, a: str, b: str) -> list[str]:
            """Elements of `size` bytes of each part, one of a and one of b in turn: of its lower and of its upper half."""
            per, kind = 16 // size, f"<{lanes // size} x i{8 * size}>"
            x, y = (v if size == 1 else as_type(kind, v, t) for v in (a, b))
            halves = []
            for half in (0, per // 2):
                chosen = [
                    part * per + half + k + row * (lanes // size) for part in range(parts) for k in range(per // 2) for row in (0, 1)
                ]
                joined = shuffled(kind, x, y, chosen)
                halves.append(joined if size == 1 else as_type(t, joined, kind))
            return halves

        first, second = unpacked(1, moved[0], moved[1]), unpacked(1, moved[2], moved[3])
        return [quad for a, b in zip(first, second, strict=True) for quad in unpacked(2, a, b)]

    def prefetch(self, s: Prefetch) -> None:
        """Into the second-level cache, or the first for what is near; in a vector loop, what the first lane asks for."""
        index = self.value(s.index, base=True)
        name = self.fresh("p")  # no inbounds: the address may lie past the end
        self.put(f"{name} = getelementptr {self.memory_type(s.buf.dtype)}, ptr {self.buffers[id(s.buf)]}, i64 {index.text}")
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.put(f"call void @llvm.prefetch.p0(ptr {name}, i32 0, i32 {3 if s.near else 2}, i32 1)")

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
