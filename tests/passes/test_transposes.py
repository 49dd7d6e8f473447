"""Transposes sink through what lets them through, merge, cancel, and stop where they must."""

import pytest
from octavo.ir.text import parse
from octavo.passes.manager import Fixpoint, run_passes
from octavo.passes.simplify import simplify
from octavo.passes.transposes import sink_transposes, transposes_to_reshapes

from .check import becomes, same_values

HEAD = """graph g(%x: f32[n,4,5,3], %s: f32[n,3,1,1]) -> (%y) {
  %t = transpose(%x, perm=[0,3,1,2])
"""

BACK = "%y = transpose(%r, perm=[0,2,3,1])\n}"

CANCEL = {
    "a pointwise chain": "%a = exp(%t)\n%b = mul(%a, const<f32[] 2.0>)\n%r = relu(%b)",
    "a residual": "%a = exp(%t)\n%r = add(%t, %a)",
    "per-channel constants": "%a = mul(%t, const<f32[3,1,1] [1.0,2.0,3.0]>)\n%r = add(const<f32[1,3,1,1] [4.0,5.0,6.0]>, %a)",
    "a gate of one value per channel": "%r = mul(%t, %s)",
    "a concatenation": "%e = exp(%t)\n%r = concat(%t, %e, %t, axis=1)",
    "a slice": "%r = slice(%t, starts=[0,2,0,1], stops=[n,-1,4,3], steps=[1,-1,2,1])",
    "a pad": "%r = pad(%t, low=[0,1,0,2], high=[0,0,3,0], value=7.0)",
    "a kept reduction": "%m = reduce_max(%t, axes=[2,3], keepdims=true)\n%r = sub(%t, %m)",
    "a pool": "%w = window(%t, axes=[2,3], kernel=[2,2], strides=[1,2], dilations=[1,1], low=[0,1], high=[1,0], fill=-inf)\n"
    "%r = reduce_max(%w, axes=[4,5], keepdims=false)",
    "a resize by gathering": "%r = gather(%t, const<i64[6] [0,0,1,1,2,2]>, axis=2)",
    "an upsampling by whole factors": "%r = repeat(%t, repeats=[1,1,2,3])",
    "an upsampling by reshapes": "%a = reshape(%t, shape=[n,3,4,1,5,1])\n%b = broadcast_to(%a, shape=[n,3,4,2,5,2])\n"
    "%r = reshape(%b, shape=[n,3,8,10])",
    "a reshape and back": "%a = reshape(%t, shape=[n,3,20])\n%b = exp(%a)\n%r = reshape(%b, shape=[n,3,4,5])",
    "a softmax over channels, which lie together without it": "%r = softmax(%t, axis=1)",
    "a broadcast over a new axis": "%a = broadcast_to(%t, shape=[2,n,3,4,5])\n%r = reduce_sum(%a, axes=[0], keepdims=false)",
}


@pytest.mark.parametrize("name", CANCEL)
def test_it_cancels_across(name):
    before = parse(HEAD + CANCEL[name] + "\n" + BACK)
    after, _ = run_passes(before, [Fixpoint((sink_transposes, simplify))])
    assert "transpose" not in {n.op for n in after.nodes}
    same_values(before, after)


def test_flattening_after_a_global_pool_needs_no_transpose():
    before = parse(HEAD + "%p = reduce_max(%t, axes=[2,3], keepdims=true)\n%y = reshape(%p, shape=[n,3])\n}")
    after, _ = run_passes(before, [Fixpoint((sink_transposes, simplify))])
    assert [n.op for n in after.nodes][-2:] == ["reduce_max", "reshape"]
    same_values(before, after)


def test_depth_to_space_between_convolutions_moves_elements_once():
    before = parse("""graph g(%x: f32[n,4,5,12]) -> (%y) {
      %t = transpose(%x, perm=[0,3,1,2])
      %d = reshape(%t, shape=[n,3,2,2,4,5])
      %e = transpose(%d, perm=[0,1,4,2,5,3])
      %r = reshape(%e, shape=[n,3,8,10])
      %s = relu(%r)
      %y = transpose(%s, perm=[0,2,3,1])
    }""")
    after, _ = run_passes(before, [Fixpoint((sink_transposes, simplify))])
    assert [n.op for n in after.nodes] == ["input", "reshape", "transpose", "reshape", "relu"]
    same_values(before, after)


def test_symbolic_sizes_that_only_the_run_knows_to_be_equal_do_not_stop_it():
    before = parse("""graph g(%x: f32[n,a,b,3], %z: f32[n,c,d,3]) -> (%y) {
      %s = transpose(%x, perm=[0,3,1,2])
      %t = transpose(%z, perm=[0,3,1,2])
      %r = add(%s, %t)
      %y = transpose(%r, perm=[0,2,3,1])
    }""")
    after, _ = run_passes(before, [Fixpoint((sink_transposes, simplify))])
    assert [n.op for n in after.nodes] == ["input", "input", "add"]
    same_values(before, after, sizes={"n": 2, "a": 4, "b": 5, "c": 4, "d": 5})


def test_dropped_axes_leave_the_permutation_of_the_rest():
    becomes(
        "graph g(%x: f32[2,3,4]) -> (%y) {\n%t = transpose(%x, perm=[2,0,1])\n%y = reduce_sum(%t, axes=[1], keepdims=false)\n}",
        sink_transposes,
        "graph g(%x: f32[2,3,4]) -> (%y) {\n%r = reduce_sum(%x, axes=[0], keepdims=false)\n%y = transpose(%r, perm=[1,0])\n}",
    )


STOPS = {
    "another operand in the given order": "%e = exp(%z)\n%y = add(%t, %e)",
    "differently transposed operands": "%u = transpose(%z, perm=[1,2,0])\n%y = add(%t, %u)",
    "a contraction": "%y = matmul(%t, %z)",
    "a reshape that tears axes apart": "%y = reshape(%t, shape=[9,3])",
    "a softmax whose rows it makes contiguous": "%y = softmax(%t, axis=2)",
    "a norm over axes that it moves": "%y = layer_norm(%t, const<f32[3] [1.0,2.0,3.0]>, axis=2)",
    "a small operand of a large result": "%m = slice(%t, starts=[0,0,0], stops=[1,3,3], steps=[1,1,1])\n%y = add(%m, %z)",
}


@pytest.mark.parametrize("name", STOPS)
def test_it_stops_at(name):
    before = parse(f"graph g(%x: f32[3,3,3], %z: f32[3,3,3]) -> (%y) {{\n%t = transpose(%x, perm=[2,0,1])\n{STOPS[name]}\n}}")
    after, _ = run_passes(before, [Fixpoint((sink_transposes, simplify))])
    assert after.outputs[0].node.op == before.outputs[0].node.op
    same_values(before, after)


def test_moving_axes_of_size_one_is_a_view():
    becomes(
        "graph g(%x: f32[n,1,4]) -> (%y) {\n%y = transpose(%x, perm=[1,0,2])\n}",
        transposes_to_reshapes,
        "graph g(%x: f32[n,1,4]) -> (%y) {\n%y = reshape(%x, shape=[1,n,4])\n}",
    )
