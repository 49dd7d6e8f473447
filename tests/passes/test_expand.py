"""Composites become primitives, each at the place of the node that it replaces."""

from octavo.ir.ops.registry import OPS
from octavo.ir.text import parse
from octavo.passes.expand import expand

from .check import same_values, unchanged

SOFTMAX = """graph g(%x: f32[n,3]) -> (%2) {
  %1 = softmax(%x, axis=1)  ; first
  %2 = log_sum_exp(%1, axes=[1], keepdims=true)  ; second
}"""


def test_a_composite_becomes_primitives_that_compute_the_same():
    before = parse(SOFTMAX)
    after = expand(before)
    assert {OPS[n.op].kind for n in after.nodes} <= {"leaf", "pointwise", "reduction", "index"}
    same_values(before, after)


def test_every_primitive_keeps_the_loc_of_its_composite():
    assert {n.loc for n in expand(parse(SOFTMAX)).nodes if n.op != "input"} == {"first", "second"}


def test_what_is_to_be_kept_stays_whole():
    ops = [n.op for n in expand(parse(SOFTMAX), keep=frozenset({"softmax"})).nodes]
    assert "softmax" in ops
    assert "log_sum_exp" not in ops


def test_primitives_stay():
    unchanged("graph g(%x: f32[3]) -> (%1) {\n%1 = exp(%x)\n}", expand)


def test_attributes_that_only_compare_equal_expand_apart():
    graph = parse("""graph g(%x: f32[1,3]) -> (%a, %b) {
      %a = layer_norm(%x, const<f32[] 1.0>, axis=1, epsilon=0.0)
      %b = layer_norm(%x, const<f32[] 1.0>, axis=1, epsilon=1.0)
    }""")
    same_values(graph, expand(graph))
