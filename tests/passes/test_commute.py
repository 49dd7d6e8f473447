"""Quantize and dequantize move through ops that only move elements until they meet; values never change."""

import pytest
from octavo.passes.commute import commute
from octavo.passes.cse import cse
from octavo.passes.manager import Fixpoint, run_passes

from .check import becomes, unchanged

S, Z = "const<f32[] 0.25>", "const<u8[] 3>"


def graph(*lines: str, result: str = "y", inputs: str = "%x: f32[2,4,6]") -> str:
    body = "\n".join(line.replace("S, Z", f"{S}, {Z}") for line in lines)
    return f"graph g({inputs}) -> (%{result}) {{\n{body}\n}}"


UPWARDS = {
    "reshape": ("reshape(%x, shape=[8,6])", "reshape(%q, shape=[8,6])"),
    "transpose": ("transpose(%x, perm=[1,0,2])", "transpose(%q, perm=[1,0,2])"),
    "slice": (
        "slice(%x, starts=[0,1,0], stops=[2,3,6], steps=[1,1,2])",
        "slice(%q, starts=[0,1,0], stops=[2,3,6], steps=[1,1,2])",
    ),
    "pad": (
        'pad(%x, low=[0,1,0], high=[0,0,2], mode="constant", value=0.5)',
        'pad(%q, low=[0,1,0], high=[0,0,2], mode="constant", value=5.0)',
    ),
    "the windows of a pool": (
        "window(%x, axes=[2], kernel=[3], strides=[1], dilations=[1], low=[1], high=[1], fill=-inf)",
        "window(%q, axes=[2], kernel=[3], strides=[1], dilations=[1], low=[1], high=[1], fill=0.0)",
    ),
    "a maximum": ("reduce_max(%x, axes=[1], keepdims=true)", "reduce_max(%q, axes=[1], keepdims=true)"),
    "a lookup": ("gather(%x, const<i64[2] [1,0]>, axis=1)", "gather(%q, const<i64[2] [1,0]>, axis=1)"),
}


@pytest.mark.parametrize("name", UPWARDS)
def test_quantize_moves_up_through(name):
    real, integers = UPWARDS[name]
    becomes(
        graph(f"%v = {real}", "%y = quantize(%v, S, Z, to=u8)"),
        commute,
        graph("%q = quantize(%x, S, Z, to=u8)", f"%y = {integers}"),
    )


def test_every_part_of_a_concatenation_is_quantized():
    constants = ("%s = const(value=const<f32[] 0.25>)", "%z = const(value=const<u8[] 3>)")
    becomes(
        graph("%a = neg(%x)", "%v = concat(%a, %x, axis=1)", *constants, "%y = quantize(%v, %s, %z, to=u8)"),
        commute,
        graph(
            "%a = neg(%x)",
            *constants,
            "%p = quantize(%a, %s, %z, to=u8)",
            "%q = quantize(%x, %s, %z, to=u8)",
            "%y = concat(%p, %q, axis=1)",
        ),
    )


@pytest.mark.parametrize(
    "limit", ["relu(%x)", "clip(%x, const<f32[] 0.0>, const<f32[] 63.75>)", "clip(%x, const<f32[] 0.0>, const<f32[] inf>)"]
)
def test_the_range_of_the_integers_limits_as_an_activation_does(limit):
    becomes(
        graph(f"%v = {limit}", "%y = quantize(%v, const<f32[] 0.25>, const<u8[] 0>, to=u8)"),
        commute,
        graph("%y = quantize(%x, const<f32[] 0.25>, const<u8[] 0>, to=u8)"),
    )


