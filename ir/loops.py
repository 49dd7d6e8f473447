"""Loop IR: what one kernel does, as loops over scalar expressions, before any machine is named.

Expressions are immutable and freely shared (a DAG); an index is an i64 expression; every `Load` and `Store` has one *linear*
element offset into a `Buf`.  Statements are a small closed set.  Nothing here says CPU or GPU: a loop's `kind` and a buffer's
`space` are data that the emitters interpret.

    for t in parallel 0..(batch+63)//64:
      for v in vector 16:
        y[t*16+v] = max(x[t*16+v], 0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Union

from .dims import Atom, Dim, DimExpr
from .types import DType, bool_, i32, i64

Scalar: TypeAlias = Union["Expr", int, float, bool]


class Expr:
    """A scalar of some dtype; arithmetic operators build expressions and fold integer constants."""

    __slots__ = ("dtype",)
    dtype: DType

    def __add__(self, o: Scalar) -> Expr:
        return binary("add", self, o)

    def __radd__(self, o: Scalar) -> Expr:
        return binary("add", o, self)

    def __sub__(self, o: Scalar) -> Expr:
        return binary("sub", self, o)

    def __rsub__(self, o: Scalar) -> Expr:
        return binary("sub", o, self)

    def __mul__(self, o: Scalar) -> Expr:
        return binary("mul", self, o)

    def __rmul__(self, o: Scalar) -> Expr:
        return binary("mul", o, self)

    def __truediv__(self, o: Scalar) -> Expr:
        return binary("div", self, o)

    def __rtruediv__(self, o: Scalar) -> Expr:
        return binary("div", o, self)

    def __floordiv__(self, o: Scalar) -> Expr:
        return binary("floordiv", self, o)

    def __rfloordiv__(self, o: Scalar) -> Expr:
        return binary("floordiv", o, self)

    def __mod__(self, o: Scalar) -> Expr:
        return binary("mod", self, o)

    def __rmod__(self, o: Scalar) -> Expr:
        return binary("mod", o, self)

    def __neg__(self) -> Expr:
        return unary("neg", self)

    def __lt__(self, o: Scalar) -> Expr:
        return binary("lt", self, o)

    def __le__(self, o: Scalar) -> Expr:
        return binary("le", self, o)

    def __gt__(self, o: Scalar) -> Expr:
        return binary("lt", o, self)

    def __ge__(self, o: Scalar) -> Expr:
        return binary("le", o, self)

    def __and__(self, o: Scalar) -> Expr:
        return binary("and", self, o)

    __rand__ = __and__

    def __or__(self, o: Scalar) -> Expr:
        return binary("or", self, o)

    __ror__ = __or__

    def __xor__(self, o: Scalar) -> Expr:
        return binary("xor", self, o)

    __rxor__ = __xor__

    def __lshift__(self, o: Scalar) -> Expr:
        return binary("shl", self, o)

    def __rshift__(self, o: Scalar) -> Expr:
        return binary("shr", self, o)

    def __invert__(self) -> Expr:
        return unary("not", self)

    def __bool__(self) -> bool:
        raise TypeError("a loop expression has no truth value; use s.where(condition, a, b)")


class Const(Expr):
    __slots__ = ("value",)

    def __init__(self, value: int | float | bool, dtype: DType):
        self.value, self.dtype = value, dtype


class Var(Expr):
    """A loop variable or a `Let` name; i64 unless said otherwise."""

    __slots__ = ("name",)

    def __init__(self, name: str, dtype: DType = i64):
        self.name, self.dtype = name, dtype


class Sym(Expr):
    """A size that the caller passes at run time."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name, self.dtype = name, i64


@dataclass(frozen=True, eq=False)
class Buf:
    """Memory of one dtype.

    space: "param" (given by the caller), "reg" (small, constant size, indexed by constants after unrolling), "local" (this
    worker's scratch memory), "shared" (one GPU block's).  size: elements, needed unless "param".
    """

    name: str
    dtype: DType
    space: str = "param"
    size: Dim = 0


