"""What exporters write out is recognised by meaning, in any order of factors, and nothing that only looks alike."""

import pytest
from octavo.ir.text import parse
from octavo.passes.manager import Fixpoint, run_passes
from octavo.passes.recognize import recognize
from octavo.passes.simplify import simplify

from .check import same_values

HEAD = "graph g(%x: f32[2,8]) -> (%y) {\n"
ERF = "%1 = div(%x, const<f32[] 1.4142135>)\n%2 = erf(%1)\n%3 = add(%2, const<f32[] 1.0>)\n"
CUBE = "%4 = mul(%3, const<f32[] 0.044715>)\n%5 = add(%x, %4)\n%6 = mul(%5, const<f32[] 0.7978846>)\n"
TANH = "%7 = tanh(%6)\n%8 = add(%7, const<f32[] 1.0>)\n%9 = mul(%x, %8)\n%y = mul(%9, const<f32[] 0.5>)"
MEAN = "%1 = reduce_sum(%x, axes=[1], keepdims=true)\n%2 = mul(%1, const<f32[] 0.125>)\n%3 = sub(%x, %2)\n"
SQUARE = "%5 = reduce_sum(%4, axes=[1], keepdims=true)\n%6 = mul(%5, const<f32[] 0.125>)\n"
ROOT = "%7 = add(%6, const<f32[] 1e-05>)\n%8 = sqrt(%7)\n"
SCALE = "const<f32[8] [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]>"

KNOWN = {
    "gelu of current PyTorch": (ERF + "%4 = mul(%x, %3)\n%y = mul(%4, const<f32[] 0.5>)", "gelu"),
    "gelu, halved first": (ERF + "%4 = mul(%x, const<f32[] 0.5>)\n%y = mul(%4, %3)", "gelu"),
    "gelu, halved within": (ERF + "%4 = mul(const<f32[] 0.5>, %3)\n%y = mul(%4, %x)", "gelu"),
    "gelu with a product": (
        "%1 = mul(%x, const<f32[] 0.70710677>)\n%2 = erf(%1)\n%3 = add(const<f32[] 1.0>, %2)\n"
        "%4 = mul(%3, %x)\n%y = div(%4, const<f32[] 2.0>)",
        "gelu",
    ),
    "gelu by tanh of a power": ("%3 = pow(%x, const<f32[] 3.0>)\n" + CUBE + TANH, "gelu"),
    "gelu by tanh of products": ("%1 = mul(%x, %x)\n%3 = mul(%x, %1)\n" + CUBE + TANH, "gelu"),
    "silu": ("%1 = sigmoid(%x)\n%y = mul(%1, %x)", "silu"),
    "silu of a written-out sigmoid": (
        "%1 = neg(%x)\n%2 = exp(%1)\n%3 = add(const<f32[] 1.0>, %2)\n%4 = div(const<f32[] 1.0>, %3)\n%y = mul(%x, %4)",
        "silu",
    ),
    "hard_swish by hard_sigmoid": (
        "%1 = hard_sigmoid(%x, alpha=0.1666666716, beta=0.5)\n%y = mul(%x, %1)",
        "hard_swish",
    ),
    "hard_swish by clip": (
        "%1 = add(%x, const<f32[] 3.0>)\n%2 = clip(%1, const<f32[] 0.0>, const<f32[] 6.0>)\n"
        "%3 = mul(%x, %2)\n%y = div(%3, const<f32[] 6.0>)",
        "hard_swish",
    ),
    "hard_swish by relu": (
        "%1 = add(%x, const<f32[] 3.0>)\n%2 = relu(%1)\n%3 = min(%2, const<f32[] 6.0>)\n"
        "%4 = div(%3, const<f32[] 6.0>)\n%y = mul(%x, %4)",
        "hard_swish",
    ),
    "layer_norm by a power": (MEAN + "%4 = pow(%3, const<f32[] 2.0>)\n" + SQUARE + ROOT + "%y = div(%3, %8)", "layer_norm"),
    "layer_norm with scale and bias": (
        MEAN + "%4 = mul(%3, %3)\n" + SQUARE + ROOT + f"%9 = div(%3, %8)\n%10 = mul({SCALE}, %9)\n%y = add(%10, {SCALE})",
        "layer_norm",
    ),
    "rms_norm": (
        "%4 = mul(%x, %x)\n" + SQUARE + ROOT + f"%9 = reciprocal(%8)\n%10 = mul(%x, %9)\n%y = mul(%10, {SCALE})",
        "rms_norm",
    ),
}


def recognized(text):
    before = parse(HEAD + text + "\n}")
    after, _ = run_passes(before, [Fixpoint((simplify,)), Fixpoint((recognize,))])
    same_values(before, after, tolerance=1e-4)
    return [n.op for n in after.nodes if n.op not in ("input", "const")]


@pytest.mark.parametrize("name", KNOWN)
def test_it_is_one_op(name):
    text, op = KNOWN[name]
    assert recognized(text) == [op]


ALIKE = {
    "gelu without a half": ERF + "%y = mul(%x, %3)",
    "gelu of something else": ERF + "%4 = exp(%x)\n%5 = mul(%4, %3)\n%y = mul(%5, const<f32[] 0.5>)",
    "gelu with another constant": ERF.replace("1.4142135", "1.414") + "%4 = mul(%x, %3)\n%y = mul(%4, const<f32[] 0.5>)",
    "silu of something else": "%1 = exp(%x)\n%2 = sigmoid(%1)\n%y = mul(%2, %x)",
    "hard_swish to five": "%1 = add(%x, const<f32[] 3.0>)\n%2 = clip(%1, const<f32[] 0.0>, const<f32[] 5.0>)\n"
    "%3 = mul(%x, %2)\n%y = div(%3, const<f32[] 6.0>)",
    "a norm by another count": "%4 = mul(%x, %x)\n" + SQUARE.replace("0.125", "0.25") + ROOT + "%y = div(%x, %8)",
    "a norm over other axes": "%4 = mul(%x, %x)\n"
    + SQUARE.replace("axes=[1]", "axes=[0]").replace("0.125", "0.5")
    + ROOT
    + "%y = div(%x, %8)",
}


@pytest.mark.parametrize("name", ALIKE)
def test_it_is_not_mistaken(name):
    assert not {"gelu", "silu", "hard_swish", "layer_norm", "rms_norm"} & set(recognized(ALIKE[name]))


def test_a_norm_that_is_read_again_keeps_its_scale_outside():
    ops = recognized("%4 = mul(%x, %x)\n" + SQUARE + ROOT + f"%9 = div(%x, %8)\n%10 = mul(%9, {SCALE})\n%y = sub(%10, %9)")
    assert ops == ["rms_norm", "mul", "sub"]
