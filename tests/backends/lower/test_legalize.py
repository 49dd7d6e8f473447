"""Contractions in the form that the templates compute."""

from __future__ import annotations

import numpy as np
import pytest
from octavo.backends.lower.legalize import legalize
from octavo.backends.target import find_target
from octavo.ir.graph import Graph
from octavo.ir.text import parse
from octavo.ir.verify import verify
from octavo.tests.passes.check import same_values

V3 = find_target("x86-64-v3")  # registers of 8 f32
V4 = find_target("x86-64-v4")  # of 16


def legal(text: str, target=V3) -> Graph:
    """The legalized graph, which computes the same."""
    before = parse(text)
    after = legalize(before, target)
    verify(after)
    same_values(before, after, tolerance=1e-4)
    return after


def shape_of(graph: Graph) -> list[str]:
    """The ops of the graph and what they give, constants and inputs too."""
    return [f"{n.op} {n.types[0]}" for n in graph.nodes]


def weights(*shape: int) -> str:
    values = np.arange(1, 1 + int(np.prod(shape))) / 8
    return f"const<f32[{','.join(map(str, shape))}] [{','.join(map(str, values.tolist()))}]>"


def test_constant_weights_of_a_matmul_are_packed_now():
    graph = legal(f"graph g(%x: f32[n,2]) -> (%y) {{\n%y = matmul(%x, {weights(2, 5)})\n}}")
    assert shape_of(graph) == ["input f32[n,2]", "const f32[1,2,8]", "unpack_panels f32[2,5]", "matmul f32[n,5]"]
    panels = graph.nodes[1].outputs[0].array
    np.testing.assert_array_equal(panels[0, 1], np.float32([6, 7, 8, 9, 10, 0, 0, 0]) / 8)


def test_other_operands_are_packed_when_they_are_known():
    graph = legal("graph g(%x: f32[n,2], %w: f32[b,2,20]) -> (%y) {\n%y = matmul(%x, %w)\n}")
    assert "pack_panels f32[b,1,2,24]" in shape_of(graph)


@pytest.mark.parametrize(
    ("columns", "target", "width"), [(5, V3, 8), (16, V3, 16), (24, V3, 24), (70, V3, 24), (5, V4, 16), (48, V4, 48), (64, V4, 64)]
)
def test_panels_are_as_wide_as_the_register_tile(columns: int, target, width: int):
    graph = legalize(parse(f"graph g(%x: f32[n,1], %w: f32[1,{columns}]) -> (%y) {{\n%y = matmul(%x, %w)\n}}"), target)
    (pack,) = (n for n in graph.nodes if n.op == "pack_panels")
    assert pack.attrs["width"] == width


CONV = "strides=[1,1], pads=[[1,0],[0,2]], dilations=[1,1]"


def test_padding_is_split_off_and_channels_come_last():
    graph = legal(f"graph g(%x: f32[n,2,4,5]) -> (%y) {{\n%y = conv(%x, {weights(3, 2, 1, 2)}, {CONV})\n}}")
    assert shape_of(graph) == [
        "input f32[n,2,4,5]",
        "transpose f32[n,4,5,2]",
        "reshape f32[n,4,10]",
        "pad f32[n,5,14]",
        "reshape f32[n,5,7,2]",
        "const f32[1,4,8]",
        "unpack_panels f32[4,3]",
        "reshape f32[1,1,2,2,3]",
        "transpose f32[1,3,2,1,2]",
        "reshape f32[3,2,1,2]",
        "conv f32[n,5,6,3]",
        "transpose f32[n,3,5,6]",
    ]
    conv = next(n for n in graph.nodes if n.op == "conv")
    assert conv.attrs["pads"] == ((0, 0), (0, 0))
    assert conv.attrs["layout"] == "channels_last"


def test_a_convolution_that_has_this_form_gets_packed_weights_only():
    graph = legal(
        f"""graph g(%x: f32[n,4,5,2]) -> (%y) {{
          %y = conv(%x, {weights(3, 2, 1, 1)}, strides=[1,1], pads=[[0,0],[0,0]], dilations=[1,1], layout="channels_last")
        }}"""
    )
    assert not {"transpose", "pad"} & {n.op for n in graph.nodes if len(n.inputs[:1]) and n.inputs[0].node.op == "input"}
    assert graph.outputs[0].node.op == "conv"


