"""What ops mean as loop code, run by a small interpreter of the loop IR: it is what the reference computes.

Loops of opaque ops run whole; pointwise, index and reduction definitions run over loop expressions.  The interpreter faults on
every access outside a buffer, and fills scratch memory with rubbish.
"""

import numpy as np
import pytest
from octavo.ir.dims import dim_product, evaluate_dim, symbol
from octavo.ir.evaluate import run_op
from octavo.ir.loops import (
    Alloc,
    Bitcast,
    Buf,
    Cast,
    Const,
    For,
    If,
    Let,
    Load,
    Matrices,
    MatrixDot,
    MatrixLoad,
    MatrixStore,
    MatrixZero,
    Names,
    Op,
    Store,
    Sym,
    Tensor,
    Var,
    While,
    as_expr,
    children,
    size_expr,
)
from octavo.ir.ops.registry import OPS
from octavo.ir.scalar import LOOPS, NUMPY, compute_dtype
from octavo.ir.types import TensorType, bool_, dtype_of

BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": NUMPY.div,
    "rem": NUMPY.rem,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "min": np.minimum,
    "max": np.maximum,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "shl": lambda a, b: a << b,
    "shr": lambda a, b: a >> b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
UNARY = {"neg": lambda a: -a, "not": lambda a: ~a, "abs": abs, "sqrt": np.sqrt, "floor": np.floor, "ceil": np.ceil}
UNARY |= {"rint": np.rint, "trunc": np.trunc}