KEPT = {
    "an activation that cuts off more than the range": ("%v = relu(%x)", "%y = quantize(%v, S, Z, to=u8)"),
    "an activation with another reader": (
        "%v = relu(%x)",
        "%q = quantize(%v, const<f32[] 0.25>, const<u8[] 0>, to=u8)",
        "%c = cast(%q, to=f32)",
        "%y = add(%c, %v)",
    ),
    "a minimum, which may be NaN among numbers": ("%v = reduce_min(%x, axes=[1], keepdims=true)", "%y = quantize(%v, S, Z, to=u8)"),
    "a sum": ("%v = add(%x, %x)", "%y = quantize(%v, S, Z, to=u8)"),
    "a scale for each channel": (
        "%v = reshape(%x, shape=[2,4,3,2])",
        "%y = quantize(%v, const<f32[2] [0.25,0.5]>, const<u8[] 3>, to=u8)",
    ),
    "a scale below zero": ("%v = reshape(%x, shape=[8,6])", "%y = quantize(%v, const<f32[] -0.25>, const<u8[] 3>, to=u8)"),
    "an 8-bit float, which has a sign": ("%v = relu(%x)", "%y = quantize(%v, const<f32[] 0.25>, const<f8e4m3[] 0.0>, to=f8e4m3)"),
    "a subnormal scale": ("%v = reshape(%x, shape=[8,6])", "%y = quantize(%v, const<f32[] 1e-40>, const<u8[] 3>, to=u8)"),
    "another scale": (
        "%q = quantize(%x, S, Z, to=u8)",
        "%v = dequantize(%q, const<f32[] 0.5>, const<u8[] 3>)",
        "%y = quantize(%v, S, Z, to=u8)",
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_it_leaves(name):
    unchanged(graph(*KEPT[name]), commute)


DOWNWARDS = {
    "transpose": ("transpose(%d, perm=[1,0])", "transpose(%x, perm=[1,0])"),
    "pad": ('pad(%d, low=[0,1], high=[0,2], mode="constant", value=0.0)', 'pad(%x, low=[0,1], high=[0,2], mode="constant", value=3.0)'),
    "a maximum": ("reduce_max(%d, axes=[1], keepdims=false)", "reduce_max(%x, axes=[1], keepdims=false)"),
}


@pytest.mark.parametrize("name", DOWNWARDS)
def test_dequantize_moves_down_through(name):
    real, integers = DOWNWARDS[name]
    becomes(
        graph("%d = dequantize(%x, S, Z)", f"%y = {real}", inputs="%x: u8[2,4]"),
        commute,
        graph(f"%q = {integers}", "%y = dequantize(%q, S, Z)", inputs="%x: u8[2,4]"),
    )


def test_dequantize_stays_before_a_pad_with_something_else_than_zero():
    text = graph(
        "%d = dequantize(%x, S, Z)",
        '%y = pad(%d, low=[0,1], high=[0,2], mode="constant", value=0.1)',
        inputs="%x: u8[2,4]",
    )
    unchanged(text, commute)


@pytest.mark.parametrize("op", ["reduce_max", "reduce_min"])
@pytest.mark.parametrize("size", ["0", "n"])
def test_dequantize_stays_before_a_maximum_of_perhaps_no_elements(op, size):
    unchanged(graph("%d = dequantize(%x, S, Z)", f"%y = {op}(%d, axes=[1], keepdims=false)", inputs=f"%x: u8[2,{size}]"), commute)


LOST = {
    "a scale that overflows": ("u8", "const<f32[] 3e38>", "const<u8[] 3>"),
    "integers of which f32 has not all": ("i32", "const<f32[] 0.25>", "const<i32[] 0>"),
}


@pytest.mark.parametrize("name", LOST)
def test_quantize_stays_after_a_dequantize_that_loses_integers(name):
    dtype, scale, zero = LOST[name]
    lines = (f"%d = dequantize(%x, {scale}, {zero})", f"%y = quantize(%d, {scale}, {zero}, to={dtype})")
    unchanged(graph(*lines, inputs=f"%x: {dtype}[2,4]"), commute)


def test_between_two_quantizations_with_one_scale_a_pool_is_one_of_bytes():
    before = graph(
        "%d = dequantize(%x, S, Z)",
        "%w = window(%d, axes=[1], kernel=[3], strides=[2], dilations=[1], low=[1], high=[1], fill=-inf)",
        "%m = reduce_max(%w, axes=[2], keepdims=false)",
        "%y = quantize(%m, S, Z, to=u8)",
        inputs="%x: u8[2,4]",
    )
    after = graph(
        "%w = window(%x, axes=[1], kernel=[3], strides=[2], dilations=[1], low=[1], high=[1], fill=0.0)",
        "%y = reduce_max(%w, axes=[2], keepdims=false)",
        inputs="%x: u8[2,4]",
    )
    becomes(before, lambda g: run_passes(g, [Fixpoint((cse, commute))])[0], after)


def test_signed_activations_become_unsigned_ones():
    becomes(
        graph("%q = quantize(%x, const<f32[] 0.25>, const<i8[] -7>, to=i8)", "%y = dequantize(%q, const<f32[] 0.5>, const<i8[] -6>)"),
        commute,
        graph("%q = quantize(%x, const<f32[] 0.25>, const<u8[] 121>, to=u8)", "%y = dequantize(%q, const<f32[] 0.5>, const<u8[] 122>)"),
    )


def test_signed_bytes_that_leave_the_graph_stay_signed():
    before = graph("%y = quantize(%x, const<f32[] 0.01>, const<i8[] -7>, to=i8)")
    after = graph(
        "%q = quantize(%x, const<f32[] 0.01>, const<u8[] 121>, to=u8)",
        "%f = xor(%q, const<u8[] 128>)",
        "%y = bitcast(%f, to=i8)",
    )
    becomes(before, commute, after)
