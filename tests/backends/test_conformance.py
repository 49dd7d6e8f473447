"""Every op of the registry, on each of its samples, in native code at every CPU level that this machine runs.

All samples of an op are compiled as one graph whose operands are inputs, so that nothing is folded away.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from octavo.backends.target import runnable
from octavo.compiler.driver import compile
from octavo.ir.evaluate import evaluate, evaluate_node
from octavo.ir.graph import Graph, Node, Value, input_value
from octavo.ir.ops.registry import OPS, Sample, apply_node
from octavo.ir.text import parse
from octavo.ir.types import TensorType, dtype_of
from octavo.passes.pipeline import optimize
from octavo.tests.fuzz.numerics import Measured, epsilon, measure, mismatch

NAMES = tuple(sorted(name for name, op in OPS.items() if op.kind not in ("leaf", "kernel")))
# Those that differ from the level below in contractions only.
INTEGER_LEVELS = ("x86-64-v3-vnni", "x86-64-v4-vnni", "x86-64-v4-amx", "aarch64-dotprod", "aarch64-i8mm")
LOOSE_ULPS = 64  # of the largest value, where a sample holds infinities or NaN and so has no measured bound


def _cases() -> Iterator[object]:
    for name in NAMES:
        for target in runnable():
            if OPS[name].kind == "contraction" or target.name not in INTEGER_LEVELS:
                yield pytest.param(name, target.name, id=f"{name}-{target.name}")


@pytest.mark.parametrize(("name", "target"), _cases())
def test_native_code_computes_what_the_op_means(name: str, target: str):
    make = OPS[name].samples
    samples = list(make(np.random.default_rng(5))) if make else []
    assert samples, f"{name} has no samples: nothing holds its code to its meaning"
    nodes = [node_of(name, sample, k) for k, sample in enumerate(samples)]
    inputs = tuple(v for node in nodes for v in node.inputs)
    outputs = tuple(v for node in nodes for v in node.outputs)
    arrays = [a for sample in samples for a in sample.inputs]
    model = compile(Graph(name, inputs, outputs), target=target)
    actual = iter(model.run(None, dict(zip((v.node.attrs["name"] for v in inputs), arrays, strict=True))))
    for node, sample in zip(nodes, samples, strict=True):
        for expected in expected_of(node, sample):
            problem = mismatch(np.asarray(next(actual)), expected)
            assert not problem, f"{node!r} {dict(node.attrs)}: {problem}"


def node_of(name: str, sample: Sample, k: int) -> Node:
    def operand(j: int, a: np.ndarray) -> Value:
        return input_value(f"sample{k}_{j}", TensorType(dtype_of(a.dtype), a.shape))

    attrs = {**sample.attrs, "symbol": f"kept{k}"} if "symbol" in sample.attrs else sample.attrs  # each defines its own size
    return apply_node(name, [operand(j, a) for j, a in enumerate(sample.inputs)], attrs)


def expected_of(node: Node, sample: Sample) -> list[Measured]:
    operands = [Measured(a) for a in sample.inputs]
    measured = measure(node, operands, {}, np.random.default_rng(0))
    if measured is not None:
        return measured
    return [_loose(a) for a in evaluate_node(node, list(sample.inputs), {})]


def _loose(a: np.ndarray) -> Measured:
    if not dtype_of(a.dtype).is_float:
        return Measured(a)
    wide = a.astype(np.float64)
    largest = np.abs(wide[np.isfinite(wide)]).max(initial=1.0)
    return Measured(a, np.full(a.shape, LOOSE_ULPS * epsilon(dtype_of(a.dtype)) * largest))


@pytest.mark.parametrize("target", [t.name for t in runnable() if t.name not in INTEGER_LEVELS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_remainder_of_nothing_has_the_sign_of_the_dividend(dtype: str, target: str):
    x, y = np.array([[-2.5, 2.5, -0.0, 0.0, -7.5], [-2.5, -2.5, 3.0, -3.0, 2.5]], dtype)
    operands = [input_value(name, TensorType(dtype_of(x.dtype), x.shape)) for name in "xy"]
    got = compile(Graph("rem", tuple(operands), apply_node("rem", operands, {}).outputs), target=target)(x, y)
    np.testing.assert_array_equal(got, np.zeros(5))
    np.testing.assert_array_equal(np.signbit(got), np.signbit(x))


# What an operand of NaN becomes, before and after the passes, which make i8 of u8 and move quantize above what only chooses.
OF_NAN = {
    "i8": ("%y = quantize(%x, const<f32[] 0.5>, const<i8[] -3>, to=i8)", [127, 127, -128, -1, -128, 127]),
    "u8": ("%y = quantize(%x, const<f32[] 0.5>, const<u8[] 125>, to=u8)", [255, 255, 0, 127, 0, 255]),
    "i16": ("%y = quantize(%x, const<f32[] 0.5>, const<i16[] -3>, to=i16)", [32767, 32767, -32768, -1, -32768, 32767]),
    "u16": ("%y = quantize(%x, const<f32[] 0.5>, const<u16[] 125>, to=u16)", [65535, 65535, 0, 127, 0, 65535]),
    "scales of channels": (
        "%y = quantize(%x, const<f32[6] [0.5,0.5,0.5,0.5,0.5,0.5]>, const<i8[6] [-3,-3,-3,-3,-3,-3]>, to=i8)",
        [127, 127, -128, -1, -128, 127],
    ),
    "after an activation": (
        "%r = relu(%x)\n%y = quantize(%r, const<f32[] 0.5>, const<i8[] -128>, to=i8)",
        [127, 127, -128, -126, -128, 127],
    ),
    "after a maximum": (
        "%r = reduce_max(%x, axes=[1], keepdims=true)\n%y = quantize(%r, const<f32[] 0.5>, const<u8[] 0>, to=u8)",
        [255],
    ),
    "after a minimum": (
        "%r = reduce_min(%x, axes=[1], keepdims=true)\n%y = quantize(%r, const<f32[] 0.5>, const<i8[] 0>, to=i8)",
        [127],
    ),
}


@pytest.mark.parametrize("target", [t.name for t in runnable()])
@pytest.mark.parametrize("name", OF_NAN)
def test_quantize_makes_the_greatest_integer_of_nan_in_every_form(name: str, target: str):
    text, row = OF_NAN[name]
    graph = parse(f"graph g(%x: f32[40,6]) -> (%y) {{\n{text}\n}}")
    x = np.tile(np.array([np.nan, np.inf, -np.inf, 1.0, -1e30, 1e30], np.float32), (40, 1))
    for actual in (evaluate(graph, {"x": x})[0], evaluate(optimize(graph), {"x": x})[0], compile(graph, target=target)(x)):
        np.testing.assert_array_equal(actual, np.tile(row, (40, 1)))