def test_groups_are_packed_one_by_one():
    graph = legal(f"graph g(%x: f32[n,4,4,5]) -> (%y) {{\n%y = conv(%x, {weights(6, 2, 1, 2)}, {CONV}, groups=2)\n}}")
    assert "const f32[2,1,4,8]" in shape_of(graph)


def test_depthwise_weights_are_taps_by_channels_and_padding_stays():
    graph = legal(f"graph g(%x: f32[n,3,4,5]) -> (%y) {{\n%y = conv(%x, {weights(3, 1, 1, 2)}, {CONV}, groups=3)\n}}")
    assert shape_of(graph) == [
        "input f32[n,3,4,5]",
        "transpose f32[n,4,5,3]",
        "const f32[1,2,3]",
        "unpack_taps f32[3,1,1,2]",
        "conv f32[n,5,6,3]",
        "transpose f32[n,3,5,6]",
    ]


def test_winograd_weights_are_packed_position_by_position_and_padding_stays():
    graph = legal(f"graph g(%x: f32[n,32,8,8]) -> (%y) {{\n%y = conv(%x, {weights(20, 32, 3, 3)}, {CONV})\n}}")
    assert shape_of(graph) == [
        "input f32[n,32,8,8]",
        "transpose f32[n,8,8,32]",
        "const f32[36,1,32,24]",
        "unpack_panels f32[36,32,20]",
        "unpack_winograd f32[20,32,3,3]",
        "conv f32[n,7,8,20]",
        "transpose f32[n,20,7,8]",
    ]


BYTES = "const<i8[3,2] [1,-2,3,-4,127,-128]>"


def test_bytes_are_packed_in_words_of_four_rows():
    graph = legal(f"graph g(%x: u8[n,3]) -> (%y) {{\n%y = matmul(%x, {BYTES})\n}}")
    assert shape_of(graph) == ["input u8[n,3]", "pad u8[n,4]", "const i32[1,1,8]", "unpack_dots i8[4,2]", "matmul i32[n,2]"]
    words = graph.nodes[2].outputs[0].array
    assert words[0, 0].view(np.int8).reshape(-1, 4)[:2].tolist() == [[1, 3, 127, 0], [-2, -4, -128, 0]]


def test_signed_activations_become_unsigned_and_the_difference_is_subtracted():
    graph = legal(f"graph g(%x: i8[b,n,3]) -> (%y) {{\n%y = matmul(%x, {BYTES})\n}}")
    assert [n.op for n in graph.nodes if n.op not in ("input", "const")] == ["bitcast", "xor", "pad", "unpack_dots", "matmul", "sub"]
    assert graph.outputs[0].node.inputs[1].array.tolist() == [[128 * (1 + 3 + 127), 128 * (-2 - 4 - 128)]]


def int8(*shape: int) -> str:
    count = int(np.prod(shape))
    return f"const<i8[{','.join(map(str, shape))}] [{','.join(str(k % 200 - 100) for k in range(count))}]>"


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize(
    ("kernel", "padded", "weights"),
    [
        ((1, 4), [1, 2, 0], "i8[2,3,1,4]"),  # four taps of three channels
        ((1, 3), [1, 3, 0], "i8[2,3,1,4]"),  # a tap of zeros is no more than a channel of them
        ((2, 1), [1, 2, 1], "i8[2,4,2,1]"),
    ],
)
def test_one_pad_makes_rows_of_a_multiple_of_four_bytes(
    kernel: tuple[int, int], padded: list[int], weights: str, dtype: str, layout: str
):
    shape = "[n,3,4,5]" if layout == "channels_first" else "[n,4,5,3]"
    graph = legal(f'graph g(%x: {dtype}{shape}) -> (%y) {{\n%y = conv(%x, {int8(2, 3, *kernel)}, {CONV}, layout="{layout}")\n}}')
    (pad,) = (n for n in graph.nodes if n.op == "pad")
    assert pad.attrs["value"] == (128 if dtype == "i8" else 0)
    before, after = (v.shape for v in (pad.inputs[0], pad.outputs[0]))
    assert [a - b for a, b in zip(after, before, strict=True)][1:] in (
        padded,
        [padded[2], *padded[:2]],  # channels first
        [padded[0], padded[1] * 3],  # three channels a column, where they are not padded themselves
    )
    assert [str(n.types[0]) for n in graph.nodes if n.op == "reshape"][-1] == weights


