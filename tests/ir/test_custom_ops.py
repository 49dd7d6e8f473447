"""Ops that a user adds with `octavo.op` alone: every kind compiles, fuses with its neighbours and agrees with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import octavo
import pytest
from octavo import op, ops
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Value
from octavo.ir.ops.registry import OPS


@pytest.fixture(autouse=True)
def own_ops() -> Iterator[None]:
    """What a test registers is gone after it."""
    before = set(OPS)
    yield
    for name in set(OPS) - before:
        del OPS[name]


def agrees(f: Callable[[Value], Value]) -> np.ndarray:
    """The result for x: f32[n,8], native and by the reference alike."""
    graph = octavo.trace(f, octavo.spec("f32", ("n", 8)))
    x = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    (expected,) = evaluate(graph, {graph.input_names[0]: x})
    actual = octavo.compile(graph)(x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    return actual


def test_a_pointwise_op():
    @op.pointwise()
    def squared_relu(s, x):
        return s.max(x, 0) * s.max(x, 0)

    assert agrees(lambda x: -ops.squared_relu(x)).max() == 0


def test_an_index_op():
    def infer(types: op.Types) -> op.Types:
        return types

    @op.index(infer=infer)
    def mirrored(s, i, x, *, types, out):
        return x[(*i[:-1], x.shape[-1] - 1 - i[-1])]

    agrees(lambda x: ops.mirrored(ops.exp(x)))


def test_a_reduction():
    op.reduction(
        "furthest",
        op.Reduction(
            init=lambda dtype: (0.0,),
            step=lambda s, state, x, k: (s.max(state[0], s.abs(x)),),
            merge=lambda s, a, b: (s.max(a[0], b[0]),),
            finish=lambda s, state: state[0],
            state_dtypes=lambda dtype: (dtype,),
        ),
        reference=lambda x, axes, keepdims=False: np.max(np.abs(x), axes, keepdims=keepdims),
    )
    agrees(lambda x: x / ops.furthest(x, axes=(1,), keepdims=True))


def test_a_composite():
    @op.composite()
    def centred(x, *, axis: int):
        return x - ops.mean(x, axes=(axis,), keepdims=True)

    agrees(lambda x: ops.centred(x, axis=1))


def test_an_opaque_op():
    def infer(types: op.Types) -> op.Types:
        return types

    def loops(names, ins, outs):
        def row(r):
            alloc, last = op.scratch(names, "last", ins[0].buf.dtype)

            def step(k):
                return [outs[0].store((r, k), ins[0][r, k] - last[()]), last.store((), ins[0][r, k])]

            return [alloc, last.store((), 0), op.each(names, "k", ins[0].shape[1], step)]

        return [op.each(names, "r", ins[0].shape[0], row, "parallel")]

    @op.opaque(infer=infer, loops=loops, samples=lambda rng: [])
    def differences(x: np.ndarray) -> np.ndarray:
        return np.diff(x, axis=1, prepend=np.float32(0))

    agrees(lambda x: ops.differences(x))


def test_nothing_else_is_exposed():
    public = {name for name in vars(op) if not name.startswith("_")}
    assert public == set(op.__all__)
    assert "OPS" not in public
