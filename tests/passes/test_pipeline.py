"""The whole pipeline: every op's own samples, small networks and very long chains come out meaning what they meant."""

import numpy as np
import pytest
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import OPS, apply, apply_node
from octavo.ir.text import parse
from octavo.ir.types import TensorType, dtype_of, parse_type
from octavo.passes.pipeline import optimize

from .check import same_values

SAMPLED = sorted(name for name, op in OPS.items() if op.samples is not None)


@pytest.mark.parametrize("name", SAMPLED)
def test_an_op_alone_keeps_its_values(name):
    definition = OPS[name]
    assert definition.samples is not None
    for sample in definition.samples(np.random.default_rng(0)):
        operands = [input_value(f"x{k}", TensorType(dtype_of(a.dtype), a.shape)) for k, a in enumerate(sample.inputs)]
        for split in {0, len(operands)}:  # all operands given, then all constant but for the first
            values = [v if k <= split or not k else const_value(sample.inputs[k]) for k, v in enumerate(operands)]
            inputs = tuple(v for v in values if not v.is_const)
            outputs = apply_node(name, values, sample.attrs).outputs
            if not all(v.type.is_static for v in outputs):
                continue
            graph = Graph("g", inputs, outputs)
            feeds = {f"x{k}": sample.inputs[k] for k, v in enumerate(values) if not v.is_const}
            for a, b in zip(evaluate(graph, feeds), evaluate(optimize(graph), feeds), strict=True):
                assert a.dtype == b.dtype
                if a.dtype.kind in "f" or a.dtype.kind == "V":
                    tolerance = 2e-2 if a.dtype.itemsize <= 2 else 1e-4
                    np.testing.assert_allclose(b.astype(np.float64), a.astype(np.float64), rtol=tolerance, atol=tolerance)
                else:
                    np.testing.assert_array_equal(b, a)


def weights(rng: np.random.Generator, *shape: int) -> Value:
    return const_value((rng.standard_normal(shape) / 4).astype(np.float32))


def test_a_transformer_block_keeps_its_values():
    rng = np.random.default_rng(3)
    x = input_value("x", parse_type("f32[batch,seq,16]"))
    mask = input_value("mask", parse_type("bool[batch,seq]"))
    batch, seq, width = x.shape

    def linear(v: Value, n: int) -> Value:
        return apply("add", apply("matmul", v, weights(rng, int(str(v.shape[-1])), n)), weights(rng, n))

    def heads(v: Value) -> Value:
        return apply("transpose", apply("reshape", v, shape=(batch, seq, 4, 4)), perm=(0, 2, 1, 3))

    h = apply("layer_norm", x, weights(rng, 16), weights(rng, 16), axis=2)
    q, k, v = (heads(linear(h, 16)) for _ in range(3))
    scores = apply("matmul", q, apply("transpose", k, perm=(0, 1, 3, 2)))
    scores = apply("div", scores, const_value(np.float32(2)))
    seen = apply("reshape", mask, shape=(batch, 1, 1, seq))
    scores = apply("where", seen, scores, const_value(np.float32(-1e9)))
    mixed = apply("matmul", apply("softmax", scores, axis=3), v)
    h = apply("reshape", apply("transpose", mixed, perm=(0, 2, 1, 3)), shape=(batch, seq, width))
    x2 = apply("add", x, linear(h, 16))
    inner = linear(apply("rms_norm", x2, weights(rng, 16), axis=2), 32)
    half = apply("mul", inner, const_value(np.float32(0.5)))
    erf = apply("erf", apply("div", inner, const_value(np.float32(2**0.5))))
    inner = apply("mul", half, apply("add", erf, const_value(np.float32(1))))
    before = Graph("block", (x, mask), (apply("add", x2, linear(inner, 16)),))
    after = optimize(before)
    same_values(before, after, tolerance=1e-4)
    ops = [n.op for n in after.nodes]
    assert ops.count("gelu") == 1
    assert ops.count("transpose") == 4  # q, k, v and the mixed heads; the second one of k merged with its first


def test_an_optimized_graph_is_left_alone():
    text = """graph g(%x: f32[n,3,8,8]) -> (%y) {
      %1 = conv(%x, const<f32[2,3,1,1] [1.0,2.0,3.0,4.0,5.0,6.0]>, strides=[1,1], pads=[[0,0],[0,0]], dilations=[1,1])
      %2 = sigmoid(%1)
      %y = mul(%1, %2)
    }"""
    once = optimize(parse(text))
    assert optimize(once) is once


CHAINS = [(100_000, "exp", "neg"), (20_000, "neg", "neg"), (20_000, "transpose", "relu", "exp"), (20_000, "add", "mul")]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: "-".join(map(str, chain)))
def test_a_very_long_chain_goes_through(chain):
    length, *ops = chain
    x = v = input_value("x", parse_type("f32[n,4,4]"))
    c = const_value(np.ones(4, np.float32) * 2)
    for k in range(length):
        match ops[k % len(ops)]:
            case "transpose":
                v = apply("transpose", v, perm=(0, 2, 1))
            case "add" | "mul" as op:
                v = apply(op, v, c)
            case op:
                v = apply(op, v)
    assert optimize(Graph("chain", (x,), (v,))).outputs[0].type == x.type