class Load(Expr):
    """buf[index], or `other` (and no access) where `mask` is false."""

    __slots__ = ("buf", "index", "mask", "other")

    def __init__(self, buf: Buf, index: Scalar, mask: Expr | None = None, other: Scalar = 0):
        self.buf, self.index, self.dtype = buf, as_expr(index, i64), buf.dtype
        self.mask = mask
        self.other = as_expr(other, buf.dtype) if mask is not None else None


class Word(Expr):
    """Four neighbouring bytes of a u8 or i8 buffer as one i32, buf[index] the lowest; the index can be any.

    In a vector loop it moves by 0 or by 4 a lane.
    """

    __slots__ = ("buf", "index")

    def __init__(self, buf: Buf, index: Scalar):
        self.buf, self.index, self.dtype = buf, as_expr(index, i64), i32


class Address(Expr):
    """Where a buffer begins in memory, in bytes; i64."""

    __slots__ = ("buf",)

    def __init__(self, buf: Buf):
        self.buf, self.dtype = buf, i64


class Op(Expr):
    """An operation on scalars; the names are those of `OPERATIONS`."""

    __slots__ = ("name", "args")

    def __init__(self, name: str, args: tuple[Expr, ...], dtype: DType):
        self.name, self.args, self.dtype = name, args, dtype


class Cast(Expr):
    """Conversion of value: to integers it truncates and saturates, NaN gives 0; to bool it is `!= 0`."""

    __slots__ = ("x",)

    def __init__(self, x: Expr, dtype: DType):
        self.x, self.dtype = x, dtype


class Bitcast(Expr):
    """The same bits as another dtype of the same size."""

    __slots__ = ("x",)

    def __init__(self, x: Expr, dtype: DType):
        self.x, self.dtype = x, dtype


# floordiv and mod are for i64 indices with positive divisors; div truncates on integers and never traps; shr follows signedness;
# fma(a, b, c) rounds once; dot4(a, b, c) is c + the sum over the four bytes of u8(a) * i8(b), all of them i32, and wraps;
# min and max are for integers (floats go through `where`, which says what NaN does).
LINE_BYTES = 64  # of a cache line
OPERATIONS = frozenset(
    "add sub mul div rem floordiv mod min max and or xor shl shr not neg abs sqrt fma dot4 floor ceil rint trunc "
    "lt le eq ne where".split()
)
_COMPARISONS = ("lt", "le", "eq", "ne")


def as_expr(x: Scalar, dtype: DType) -> Expr:
    return x if isinstance(x, Expr) else Const(x, dtype)


def _fold(name: str, a: int, b: int) -> int | bool | None:
    match name:
        case "add":
            return a + b
        case "sub":
            return a - b
        case "mul":
            return a * b
        case "floordiv":
            return a // b if b else None
        case "mod":
            return a % b if b else None
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case "lt":
            return a < b
        case "le":
            return a <= b
        case "eq":
            return a == b
        case "ne":
            return a != b
    return None


def binary(name: str, a: Scalar, b: Scalar) -> Expr:
    """A binary operation; a Python number takes the other operand's dtype.  i64 identities (x+0, x*1, ...) fold."""
    a_ = a if isinstance(a, Expr) else Const(a, b.dtype)  # type: ignore[union-attr]
    b_ = b if isinstance(b, Expr) else Const(b, a_.dtype)
    if a_.dtype is not b_.dtype:
        raise TypeError(f"{name} of {a_.dtype} and {b_.dtype}")
    dtype = bool_ if name in _COMPARISONS else a_.dtype
    if a_.dtype is i64:
        ca, cb = (x.value if isinstance(x, Const) else None for x in (a_, b_))
        if ca is not None and cb is not None:
            folded = _fold(name, int(ca), int(cb))
            if folded is not None:
                return Const(folded, dtype)
        if name == "add":
            if ca == 0:
                return b_
            if cb == 0:
                return a_
        elif name == "sub" and cb == 0:
            return a_
        elif name == "mul":
            if ca == 0 or cb == 0:
                return Const(0, i64)
            if ca == 1:
                return b_
            if cb == 1:
                return a_
        elif name == "floordiv" and cb == 1:
            return a_
        elif name == "mod" and cb == 1:
            return Const(0, i64)
    elif dtype is bool_ and name in ("and", "or"):
        for x, y in ((a_, b_), (b_, a_)):
            if isinstance(x, Const):
                return y if bool(x.value) == (name == "and") else x
    return Op(name, (a_, b_), dtype)


