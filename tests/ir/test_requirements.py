"""Sizes that only the run tells must fit together: every condition is found, and a run that breaks one is refused."""

from __future__ import annotations

import re

import numpy as np
import octavo
import onnx.parser
import pytest
from octavo.ir.text import parse
from octavo.passes.requirements import requirements


def zeros(text: str) -> list[str]:
    return [str(d) for d in requirements(parse(text))]


def test_operands_that_surely_fit_need_nothing():
    assert not zeros("graph g(%x: f32[n,4], %y: f32[n,1]) -> (%z) {\n%z = add(%x, %y)\n}")
    assert not zeros("graph g(%x: f32[3,4]) -> (%z) {\n%z = exp(%x)\n}")


def test_each_operand_is_as_long_as_the_result_or_1():
    assert zeros("graph g(%x: f32[n], %y: f32[4]) -> (%z) {\n%z = add(%x, %y)\n}") == ["n*n-5*n+4"]


def test_a_condition_names_the_node_that_needs_it():
    graph = parse("graph g(%x: f32[n]) -> (%y) {\n%y = reshape(%x, shape=[2,3]) : f32[2,3] ; py:12\n}")
    assert list(requirements(graph).values()) == ["reshape(f32[n]) at py:12"]


def test_sizes_that_the_run_defines_are_left_to_it():
    assert not zeros(
        """graph g(%x: f32[n]) -> (%z) {
          %p = nonzero(%x)
          %b = bind_size(%p, %p#1, axis=1, symbol="found")
          %z = reshape(%b, shape=[2,3])
        }"""
    )


MISFITS = [
    ("(float[n] x, float[m] w) => (float[q] y) { y = Add(x,w) }", [(2,), (3,)], "add(f32[n], f32[m])"),
    ("(float[n] x, float[m] w) => (float[q] y) { y = Add(x,w) }", [(1,), (0,)], "add(f32[n], f32[m])"),
    ("(float[n,k] x, float[m,j] w) => (float[p,q] y) { y = MatMul(x,w) }", [(2, 3), (4, 2)], "matmul(f32[n,k], f32[m,j])"),
    ("(float[n,k] x, float[m,j] w) => (float[p,q] y) { y = Concat<axis=0>(x,w) }", [(2, 3), (2, 2)], "concat(f32[n,k], f32[m,j])"),
    ("(float[n,c,h] x, float[4,3,2] w) => (float[p,q,r] y) { y = Conv(x,w) }", [(1, 2, 5), (4, 3, 2)], "conv(f32[n,c,h], f32[4,3,2])"),
    ("(float[n] x) => (float[p,q] y) { s = Constant<value_ints=[-1,2]>() y = Reshape(x,s) }", [(5,)], "reshape(f32[n])"),
    ("(float[n,k] x) => (float[q] y) { a = Constant<value_ints=[0]>() y = Squeeze(x,a) }", [(2, 3)], "reshape(f32[n,k])"),
    ("(float[n] x) => (float[2] y, float[3] z) { s = Constant<value_ints=[2,3]>() y,z = Split(x,s) }", [(4,)], "slice(f32[n])"),
    ("(float[n] x) => (float[] y) { i = Constant<value_int=4>() y = Gather(x,i) }", [(2,)], "slice(f32[n])"),
    ("(float[n] x) => (float[q] y) { i = Constant<value_ints=[0,-1]>() y = Gather(x,i) }", [(0,)], "gather(f32[n], i64[2])"),
    ("(float[n] x) => (float[q] y) { s = Constant<value_ints=[3,3]>() y = Pad<mode=\"reflect\">(x,s) }", [(2,)], "pad(f32[n])"),
    ("(float[n] x) => (float[5] y, int64[5] z) { k = Constant<value_ints=[5]>() y,z = TopK(x,k) }", [(3,)], "topk(f32[n])"),
    (
        """(float[n] x, float[m] w) => (float[q] y) {
          s = Constant<value_float=0.0>()
          e,y = Scan<num_scan_inputs=2, body = b (float s, float u, float v) => (float t, float r) { t = Add(s,u) r = Add(t,v) }>(s,x,w)
        }""",
        [(3,), (2,)],
        "scan(f32[], f32[n], f32[m])",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "shapes", "node"), MISFITS, ids=[m[2] for m in MISFITS])
def test_a_run_whose_sizes_do_not_fit_names_the_node(text: str, shapes: list[tuple[int, ...]], node: str):
    model = octavo.compile(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'))
    with pytest.raises(octavo.ShapeError, match=rf"do not fit together for .*: {re.escape(node)} at onnx:"):
        model.run(None, {spec.name: np.ones(shape, np.float32) for spec, shape in zip(model.inputs, shapes, strict=True)})
