"""Identities: each test gives one before, after, and the values are compared on random feeds."""

import pytest
from octavo.ir.types import DTYPES
from octavo.passes.simplify import represents, simplify

from .check import becomes, unchanged

X = "graph g(%x: f32[2,3], %i: i32[2,3], %b: bool[2,3]) -> (%y) {\n"

TO_X = {
    "x + 0": "%y = add(%x, const<f32[] 0.0>)",
    "0 + x": "%y = add(const<f32[3] [0.0,0.0,0.0]>, %x)",
    "x - 0": "%y = sub(%x, const<f32[] 0.0>)",
    "x * 1": "%y = mul(%x, const<f32[1] [1.0]>)",
    "x / 1": "%y = div(%x, const<f32[] 1.0>)",
    "x ^ 1": "%y = pow(%x, const<f32[] 1.0>)",
    "-(-x)": "%1 = neg(%x)\n%y = neg(%1)",
    "cast to its own type": "%y = cast(%x, to=f32)",
    "there and back through a wider type": "%1 = cast(%x, to=f64)\n%y = cast(%1, to=f32)",
    "broadcast to its own shape": "%y = broadcast_to(%x, shape=[2,3])",
    "reshape to its own shape": "%y = reshape(%x, shape=[2,3])",
    "reshape there and back": "%1 = reshape(%x, shape=[6])\n%y = reshape(%1, shape=[2,3])",
    "transpose that moves nothing": "%y = transpose(%x, perm=[0,1])",
    "transpose there and back": "%1 = transpose(%x, perm=[1,0])\n%y = transpose(%1, perm=[1,0])",
    "slice of everything": "%y = slice(%x, starts=[0,0], stops=[2,3], steps=[1,1])",
    "pad of nothing": "%y = pad(%x, low=[0,0], high=[0,0])",
    "tile once": "%y = tile(%x, repeats=[1,1])",
    "concat of one": "%y = concat(%x, axis=0)",
    "concat with nothing": "%e = slice(%x, starts=[0,0], stops=[0,3], steps=[1,1])\n%y = concat(%x, %e, axis=0)",
    "a reduction over one element": "%1 = reshape(%x, shape=[2,1,3])\n%y = reduce_sum(%1, axes=[1], keepdims=false)",
    "either way the same": "%y = where(%b, %x, %x)",
    "a known choice": "%n = neg(%x)\n%y = where(const<bool[] true>, %x, %n)",
    "the part of a concatenation": "%n = neg(%x)\n%c = concat(%n, %x, %n, axis=1)\n"
    "%y = slice(%c, starts=[0,3], stops=[2,6], steps=[1,1])",
}


@pytest.mark.parametrize("name", TO_X)
def test_it_is_the_operand(name):
    becomes(X + TO_X[name] + "\n}", simplify, X.replace("%y", "%x") + "}")


