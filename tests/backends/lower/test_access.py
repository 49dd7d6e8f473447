"""Indices of fused values: broadcasts, reshapes, offsets; dims that merge."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.backends.lower.access import broadcast_index, linear, reshaped_index, strides_of, unravel
from octavo.backends.lower.collapse import groups
from octavo.compiler.driver import compile
from octavo.ir.dims import evaluate_dim, symbol
from octavo.ir.interpret import interpret
from octavo.ir.loops import Expr, Var
from octavo.ir.text import parse

N, M = symbol("n"), symbol("m")
SIZES = {"n": 3, "m": 5}


def everywhere(shape) -> tuple[tuple[Expr, ...], dict[str, np.ndarray]]:
    """Index variables of a shape and the values they take, all elements in row-major order."""
    names = [f"i{k}" for k in range(len(shape))]
    values = np.indices([evaluate_dim(d, SIZES) for d in shape]).reshape(len(shape), -1)
    return tuple(Var(n) for n in names), dict(zip(names, values, strict=True))


def value(e: Expr, env: dict[str, np.ndarray]) -> np.ndarray:
    return interpret(e, {**env, **SIZES})


@pytest.mark.parametrize("shape", [(4,), (2, 1, 3), (N, 4), (2, N, M)], ids=str)
def test_an_offset_counts_row_major_and_back(shape):
    index, env = everywhere(shape)
    offset = value(linear(index, strides_of(shape)), env)
    assert offset.tolist() == list(range(len(offset)))
    for e, name in zip(unravel(Var("o"), shape), env, strict=True):
        np.testing.assert_array_equal(np.broadcast_to(value(e, {"o": offset}), offset.shape), env[name])


@pytest.mark.parametrize(
    ("shape", "source"),
    [
        ((6,), (2, 3)),
        ((2, 3), (6,)),
        ((N, 2, 2), (N, 4)),
        ((4, N), (2, 2, N)),
        ((N, 1, 4), (N, 4)),
        ((1, 3 * N), (3, 1, N)),
        ((2, N * M), (N, 2, M)),
        ((3, 4), (4, 3)),
    ],
    ids=str,
)
def test_a_reshape_keeps_the_offset(shape, source):
    index, env = everywhere(shape)
    _, expected = everywhere(source)
    for e, want in zip(reshaped_index(index, shape, source), expected.values(), strict=True):
        np.testing.assert_array_equal(np.broadcast_to(value(e, env), want.shape), want)


def test_dims_that_a_reshape_keeps_cost_nothing():
    index, _ = everywhere((N, 2, 2, M))
    middle = reshaped_index(index, (N, 2, 2, M), (N, 4, M))
    assert middle[0] is index[0]
    assert middle[-1] is index[-1]


@pytest.mark.parametrize(
    ("operand", "expected"), [((3, 4), [1, 2]), ((4,), [2]), ((1, 4), [0, 2]), ((1, 1), [0, 0]), ((), [])], ids=str
)
def test_a_broadcast_reads_ones_at_zero(operand, expected):
    index = broadcast_index((Var("i"), Var("j")), (3, 4), operand)
    assert [int(value(e, {"i": 1, "j": 2})) for e in index] == expected


def test_a_size_that_may_be_one_is_clamped():
    (e,) = broadcast_index((Var("i"),), (M,), (N,))
    assert [int(interpret(e, {"i": 4, "n": n})) for n in (1, 5)] == [0, 4]


@pytest.mark.parametrize(
    ("operands", "shape", "expected"),
    [
        ("a: f32[n,2,3], b: f32[n,2,3]", (N, 2, 3), [[0, 1, 2]]),
        ("a: f32[n,2,3], b: f32[3]", (N, 2, 3), [[0, 1], [2]]),
        ("a: f32[n,2,3], b: f32[2,1]", (N, 2, 3), [[0], [1], [2]]),
        ("a: f32[n,2,3], b: f32[n,1,1]", (N, 2, 3), [[0], [1, 2]]),
        ("a: f32[n,1,3], b: f32[3]", (N, 1, 3), [[0, 1], [2]]),
        ("a: f32[n,2,3], b: f32[1]", (N, 2, 3), [[0, 1, 2]]),
    ],
)
def test_dims_merge_where_every_operand_has_or_spreads_both(operands, shape, expected):
    inputs = ", ".join("%" + o for o in operands.split(", "))
    graph = parse(f"graph g({inputs}) -> (%y) {{\n%y = add(%a, %b)\n}}")
    assert groups(graph, shape) == expected


def test_a_fill_value_reaches_through_the_index_op_below():
    """The load of a fused `tile` is masked for the `pad` above it, whose value it must give and not its own zero."""
    graph = parse(
        """graph padded(%x: f32[2,3]) -> (%2) {
          %1 = tile(%x, repeats=[1,2]) : f32[2,6]
          %2 = pad(%1, low=[1,0], high=[0,1], mode="constant", value=7.0) : f32[3,7]
        }"""
    )
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = np.pad(np.tile(x, (1, 2)), ((1, 0), (0, 1)), constant_values=7.0)
    np.testing.assert_array_equal(compile(graph)(x), expected)