def unary(name: str, x: Expr) -> Expr:
    if isinstance(x, Const) and name == "neg":
        return Const(-x.value, x.dtype)
    return Op(name, (x,), x.dtype)


def size_expr(d: Dim) -> Expr:
    """A symbolic size as an expression over `Sym`s."""
    if not isinstance(d, DimExpr):
        return Const(d, i64)
    total: Expr = Const(0, i64)
    for monomial, coefficient in d.terms:
        term: Expr = Const(coefficient, i64)
        for atom in monomial:
            term = term * _atom_expr(atom)
        total = total + term
    return total


def _atom_expr(atom: Atom) -> Expr:
    if atom.op == "symbol":
        return Sym(atom.args[0])
    return binary(atom.op, size_expr(atom.args[0]), size_expr(atom.args[1]))


# --- statements -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Store:
    """buf[index] = value, where `mask` holds.

    stream: unless 0, whole vectors of neighbours go to memory past the caches, and lie at multiples of so many bytes; such a store
    is a hint, but an address that is no such multiple may fault.
    """

    buf: Buf
    index: Expr
    value: Expr
    mask: Expr | None = None
    stream: int = 0


@dataclass(frozen=True, eq=False)
class For:
    """`var` runs over 0..extent.

    kind: "serial"; "parallel" (iterations independent, in any order, on any worker; outermost only); "unroll" (constant extent);
    "vector" (constant extent, all lanes at once; lanes at or past `limit` neither load nor store); "block" and "thread" (GPU).
    cost: a rough count of scalar operations in one iteration, by which small parallel loops stay serial; vectors let a core do ten
    of them in a nanosecond.
    """

    var: Var
    extent: Expr
    body: tuple[Stmt, ...]
    kind: str = "serial"
    limit: Expr | None = None
    cost: Expr | None = None


@dataclass(frozen=True, eq=False)
class Let:
    """Name a value computed once; `var` is visible to the following statements of the same body."""

    var: Var
    value: Expr


@dataclass(frozen=True, eq=False)
class If:
    """A branch on a condition that is the same for every lane."""

    condition: Expr
    then: tuple[Stmt, ...]
    otherwise: tuple[Stmt, ...] = ()


@dataclass(frozen=True, eq=False)
class While:
    """Repeat the body while the condition, computed anew each time, holds (the same for every lane)."""

    condition: Expr
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class Alloc:
    """Memory that lives from here to the end of the enclosing body; contents undefined at first."""

    buf: Buf


@dataclass(frozen=True, eq=False)
class Barrier:
    """All threads of a GPU block meet; nothing on a CPU."""


@dataclass(frozen=True, eq=False)
class Transpose:
    """Exchange rows and columns of the size x size tile in a "reg" buffer, row-major; size is a power of two.

    In scalar loops: tile[i*size + j], tile[j*size + i] = tile[j*size + i], tile[i*size + j] for all i < j.
    """

    tile: Buf
    size: int


@dataclass(frozen=True, eq=False)
class Interleave:
    """Order the rows x lanes tile in a "reg" buffer by columns: tile[j*rows + i] = tile[i*lanes + j], all at once."""

    tile: Buf
    rows: int
    lanes: int


@dataclass(frozen=True, eq=False)
class Prefetch:
    """A hint that the line of buf[index] will be read soon, or (near) very soon; the index may lie outside the buffer."""

    buf: Buf
    index: Expr
    near: bool = False


@dataclass(frozen=True, eq=False)
class Reread:
    """What follows reads its memory here, even where it did not change since it was last read.

    In a loop over more data than registers hold, a compiler that reads all of it once and saves it elsewhere gains nothing.
    """


