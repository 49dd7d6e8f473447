"""Scales and offsets go into the weights and the bias of the contraction before them."""

import pytest
from octavo.ir.text import parse
from octavo.passes.absorb import absorb
from octavo.passes.fold import fold
from octavo.passes.manager import Fixpoint, run_passes

from .check import becomes, same_values, unchanged

CONV = """graph g(%x: f32[n,1,3]) -> (%y) {
  %c = conv(%x, const<f32[2,1,1] [2.0,3.0]>, strides=[1], pads=[[0,0]], dilations=[1])
"""


def test_a_batch_norm_disappears():
    becomes(
        CONV + "%m = mul(%c, const<f32[2,1] [5.0,7.0]>)\n%y = add(%m, const<f32[2,1] [1.0,2.0]>)\n}",
        absorb,
        """graph g(%x: f32[n,1,3]) -> (%y) {
          %c = conv(%x, const<f32[2,1,1] [10.0,21.0]>, strides=[1], pads=[[0,0]], dilations=[1])
          %y = add(%c, const<f32[2,1] [1.0,2.0]>)
        }""",
    )


def test_a_batch_norm_after_a_bias_goes_into_both():
    becomes(
        CONV + "%b = add(%c, const<f32[2,1] [1.0,2.0]>)\n%m = mul(%b, const<f32[2,1] [5.0,7.0]>)\n%y = add(%m, const<f32[] 0.5>)\n}",
        absorb,
        """graph g(%x: f32[n,1,3]) -> (%y) {
          %c = conv(%x, const<f32[2,1,1] [10.0,21.0]>, strides=[1], pads=[[0,0]], dilations=[1])
          %y = add(%c, const<f32[2,1] [5.5,14.5]>)
        }""",
    )


def test_a_division_is_a_scale_and_matmuls_absorb_it_too():
    becomes(
        "graph g(%x: f32[n,1]) -> (%y) {\n%c = matmul(%x, const<f32[1,2] [3.0,8.0]>)\n%y = div(%c, const<f32[2] [3.0,4.0]>)\n}",
        absorb,
        "graph g(%x: f32[n,1]) -> (%y) {\n%y = matmul(%x, const<f32[1,2] [1.0,2.0]>)\n}",
    )


KEPT = {
    "a scale along another axis": "%y = mul(%c, const<f32[3] [1.0,2.0,3.0]>)",
    "a scale that is not constant": "%y = mul(%c, %x)",
    "a contraction with another reader": "%m = mul(%c, const<f32[] 3.0>)\n%y = add(%m, %c)",
    "a sum with another reader": "%b = add(%c, const<f32[] 2.0>)\n%m = mul(%b, const<f32[] 3.0>)\n%y = sub(%m, %b)",
    "a scale that makes the result larger": "%y = mul(%c, const<f32[2,1,1,1] [1.0,2.0]>)",
    "weights that would overflow": "%y = mul(%c, const<f32[] 3e38>)",
    "division by zero": "%y = div(%c, const<f32[] 0.0>)",
}


@pytest.mark.parametrize("name", KEPT)
def test_it_leaves(name):
    unchanged(CONV + KEPT[name] + "\n}", absorb)


def test_a_chain_of_norms_goes_in_one_sweep():
    text = CONV + "%n0 = neg(%c)\n".replace("neg", "mul").replace("(%c)", "(%c, const<f32[] 2.0>)")
    for k in range(1, 9):
        text += f"%n{k} = {'add' if k % 2 else 'mul'}(%n{k - 1}, const<f32[2,1] [0.5,1.25]>)\n"
    before = parse(text.replace("%n8 =", "%y =") + "}")
    after, _ = run_passes(before, [Fixpoint((absorb, fold))])
    assert sorted(n.op for n in after.nodes) == ["add", "const", "const", "conv", "input"]
    same_values(before, after)


def test_a_scale_that_weights_are_too_narrow_for_stays():
    unchanged(
        """graph g(%x: f16[n,2]) -> (%y) {
          %p = matmul(%x, const<f16[2,2] [0.001,0.002,0.003,0.004]>)
          %y = mul(%p, const<f16[] 0.0001>)
        }""",
        absorb,
    )