CHANGES = {
    "x - c is a sum": ("%y = sub(%x, const<f32[] 2.5>)", "%y = add(%x, const<f32[] -2.5>)"),
    "constants stand on the right": ("%y = mul(const<f32[] 2.5>, %x)", "%y = mul(%x, const<f32[] 2.5>)"),
    "division by a power of two": ("%y = div(%x, const<f32[] 8.0>)", "%y = mul(%x, const<f32[] 0.125>)"),
    "x ^ 2": ("%y = pow(%x, const<f32[] 2.0>)", "%y = mul(%x, %x)"),
    "max(x, 0)": ("%y = max(%x, const<f32[] 0.0>)", "%y = relu(%x)"),
    "relu(relu(x))": ("%1 = relu(%x)\n%y = relu(%1)", "%y = relu(%x)"),
    "a + (-b)": ("%e = exp(%x)\n%n = neg(%e)\n%y = add(%x, %n)", "%e = exp(%x)\n%y = sub(%x, %e)"),
    "integer sums": (
        "%1 = add(%i, const<i32[] 2147483647>)\n%y = add(%1, const<i32[] 2>)",
        "%y = add(%i, const<i32[] -2147483647>)",
    ),
    "casts by way of a wider type": ("%1 = cast(%x, to=f64)\n%y = cast(%1, to=f16)", "%y = cast(%x, to=f16)"),
    "a broadcast that pointwise ops do themselves": (
        "%1 = broadcast_to(const<f32[] 3.0>, shape=[2,3])\n%y = add(%x, %1)",
        "%y = add(%x, const<f32[] 3.0>)",
    ),
    "reshapes merge": (
        "%1 = reshape(%x, shape=[6])\n%y = reshape(%1, shape=[3,2])",
        "%y = reshape(%x, shape=[3,2])",
    ),
    "transposes merge": (
        "%1 = reshape(%x, shape=[1,2,3])\n%2 = transpose(%1, perm=[1,2,0])\n%y = transpose(%2, perm=[1,0,2])",
        "%1 = reshape(%x, shape=[1,2,3])\n%y = transpose(%1, perm=[2,1,0])",
    ),
    "slices merge": (
        "%1 = slice(%x, starts=[0,2], stops=[2,-1], steps=[1,-1])\n%y = slice(%1, starts=[1,0], stops=[2,3], steps=[1,2])",
        "%y = slice(%x, starts=[1,2], stops=[2,-1], steps=[1,-2])",
    ),
    "concatenations merge": (
        "%n = neg(%x)\n%1 = concat(%x, %n, axis=1)\n%y = concat(%1, %x, axis=1)",
        "%n = neg(%x)\n%y = concat(%x, %n, %x, axis=1)",
    ),
    "gathering one position": (
        "%y = gather(%x, const<i64[] -1>, axis=1)",
        "%1 = slice(%x, starts=[0,2], stops=[2,3], steps=[1,1])\n%y = reshape(%1, shape=[2])",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_said_more_simply(name):
    before, after = CHANGES[name]

    def until_done(graph):
        while (better := simplify(graph)) is not graph:
            graph = better
        return graph

    becomes(X + before + "\n}", until_done, X + after + "\n}")


KEPT = {
    "division by three rounds differently": "%y = div(%x, const<f32[] 3.0>)",
    "float sums are not reassociated": "%1 = add(%x, const<f32[] 2.5>)\n%y = add(%1, const<f32[] 1e30>)",
    "a cast that loses": "%1 = cast(%x, to=f16)\n%y = cast(%1, to=f32)",
    "integers wrap, floats saturate": "%1 = cast(%i, to=f64)\n%y = cast(%1, to=u8)",
    "a broadcast that gives the shape": "%1 = reshape(%x, shape=[1,2,3])\n%y = broadcast_to(%1, shape=[4,2,3])",
    "a slice across two parts": "%n = neg(%x)\n%c = concat(%n, %x, axis=1)\n%y = slice(%c, starts=[0,2], stops=[2,4], steps=[1,1])",
}


@pytest.mark.parametrize("name", KEPT)
def test_it_stays(name):
    unchanged(X + KEPT[name] + "\n}", simplify)


def test_a_zero_pad_becomes_the_padding_of_a_convolution():
    becomes(
        """graph g(%x: f32[n,1,4,4]) -> (%y) {
          %p = pad(%x, low=[0,0,1,0], high=[0,0,2,1])
          %y = conv(%p, const<f32[1,1,2,2] [1.0,2.0,3.0,4.0]>, strides=[1,1], pads=[[0,0],[0,1]], dilations=[1,1])
        }""",
        simplify,
        """graph g(%x: f32[n,1,4,4]) -> (%y) {
          %y = conv(%x, const<f32[1,1,2,2] [1.0,2.0,3.0,4.0]>, strides=[1,1], pads=[[1,2],[0,2]], dilations=[1,1])
        }""",
    )


def test_a_pad_with_another_value_stays():
    unchanged(
        """graph g(%x: f32[n,1,4]) -> (%y) {
          %p = pad(%x, low=[0,0,1], high=[0,0,2], value=1.0)
          %y = conv(%p, const<f32[1,1,2] [1.0,2.0]>, strides=[1], pads=[[0,0]], dilations=[1])
        }""",
        simplify,
    )


@pytest.mark.parametrize(
    ("wide", "narrow", "exact"),
    [
        ("f64", "f32", True), ("f32", "f64", False), ("f32", "bf16", True), ("f16", "bf16", False), ("f64", "i32", True),
        ("f32", "i32", False), ("f32", "u8", True), ("i64", "u32", True), ("i32", "u32", False), ("u8", "bool", True),
    ],
)  # fmt: skip
def test_which_types_hold_which(wide, narrow, exact):
    assert represents(DTYPES[wide], DTYPES[narrow]) is exact