@dataclass(frozen=True, eq=False)
class Matrix:
    """A register that holds `rows` x `words` numbers of i32, or words of four bytes; at most 16 x 16."""

    name: str
    rows: int
    words: int


@dataclass(frozen=True, eq=False)
class Matrices:
    """The body has these matrix registers, at most eight; contents undefined at first.

    Inside another such body those of that one cannot be used, and lose their contents.
    """

    registers: tuple[Matrix, ...]
    body: tuple[Stmt, ...]


@dataclass(frozen=True, eq=False)
class MatrixZero:
    """matrix[r, w] = 0."""

    matrix: Matrix


@dataclass(frozen=True, eq=False)
class MatrixLoad:
    """matrix[r, w] = word w of buf from element index + r * stride on, for a buffer of i32, u8 or i8."""

    matrix: Matrix
    buf: Buf
    index: Expr
    stride: Expr


@dataclass(frozen=True, eq=False)
class MatrixStore:
    """buf[index + r * stride + w] = matrix[r, w], for a buffer of i32."""

    matrix: Matrix
    buf: Buf
    index: Expr
    stride: Expr


@dataclass(frozen=True, eq=False)
class MatrixDot:
    """sums[r, c] = dot4(a[r, w], b[w, c], sums[r, c]) for every w, in any order: three registers of shapes that fit."""

    sums: Matrix
    a: Matrix
    b: Matrix


MatrixStmt: TypeAlias = Union[Matrices, MatrixZero, MatrixLoad, MatrixStore, MatrixDot]
Stmt: TypeAlias = Union[Store, For, Let, If, While, Alloc, Barrier, Prefetch, Reread, Transpose, Interleave, MatrixStmt]


@dataclass(frozen=True, eq=False)
class LoopFunction:
    """One kernel: parameters in calling order (inputs, then outputs), size symbols, and what it does.

    `params[k]` is written if k >= inputs.  Top-level statements run one after another; each top-level parallel loop ends before
    the next statement starts.
    """

    name: str
    params: tuple[Buf, ...]
    inputs: int
    symbols: tuple[str, ...]
    body: tuple[Stmt, ...]


@dataclass
class Names:
    """Fresh variable names within one function."""

    taken: dict[str, int] = field(default_factory=dict)

    def var(self, hint: str, dtype: DType = i64) -> Var:
        k = self.taken[hint] = self.taken.get(hint, -1) + 1
        return Var(f"{hint}{k}" if k else hint, dtype)


def children(e: Expr) -> tuple[Expr, ...]:
    """The direct operands of an expression."""
    if isinstance(e, Op):
        return e.args
    if isinstance(e, Cast | Bitcast):
        return (e.x,)
    if isinstance(e, Word):
        return (e.index,)
    if isinstance(e, Load):
        return (e.index,) if e.mask is None else (e.index, e.mask, e.other)  # type: ignore[return-value]
    return ()


def coefficient(e: Expr, var: Var, count: int = 0) -> Expr | None:
    """c where e == c * var + (something without var), or None where e is not known to be affine in var.

    count: `var` is known to run over 0..count only, 0 for no such knowledge; then (16 * k + var) // 32 is affine for a count of 16.
    """
    if e is var:
        return Const(1, i64)
    if isinstance(e, Const | Sym | Var):
        return Const(0, i64)
    if isinstance(e, Op) and e.name in ("add", "sub", "mul"):
        a, b = (coefficient(x, var, count) for x in e.args)
        if a is None or b is None:
            return None
        if e.name != "mul":
            return binary(e.name, a, b)
        za, zb = _is_zero(a), _is_zero(b)
        if za and zb:
            return a
        if za:
            return binary("mul", e.args[0], b)
        return binary("mul", a, e.args[1]) if zb else None
    if not depends(e, var):
        return Const(0, i64)
    if count and isinstance(e, Op) and e.name in ("floordiv", "mod"):
        x, by = e.args
        moves = coefficient(x, var, count)
        if isinstance(moves, Const) and moves.value == 1 and isinstance(by, Const):
            together = math.gcd(_factor(x, var), int(by.value))  # elements from each multiple of this share their quotient
            if count <= together:
                return Const(int(e.name == "mod"), i64)
    return None