class Machine:
    """Memory by buffer, variables by name."""

    def __init__(self, memory, symbols):
        self.memory, self.symbols, self.variables, self.matrices = dict(memory), symbols, {}, {}

    def value(self, e, seen):
        if id(e) not in seen:
            seen[id(e)] = self._value(e, seen)
        return seen[id(e)]

    def _value(self, e, seen):
        match e:
            case Const():
                return e.dtype.np.type(e.value)
            case Var():
                return self.variables[e.name]
            case Sym():
                return np.int64(self.symbols[e.name])
            case Load():
                if e.mask is not None and not self.value(e.mask, seen):
                    return self.value(e.other, seen)
                return self.memory[e.buf][self.place(e.buf, self.value(e.index, seen))]
            case Cast():
                return NUMPY.cast(self.value(e.x, seen), e.dtype)[()]
            case Bitcast():
                return NUMPY.bitcast(self.value(e.x, seen), e.dtype)[()]
            case Op(name="where"):
                return self.value(e.args[1] if self.value(e.args[0], seen) else e.args[2], seen)
            case Op(name="fma"):
                return NUMPY.fma(*(self.value(c, seen) for c in children(e)))[()]
            case Op():
                values = [self.value(c, seen) for c in children(e)]
                function = BINARY[e.name] if len(values) == 2 else UNARY[e.name]
                return np.asarray(function(*values)).astype((bool_ if e.name in ("lt", "le", "eq", "ne") else e.dtype).np)[()]
        raise TypeError(e)

    def place(self, buf, index):
        assert 0 <= index < len(self.memory[buf]), f"{buf.name}[{index}] of {len(self.memory[buf])}"
        return int(index)

    def rows(self, s):
        """Where the rows of a matrix lie in memory."""
        elements = s.matrix.words * (4 // s.buf.dtype.itemsize)
        index, stride = self.value(s.index, {}), self.value(s.stride, {})
        return [
            slice(self.place(s.buf, index + r * stride), self.place(s.buf, index + r * stride + elements - 1) + 1)
            for r in range(s.matrix.rows)
        ]

    def run(self, body):
        for s in body:
            match s:
                case Store():
                    seen = {}
                    if s.mask is None or self.value(s.mask, seen):
                        at = self.place(s.buf, self.value(s.index, seen))
                        assert s.value.dtype is s.buf.dtype, f"{s.value.dtype} stored in {s.buf.name}: {s.buf.dtype}"
                        self.memory[s.buf][at] = self.value(s.value, seen)
                case Let():
                    assert s.value.dtype is s.var.dtype
                    self.variables[s.var.name] = self.value(s.value, {})
                case Alloc():
                    self.memory[s.buf] = np.full(evaluate_dim(s.buf.size, self.symbols), 77).astype(s.buf.dtype.np)
                case For():
                    for k in range(int(self.value(s.extent, {}))):
                        self.variables[s.var.name] = np.int64(k)
                        self.run(s.body)
                case If():
                    self.run(s.then if self.value(s.condition, {}) else s.otherwise)
                case While():
                    while self.value(s.condition, {}):
                        self.run(s.body)
                case Matrices():
                    outer = self.matrices
                    self.matrices = {m: np.full((m.rows, m.words), 77, np.int32) for m in s.registers}
                    self.run(s.body)
                    self.matrices = {m: np.full_like(old, 77) for m, old in outer.items()}
                case MatrixZero():
                    self.matrices[s.matrix][:] = 0
                case MatrixLoad():
                    self.matrices[s.matrix][:] = [self.memory[s.buf][row].view(np.int32) for row in self.rows(s)]
                case MatrixStore():
                    for row, numbers in zip(self.rows(s), self.matrices[s.matrix], strict=True):
                        self.memory[s.buf][row] = numbers
                case MatrixDot():
                    sums, a, b = (self.matrices[m] for m in (s.sums, s.a, s.b))
                    assert sums.shape == (len(a), b.shape[1])
                    assert a.shape[1] == len(b)
                    left = a.view(np.uint8).astype(np.int32)
                    right = b[..., None].view(np.int8).astype(np.int32)  # [words, columns, 4]
                    sums += left @ right.swapaxes(1, 2).reshape(-1, b.shape[1])
                case _:
                    raise TypeError(s)


def cases():
    for name, definition in sorted(OPS.items()):
        if definition.loops is not None:
            for k, sample in enumerate(definition.samples(np.random.default_rng(7))):
                yield pytest.param(definition, sample, id=f"{name}-{k}")


@pytest.mark.parametrize(("definition", "sample"), cases())
def test_the_loops_compute_what_the_reference_does(definition, sample):
    types = [TensorType(dtype_of(a.dtype), a.shape) for a in sample.inputs]
    results = definition.infer(tuple(types), **sample.attrs)
    ins = [Tensor(Buf(f"x{k}", t.dtype), t.shape) for k, t in enumerate(types)]
    outs = [Tensor(Buf(f"y{k}", t.dtype), t.shape) for k, t in enumerate(results)]
    memory = {t.buf: np.array(a).reshape(-1) for t, a in zip(ins, sample.inputs, strict=True)}
    memory |= {t.buf: np.full(int(np.prod(t.shape)), 55).astype(t.buf.dtype.np) for t in outs}
    body = definition.loops(Names(), ins, outs, **sample.attrs)
    with np.errstate(all="ignore"):
        Machine(memory, {}).run(body)
        expected = run_op(definition, sample.inputs, sample.attrs)
    for t, want in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(memory[t.buf].reshape(want.shape), want)


@pytest.mark.parametrize(("definition", "sample"), cases())
def test_the_loops_take_symbolic_sizes(definition, sample):
    types = [TensorType(dtype_of(a.dtype), a.shape) for a in sample.inputs]
    sizes = {"n": sample.inputs[0].shape[0]}  # the first axis is never one whose size an op must know
    named = [t.with_shape((symbol("n"), *t.shape[1:]) if t.rank and t.shape[0] == sizes["n"] else t.shape) for t in types]
    results = definition.infer(tuple(named), **sample.attrs)
    ins = [Tensor(Buf(f"x{k}", t.dtype), t.shape) for k, t in enumerate(named)]
    outs = [Tensor(Buf(f"y{k}", t.dtype), t.shape) for k, t in enumerate(results)]
    memory = {t.buf: np.array(a).reshape(-1) for t, a in zip(ins, sample.inputs, strict=True)}
    memory |= {t.buf: np.full(evaluate_dim(dim_product(t.shape), sizes), 55).astype(t.buf.dtype.np) for t in outs}
    with np.errstate(all="ignore"):
        Machine(memory, sizes).run(definition.loops(Names(), ins, outs, **sample.attrs))
        expected = run_op(definition, sample.inputs, sample.attrs)
    for t, want in zip(outs, expected, strict=True):
        np.testing.assert_array_equal(memory[t.buf].reshape(want.shape), want)


class LoopReader:
    """An operand of an index op over loop expressions."""

    def __init__(self, tensor):
        self.tensor, self.shape = tensor, tuple(size_expr(d) for d in tensor.shape)

    def __getitem__(self, at):
        return self.tensor[at]

    def at(self, at, where, other=0):
        return self.tensor.at(at, as_expr(where, bool_), other)


def samples_of(*kinds):
    for name, definition in sorted(OPS.items()):
        if definition.kind in kinds:
            for k, sample in enumerate(definition.samples(np.random.default_rng(7))):
                yield pytest.param(definition, sample, id=f"{name}-{k}")


def some_indices(shape, count=12):
    """The first and last index and others drawn at random."""
    size = int(np.prod(shape))
    flat = {0, size - 1, *np.random.default_rng(3).integers(0, size, count).tolist()} if size else ()
    return [np.unravel_index(k, shape) for k in sorted(flat)]


@pytest.mark.parametrize(("definition", "sample"), samples_of("index"))
def test_index_ops_read_the_same_elements_as_loop_code(definition, sample):
    types = tuple(TensorType(dtype_of(a.dtype), a.shape) for a in sample.inputs)
    out = definition.infer(types, **sample.attrs)[0]
    tensors = [Tensor(Buf(f"x{k}", t.dtype), t.shape) for k, t in enumerate(types)]
    machine = Machine({t.buf: np.array(a).reshape(-1) for t, a in zip(tensors, sample.inputs, strict=True)}, {})
    index = tuple(Var(f"i{k}") for k in range(out.rank))
    e = definition.fn(LOOPS, index, *map(LoopReader, tensors), types=types, out=out, **sample.attrs)
    (expected,) = run_op(definition, sample.inputs, sample.attrs)
    for at in some_indices(out.shape):
        machine.variables = {f"i{k}": np.int64(v) for k, v in enumerate(at)}
        np.testing.assert_array_equal(machine.value(e, {}), expected[tuple(at)])


@pytest.mark.parametrize(("definition", "sample"), samples_of("pointwise"))
def test_pointwise_ops_compute_the_same_as_loop_code(definition, sample):
    types = tuple(TensorType(dtype_of(a.dtype), a.shape) for a in sample.inputs)
    out = definition.infer(types, **sample.attrs)[0]
    scalars = [LOOPS.cast(Var(f"x{k}", t.dtype), compute_dtype(t.dtype)) for k, t in enumerate(types)]
    e = LOOPS.cast(definition.fn(LOOPS, *scalars, **sample.attrs), out.dtype)
    (expected,) = run_op(definition, sample.inputs, sample.attrs)
    operands = [np.broadcast_to(a, expected.shape) for a in sample.inputs]
    machine = Machine({}, {})
    tolerance = {"f64": 1e-13, "f32": 3e-6}.get(out.dtype.name, 2e-3) if out.dtype.is_float else 0
    for at in some_indices(expected.shape):
        machine.variables = {f"x{k}": a[at] for k, a in enumerate(operands)}
        with np.errstate(all="ignore"):
            got = machine.value(e, {})
        np.testing.assert_allclose(np.float64(got), np.float64(expected[at]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("definition", "sample"), samples_of("reduction"))
def test_reductions_merge_interleaved_parts(definition, sample):
    (x,), axes = sample.inputs, sample.attrs["axes"]
    monoid, dtype = definition.reduction, dtype_of(x.dtype)
    (expected,) = run_op(definition, sample.inputs, sample.attrs | {"keepdims": False})
    kept = [k for k in range(x.ndim) if k not in axes]
    rows = np.transpose(x, (*kept, *axes)).reshape(*expected.shape, -1)
    tolerance = {8: 1e-12, 4: 2e-5, 2: 3e-3}[x.itemsize] if dtype.is_float and expected.dtype == x.dtype else 0
    with np.errstate(all="ignore"):
        for at in some_indices(expected.shape, 3) if expected.shape else [()]:
            parts = []
            for lane in range(4):  # as vector lanes do: lane l folds the elements l, l + 4, ...
                wide = [d.np.type(v) for d, v in zip(monoid.state_dtypes(dtype), monoid.init(dtype), strict=True)]
                for k in range(lane, rows.shape[-1], 4):
                    wide = monoid.step(NUMPY, wide, compute_dtype(dtype).np.type(rows[at][k]), np.int64(k))
                parts.append(wide)
            merged = parts[3]
            for part in parts[:3]:
                merged = monoid.merge(NUMPY, merged, part)
            got = np.asarray(monoid.finish(NUMPY, merged)).astype(expected.dtype)
            np.testing.assert_allclose(np.float64(got), np.float64(expected[at]), rtol=tolerance, atol=tolerance)


def test_parallel_loops_are_outermost():
    for name, definition in OPS.items():
        if definition.loops is None:
            continue
        sample = next(iter(definition.samples(np.random.default_rng(7))))
        types = [TensorType(dtype_of(a.dtype), a.shape) for a in sample.inputs]
        ins = [Tensor(Buf(f"x{k}", t.dtype), t.shape) for k, t in enumerate(types)]
        outs = [Tensor(Buf(f"y{k}", t.dtype), t.shape) for k, t in enumerate(definition.infer(tuple(types), **sample.attrs))]
        for top in definition.loops(Names(), ins, outs, **sample.attrs):
            assert not any(s.kind == "parallel" for s in inner_loops(top)), name


def inner_loops(statement):
    bodies = {For: lambda s: s.body, While: lambda s: s.body, If: lambda s: (*s.then, *s.otherwise)}
    for s in bodies.get(type(statement), lambda s: ())(statement):
        if isinstance(s, For):
            yield s
        yield from inner_loops(s)
