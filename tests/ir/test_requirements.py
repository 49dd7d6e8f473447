"""Sizes that only the run tells must fit together: every condition is found, and a run that breaks one is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import octavo
import onnx.parser
import pytest
from octavo.ir.evaluate import evaluate
from octavo.ir.requirements import requirements
from octavo.ir.text import parse


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


def test_sizes_by_which_others_are_divided_are_positive():
    assert zeros("graph g(%x: f32[n], %y: f32[m]) -> (%z, %y) {\n%z = reshape(%x, shape=[m,n//m])\n}")[0] == "max(-m+1,0)"


def test_sizes_that_may_be_negative_are_found():
    assert zeros("graph g(%x: f32[n]) -> (%z) {\n%z = iota(shape=[(n-9)//2], axis=0, dtype=f32)\n}") == ["max(-((n-9)//(2)),0)"]


def test_composites_are_seen_through():
    (where,) = requirements(parse("graph g(%x: f32[n,8], %y: f32[k]) -> (%z) {\n%z = rms_norm(%x, %y, axis=1)\n}")).values()
    assert where == "mul(f32[n,8], f32[k])"


def test_a_branch_needs_nothing_before_it_is_taken():
    assert not zeros(BRANCH)


def test_sizes_that_the_run_defines_are_left_to_it():
    assert not zeros(
        """graph g(%x: f32[n]) -> (%z) {
          %p = nonzero(%x)
          %b = bind_size(%p, %p#1, axis=1, symbol="found")
          %z = reshape(%b, shape=[2,3])
        }"""
    )


BRANCH = """graph g(%c: bool[], %x: f32[n], %y: f32[m]) -> (%z) {
  %z = if_(%c, %x, %y, then=graph yes(%a: f32[n], %b: f32[m]) -> (%r) {
    %s = add(%a, %b)
    %r = reduce_sum(%s, axes=[0])
  }, otherwise=graph no(%a: f32[n], %b: f32[m]) -> (%r) {
    %r = reduce_sum(%a, axes=[0])
  })
}"""
FOUND = """graph g(%x: f32[n], %y: f32[m]) -> (%z, %b) {
  %p = nonzero(%x)
  %b = bind_size(%p, %p#1, axis=1, symbol="found")
  %f = cast(%b, to=f32)
"""


def misfit(text: str, node: str, *arrays: np.ndarray) -> None:
    with pytest.raises(octavo.ShapeError, match=rf"sizes do not fit together in model 'g': {re.escape(node)} needs other ones"):
        octavo.compile(parse(text)).executable.run(arrays)


def agrees(text: str, *arrays: np.ndarray) -> None:
    graph = parse(text)
    expected = evaluate(graph, dict(zip(graph.input_names, arrays, strict=True)))
    for actual, e in zip(octavo.compile(graph).executable.run(arrays), expected, strict=True):
        np.testing.assert_array_equal(actual, e)


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_a_branch_checks_its_sizes_when_it_is_taken():
    misfit(BRANCH, "add(f32[n], f32[m])", np.array(True), ones(3), ones(2))
    agrees(BRANCH, np.array(False), ones(3), ones(2))
    agrees(BRANCH, np.array(True), ones(3), ones(3))


DEFINED = [
    ("%z = add(%f, %y)", "add(f32[1,found], f32[m])", 3, 2),
    ("%z = reshape(%b, shape=[m])", "reshape(i64[1,found])", 3, 2),
    ("%r = reshape(%b, shape=[found])\n%z = gather(%y, %r, axis=0)", "gather(f32[m], i64[found])", 3, 0),
    ("%z = slice(%y, starts=[found], stops=[m], steps=[1])", "slice(f32[m])", 3, 2),
    ("%z = reshape(%x, shape=[found,n//found])", "reshape(f32[n])", 0, 2),
    ('%z = pad(%f, low=[0,m], high=[0,0], mode="edge")', "pad(f32[1,found])", 0, 2),
]


@pytest.mark.parametrize(("line", "node", "found", "m"), DEFINED, ids=[d[1] for d in DEFINED])
def test_the_code_checks_sizes_that_it_has_found_out(line: str, node: str, found: int, m: int):
    misfit(FOUND + line + "\n}", node, np.repeat(np.float32([1, 0]), [found, 4]), ones(m))


def test_checks_survive_in_an_artifact(tmp_path: Path):
    octavo.compile(parse(FOUND + DEFINED[0][0] + "\n}")).save(tmp_path / "g.octavo")
    model = octavo.load(tmp_path / "g.octavo")
    assert model.executable.run([ones(2), ones(2)])[0].tolist() == [[1, 2]]
    with pytest.raises(octavo.ShapeError, match=r"add\(f32\[1,found\], f32\[m\]\) needs other ones"):
        model.executable.run([ones(3), ones(2)])


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
    ("(float[n] x) => (float[q] y) { s = Constant<value_ints=[3,3]>() y = Pad<mode=\"reflect\">(x,s) }", [(0,)], "pad(f32[n])"),
    ("(float[n] x) => (float[5] y, int64[5] z) { k = Constant<value_ints=[5]>() y,z = TopK(x,k) }", [(3,)], "topk(f32[n])"),
    ("(float[n,k] x, int64[m,j] w) => (float[p,q] y) { y = GatherElements<axis=1>(x,w) }", [(2, 3), (3, 2)], "gather_elements(f32[n,k], i64[m,j])"),
    ("(float[n,k] x, int64[m,j,1] w) => (float[p,q] y) { y = GatherND<batch_dims=1>(x,w) }", [(1, 3), (2, 2, 1)], "gather_nd(f32[n,k], i64[m,j,1])"),
    ("(float[n] x, int64[m] i, float[k] w) => (float[n] y) { y = ScatterElements(x,i,w) }", [(5,), (3,), (2,)], "scatter_elements(f32[n], i64[m], f32[k])"),
    ("(float[n,k] x, int64[m,j] i, float[m,j] w) => (float[n,k] y) { y = ScatterElements<axis=1>(x,i,w) }", [(2, 5), (3, 2), (3, 2)], "scatter_elements(f32[n,k], i64[m,j], f32[m,j])"),
    ("(float[n] x, int64[m,1] i, float[k] w) => (float[n] y) { y = ScatterND(x,i,w) }", [(5,), (3, 1), (2,)], "scatter_nd(f32[n], i64[m,1], f32[k])"),
    ("(float[n] x, bool[m] c) => (float[k] y) { y = Compress<axis=0>(x,c) }", [(2,), (3,)], "compress(f32[n], bool[m])"),
    ("(float[1,n,4] x, float[1,1,m] s) => (int64[k,3] y) { o = Constant<value_int=9>() y = NonMaxSuppression(x,s,o) }", [(1, 2, 4), (1, 1, 3)], "nms("),
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
    with pytest.raises(octavo.ShapeError, match=rf"do not fit together for .*: {re.escape(node)}.* at onnx:"):
        model.run(
            None, {spec.name: np.ones(shape, spec.np) for spec, shape in zip(model.executable.signature.inputs, shapes, strict=True)}
        )