def _factor(e: Expr, var: Var) -> int:
    """A number that divides the expression where var is 0; 0 where it is 0 then."""
    if e is var:
        return 0
    if isinstance(e, Const):
        return int(e.value)
    if isinstance(e, Op) and e.name in ("add", "sub", "mul"):
        a, b = (_factor(x, var) for x in e.args)
        return a * b if e.name == "mul" else math.gcd(a, b)
    return 1


def _is_zero(e: Expr) -> bool:
    return isinstance(e, Const) and e.value == 0


def depends(e: Expr, var: Var) -> bool:
    """Whether the expression mentions the variable."""
    seen: set[int] = set()
    stack = [e]
    while stack:
        x = stack.pop()
        if x is var:
            return True
        if id(x) not in seen:
            seen.add(id(x))
            stack.extend(children(x))
    return False


# --- text -------------------------------------------------------------------------------------------------------------------


def to_text(function: LoopFunction) -> str:
    """The function as text: deterministic, so that it is the key under which object code is cached."""
    params = ", ".join(f"{'out ' if k >= function.inputs else ''}{b.name}: {b.dtype}" for k, b in enumerate(function.params))
    lines = [f"kernel {function.name}({params}; {', '.join(function.symbols)}) {{"]
    for statement in function.body:
        lines.extend(_statement(statement, "  "))
    return "\n".join([*lines, "}", ""])


def expr_text(e: Expr) -> str:
    """An expression as text; sub-expressions used more than once are named first."""
    return "; ".join(_with_shared([e], lambda t: t[0], ""))


def _statement(s: Stmt, pad: str) -> Iterator[str]:
    match s:
        case Store():
            yield from _with_shared(
                [s.index, s.value] + ([s.mask] if s.mask is not None else []),
                lambda t: (
                    (f"stream {s.stream} " if s.stream else "")
                    + f"{s.buf.name}[{t[0]}] = {t[1]}"
                    + (f" where {t[2]}" if s.mask is not None else "")
                ),
                pad,
            )
        case Let():
            yield from _with_shared([s.value], lambda t: f"let {s.var.name}: {s.var.dtype} = {t[0]}", pad)
        case Transpose():
            yield f"{pad}transpose {s.tile.name} {s.size}x{s.size}"
        case Interleave():
            yield f"{pad}interleave {s.tile.name} {s.rows}x{s.lanes}"
        case Prefetch():
            yield from _with_shared([s.index], lambda t: f"prefetch {'near ' if s.near else ''}{s.buf.name}[{t[0]}]", pad)
        case Alloc():
            yield f"{pad}alloc {s.buf.space} {s.buf.name}: {s.buf.dtype}[{s.buf.size}]"
        case Matrices():
            yield f"{pad}matrices {', '.join(f'{m.name} {m.rows}x{m.words}' for m in s.registers)} {{"
            for inner in s.body:
                yield from _statement(inner, pad + "  ")
            yield pad + "}"
        case MatrixZero():
            yield f"{pad}{s.matrix.name} = 0"
        case MatrixLoad():
            yield from _with_shared([s.index, s.stride], lambda t: f"{s.matrix.name} = {s.buf.name}[{t[0]} step {t[1]}]", pad)
        case MatrixStore():
            yield from _with_shared([s.index, s.stride], lambda t: f"{s.buf.name}[{t[0]} step {t[1]}] = {s.matrix.name}", pad)
        case MatrixDot():
            yield f"{pad}{s.sums.name} += {s.a.name} . {s.b.name}"
        case Barrier():
            yield f"{pad}barrier"
        case Reread():
            yield f"{pad}reread"
        case For():
            extra = [x for x in (s.extent, s.limit, s.cost) if x is not None]
            tail = (" limit {}" if s.limit is not None else "") + (" cost {}" if s.cost is not None else "")
            yield from _with_shared(extra, lambda t: f"for {s.var.name} in {s.kind} {t[0]}{tail.format(*t[1:])} {{", pad)
            for inner in s.body:
                yield from _statement(inner, pad + "  ")
            yield pad + "}"
        case If():
            yield from _with_shared([s.condition], lambda t: f"if {t[0]} {{", pad)
            for inner in s.then:
                yield from _statement(inner, pad + "  ")
            if s.otherwise:
                yield pad + "} else {"
                for inner in s.otherwise:
                    yield from _statement(inner, pad + "  ")
            yield pad + "}"
        case While():
            yield from _with_shared([s.condition], lambda t: f"while {t[0]} {{", pad)
            for inner in s.body:
                yield from _statement(inner, pad + "  ")
            yield pad + "}"