def test_short_rows_are_padded_as_one_with_their_channels():
    graph = legal(f'graph g(%x: f32[n,4,5,3]) -> (%y) {{\n%y = conv(%x, {weights(2, 3, 1, 2)}, {CONV}, layout="channels_last")\n}}')
    assert shape_of(graph)[1:4] == ["reshape f32[n,4,15]", "pad f32[n,5,21]", "reshape f32[n,5,7,3]"]


def test_depthwise_weights_of_bytes_are_words_where_one_instruction_multiplies_them():
    text = f"graph g(%x: u8[n,3,4,5]) -> (%y) {{\n%y = conv(%x, {int8(3, 1, 1, 2)}, {CONV}, groups=3)\n}}"
    vnni = shape_of(legal(text, find_target("x86-64-v3-vnni")))  # whose vectors have room for more than three channels
    assert vnni[2:5] == ["const i32[1,2,3]", "unpack_taps i32[3,1,1,2]", "cast i8[3,1,1,2]"]
    masked = shape_of(legal(text, find_target("x86-64-v4-vnni")))
    assert masked[2:4] == ["const i32[1,1,3,3]", "unpack_windows i8[3,1,1,2]"]
    assert shape_of(legal(text))[2:4] == ["const i8[1,2,3]", "unpack_taps i8[3,1,1,2]"]


@pytest.mark.parametrize(
    ("activations", "weights", "target"),
    [("u8", "%w", V3), ("u8", f"cast({BYTES}, to=u8)", V3), ("u8", BYTES, find_target("sm_80")), ("i32", f"cast({BYTES}, to=i32)", V3)],
)
def test_other_integers_are_multiplied_one_by_one(activations: str, weights: str, target):
    constant = weights if weights.startswith("const") else "%w" if weights == "%w" else "%c"
    first = f"%c = {weights}\n" if constant == "%c" else ""
    graph = legal(f"graph g(%x: {activations}[n,3], %w: i8[3,2]) -> (%y, %w) {{\n{first}%y = matmul(%x, {constant})\n}}", target)
    assert "unpack_dots" not in {n.op for n in graph.nodes}


def test_channels_of_groups_that_four_does_not_divide_are_multiplied_one_by_one():
    graph = legal(f"graph g(%x: u8[n,4,4,5]) -> (%y) {{\n%y = conv(%x, {int8(6, 2, 1, 2)}, {CONV}, groups=2)\n}}")
    assert "unpack_dots" not in {n.op for n in graph.nodes}


def test_a_channel_multiplier_makes_groups_of_it():
    graph = legal(f"graph g(%x: f32[n,3,4,5]) -> (%y) {{\n%y = conv(%x, {weights(6, 1, 1, 2)}, {CONV}, groups=3)\n}}")
    assert "unpack_panels f32[3,2,2]" in shape_of(graph)


def test_bodies_of_control_flow_are_legalized():
    graph = legal(
        f"""graph g(%c: bool[], %x: f32[2,2]) -> (%y) {{
          %y = if_(%c, %x, then=graph yes(%v: f32[2,2]) -> (%r) {{
            %r = matmul(%v, {weights(2, 2)})
          }}, otherwise=graph no(%v: f32[2,2]) -> (%r) {{
            %r = neg(%v)
          }})
        }}"""
    )
    branch = graph.outputs[0].node
    assert [n.op for n in branch.attrs["then"].nodes] == ["input", "const", "unpack_panels", "matmul"]


def test_a_graph_without_contractions_is_returned_as_it_is():
    graph = parse("graph g(%x: f32[n]) -> (%y) {\n%y = neg(%x)\n}")
    assert legalize(graph, V3) is graph