def _with_shared(roots: Sequence[Expr], form: Callable[[list[str]], str], pad: str) -> Iterator[str]:
    """Lines that name every sub-expression used more than once (%0, %1, ...), then the statement itself."""
    uses: dict[int, int] = {}
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(roots)]
    while stack:
        e, done = stack.pop()
        if done:
            order.append(e)
            continue
        uses[id(e)] = uses.get(id(e), 0) + 1
        if uses[id(e)] == 1:
            stack.append((e, True))
            stack.extend((c, False) for c in reversed(children(e)))
    text: dict[int, str] = {}
    count = 0
    for e in order:
        t = _expr_text(e, [text[id(c)] for c in children(e)])
        if uses[id(e)] > 1 and children(e):
            yield f"{pad}%{count} = {t}"
            t = f"%{count}"
            count += 1
        text[id(e)] = t
    yield pad + form([text[id(r)] for r in roots])


_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "floordiv": "//", "mod": "%", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}


def _expr_text(e: Expr, args: list[str]) -> str:
    match e:
        case Const():
            return repr(e.value) if e.dtype is i64 else f"{e.dtype}({e.value!r})"
        case Var() | Sym():
            return e.name
        case Address():
            return f"address({e.buf.name})"
        case Word():
            return f"word {e.buf.name}[{args[0]}]"
        case Load():
            return f"{e.buf.name}[{args[0]}]" if e.mask is None else f"{e.buf.name}[{args[0]} where {args[1]} else {args[2]}]"
        case Cast():
            return f"{e.dtype}({args[0]})"
        case Bitcast():
            return f"bits_{e.dtype}({args[0]})"
        case Op() if e.name in _INFIX:
            return f"({args[0]} {_INFIX[e.name]} {args[1]})"
        case Op():
            return f"{e.name}({', '.join(args)})"
    raise TypeError(f"not a loop expression: {e!r}")


def walk(body: Sequence[Stmt]) -> Iterator[Any]:
    """Every statement, outer before inner."""
    for s in body:
        yield s
        if isinstance(s, For | While | Matrices):
            yield from walk(s.body)
        elif isinstance(s, If):
            yield from walk(s.then)
            yield from walk(s.otherwise)


@dataclass(frozen=True)
class Tensor:
    """A row-major view of a buffer: `t[i, j]` loads, `t.at((i, j), where, other)` loads where it may, `t.store` stores."""

    buf: Buf
    shape: tuple[Dim, ...]

    def offset(self, at: Sequence[Scalar]) -> Expr:
        """The linear element offset of an index."""
        total: Expr = Const(0, i64)
        for k, d in zip(at, self.shape, strict=True):
            total = total * size_expr(d) + k
        return total

    def __getitem__(self, at: Scalar | tuple[Scalar, ...]) -> Load:
        return Load(self.buf, self.offset(at if isinstance(at, tuple) else (at,)))

    def at(self, at: tuple[Scalar, ...], where: Expr, other: Scalar = 0) -> Load:
        return Load(self.buf, self.offset(at), where, other)

    def store(self, at: Scalar | tuple[Scalar, ...], value: Scalar, mask: Expr | None = None) -> Store:
        return Store(self.buf, self.offset(at if isinstance(at, tuple) else (at,)), as_expr(value, self.buf.dtype), mask)

    def view(self, *shape: Dim) -> Tensor:
        """The same memory under another shape of the same size."""
        return Tensor(self.buf, shape)
