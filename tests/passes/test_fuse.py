"""Fusion: which ops share a kernel, and why others do not."""

from __future__ import annotations

import pytest
from octavo.ir.graph import Graph
from octavo.ir.text import parse, to_text
from octavo.ir.verify import verify
from octavo.passes.fuse import LIMIT, fuse

from .check import becomes, same_values


def kernels(text: str) -> list[str]:
    """What fusion makes of a graph: "kind: ops" for each kernel and the names of ops outside, in order; values stay the same."""
    before = parse(text)
    after = fuse(before)
    verify(after)
    same_values(before, after)
    return described(after)


def described(graph: Graph) -> list[str]:
    found = []
    for node in graph.nodes:
        if node.op == "kernel":
            body = node.attrs["body"]
            found.append(f"{body.name}: {' '.join(n.op for n in body.nodes if n.op not in ('input', 'const'))}")
        elif node.op not in ("input", "const"):
            found.append(node.op)
    return found


def graph(inputs: str, lines: str, outputs: str = "%y") -> str:
    """Text of a graph from its inputs (", " between), its statements ("; " between) and its outputs."""
    typed = ", ".join(f"%{i}" for i in inputs.split(", "))
    return f"graph g({typed}) -> ({outputs}) {{\n" + "\n".join(f"  {line}" for line in lines.split("; ")) + "\n}"


def test_a_kernel_is_a_node_that_holds_its_body():
    becomes(
        graph("x: f32[n,4], b: f32[4]", "%s = add(%x, %b); %d = mul(%s, const<f32[1] [2.0]>); %y = relu(%d)"),
        fuse,
        """graph g(%x: f32[n,4], %b: f32[4]) -> (%y) {
          %y = kernel(%x, %b, body=graph map(%x0: f32[n,4], %x1: f32[4]) -> (%3) {
            %1 = add(%x0, %x1)
            %2 = mul(%1, const<f32[1] [2.0]>)
            %3 = relu(%2)
          }) : f32[n,4]
        }""",
    )


def test_a_large_constant_is_an_operand_and_is_not_repeated():
    fused = fuse(parse(graph("x: f32[n,2]", "%c = add(%x, const<f32[2] [1.0,2.0]>); %y = mul(%c, %c)")))
    (kernel,) = (n for n in fused.nodes if n.op == "kernel")
    assert [v.node.op for v in kernel.inputs] == ["input", "const"]


# --- groups of pointwise and index ops ----------------------------------------------------------------------------------------

POINTWISE = {
    "a value with two readers in one kernel is computed once": (
        graph("x: f32[n]", "%a = exp(%x); %b = neg(%a); %y = mul(%a, %b)"),
        ["map: exp neg mul"],
    ),
    "a value that two kernels read is stored": (
        graph("x: f32[n]", "%a = exp(%x); %y = neg(%a); %z = relu(%a)", "%y, %z"),
        ["map: exp", "map: neg", "map: relu"],
    ),
    "an output is stored": (
        graph("x: f32[n]", "%a = exp(%x); %y = neg(%a)", "%a, %y"),
        ["map: exp", "map: neg"],
    ),
    "index ops join": (
        graph("x: f32[n,4]", "%t = transpose(%x, perm=[1,0]); %s = slice(%t, starts=[1,0], stops=[3,n], steps=[1,1]); %y = neg(%s)"),
        ["map: transpose slice neg"],
    ),
    "cheap arithmetic is repeated along a broadcast": (
        graph("x: f32[n,1], z: f32[n,4]", "%a = neg(%x); %y = add(%a, %z)"),
        ["map: neg add"],
    ),
    "costly arithmetic is not": (
        graph("x: f32[n,1], z: f32[n,4]", "%a = exp(%x); %y = add(%a, %z)"),
        ["map: exp", "map: add"],
    ),
    "nothing is computed again at each read of a gather": (
        graph("x: f32[4,3], i: i64[n]", "%a = neg(%x); %y = gather(%a, %i, axis=0)"),
        ["map: neg", "map: gather"],
    ),
    "but what a gather gathers may be gathered further": (
        graph("x: f32[4,3], i: i64[n]", "%t = transpose(%x, perm=[1,0]); %y = gather(%t, %i, axis=1)"),
        ["map: transpose gather"],
    ),
    "a concat is the root of its kernel, which takes in its operands": (
        graph("x: f32[n,2], z: f32[n,3]", "%a = neg(%x); %c = concat(%a, %z, axis=1); %y = relu(%c)"),
        ["map: neg concat", "map: relu"],
    ),
}

VIEWS = {
    "a reshape is a view": (graph("x: f32[n,4]", "%y = reshape(%x, shape=[4*n])"), ["reshape"]),
    "and parts two kernels": (
        graph("x: f32[n,4]", "%a = exp(%x); %r = reshape(%a, shape=[4*n]); %y = neg(%r)"),
        ["map: exp", "reshape", "map: neg"],
    ),
    "unless it moves ones only": (
        graph("x: f32[n,4]", "%a = exp(%x); %r = reshape(%a, shape=[n,1,4]); %y = neg(%r)"),
        ["map: exp reshape neg"],
    ),
    "an output that is a view is stored by the kernel before it": (
        graph("x: f32[n,4]", "%a = exp(%x); %y = reshape(%a, shape=[n,1,4])"),
        ["map: exp", "reshape"],
    ),
}

# --- rows -------------------------------------------------------------------------------------------------------------------

ROWS = {
    "a row takes in what is computed over its full shape": (
        graph("x: f32[n,4], z: f32[n,4]", "%a = mul(%x, %z); %y = reduce_sum(%a, axes=[1], keepdims=false)"),
        ["row: mul reduce_sum"],
    ),
    "not what is smaller": (
        graph("x: f32[n,1], z: f32[n,4]", "%a = neg(%x); %b = mul(%a, %z); %y = reduce_sum(%b, axes=[1], keepdims=false)"),
        ["map: neg", "row: mul reduce_sum"],
    ),
    "it takes in the pointwise chain over its result": (
        graph("x: f32[n,4]", "%s = reduce_sum(%x, axes=[1], keepdims=true); %a = sqrt(%s); %y = neg(%a)"),
        ["row: reduce_sum sqrt neg"],
    ),
    "not where the result spreads": (
        graph("x: f32[n,4]", "%s = reduce_sum(%x, axes=[1], keepdims=true); %y = sub(%x, %s)"),
        ["row: reduce_sum", "map: sub"],
    ),
    "a softmax is one row, expanded": (
        graph("x: f32[n,4]", "%a = mul(%x, const<f32[] 2.0>); %s = softmax(%a, axis=1); %y = neg(%s)"),
        ["row: mul reduce_max sub exp reduce_sum reciprocal mul neg"],
    ),
    "the scale of a norm is read, not computed, by its row": (
        graph("x: f32[n,4], s: f32[4], b: f32[4]", "%a = neg(%s); %y = layer_norm(%x, %a, %b, axis=1, epsilon=1e-5)"),
        None,
    ),
    "unless it has the row's full shape": (
        graph("x: f32[4], s: f32[4], b: f32[4]", "%a = neg(%s); %y = layer_norm(%x, %a, %b, axis=0, epsilon=1e-5)"),
        ["row: reduce_sum mul sub mul reduce_sum mul add sqrt reciprocal mul neg mul add"],
    ),
    "a window goes into the row that pools it": (
        graph(
            "x: f32[n,8]",
            "%w = window(%x, axes=[1], kernel=[2], strides=[2], dilations=[1], low=[0], high=[0], fill=0.0); "
            "%y = reduce_max(%w, axes=[2], keepdims=false)",
        ),
        ["row: window reduce_max"],
    ),
    "which computes nothing below the window": (
        graph(
            "x: f32[n,8]",
            "%a = relu(%x); %w = window(%a, axes=[1], kernel=[2], strides=[2], dilations=[1], low=[0], high=[0], fill=0.0); "
            "%y = reduce_max(%w, axes=[2], keepdims=false)",
        ),
        ["map: relu", "row: window reduce_max"],
    ),
    "two reductions are two rows": (
        graph("x: f32[n,4,3]", "%a = reduce_sum(%x, axes=[2], keepdims=false); %y = reduce_max(%a, axes=[1], keepdims=false)"),
        ["row: reduce_sum", "row: reduce_max"],
    ),
}

# --- contractions and others ------------------------------------------------------------------------------------------------

CONTRACTIONS = {
    "a contraction takes in its epilogue": (
        graph("x: f32[n,4], w: f32[4,3], b: f32[3]", "%m = matmul(%x, %w); %a = add(%m, %b); %y = relu(%a)"),
        ["contract: matmul add relu"],
    ),
    "with operands of the result's shape": (
        graph("x: f32[n,4], w: f32[4,3], r: f32[n,3]", "%m = matmul(%x, %w); %y = add(%m, %r)"),
        ["contract: matmul add"],
    ),
    "up to a value that something else reads": (
        graph("x: f32[n,4], w: f32[4,3]", "%m = matmul(%x, %w); %a = neg(%m); %e = exp(%a); %y = mul(%a, %e)"),
        ["contract: matmul neg", "map: exp mul"],
    ),
    "up to an output": (
        graph("x: f32[n,4], w: f32[4,3]", "%m = matmul(%x, %w); %y = neg(%m)", "%m, %y"),
        ["contract: matmul", "map: neg"],
    ),
    "up to a result that spreads": (
        graph("x: f32[1,4], w: f32[4,3], r: f32[n,3]", "%m = matmul(%x, %w); %y = add(%m, %r)"),
        ["contract: matmul", "map: add"],
    ),
    "but not into another contraction's epilogue": (
        graph("x: f32[n,4], w: f32[4,3], v: f32[4,3]", "%a = matmul(%x, %w); %b = matmul(%x, %v); %y = add(%a, %b)"),
        ["contract: matmul", "contract: matmul add"],
    ),
    "operands are stored before a contraction": (
        graph("x: f32[n,4], w: f32[4,3]", "%a = neg(%x); %y = matmul(%a, %w)"),
        ["map: neg", "contract: matmul"],
    ),
    "but for the reading of packed weights": (
        graph("x: f32[n,4], p: f32[1,4,8]", "%w = unpack_panels(%p, columns=3); %y = matmul(%x, %w)"),
        ["contract: unpack_panels matmul"],
    ),
    "in every shape that they take": (
        graph(
            "x: f32[1,5,2], p: f32[1,6,8]",
            "%w = unpack_panels(%p, columns=3); %r = reshape(%w, shape=[3,2,3]); %t = transpose(%r, perm=[2,1,0]); "
            '%y = conv(%x, %t, strides=[1], pads=[[0,0]], dilations=[1], groups=1, layout="channels_last")',
        ),
        ["contract: unpack_panels reshape transpose conv"],
    ),
    "an opaque op is alone": (
        graph("x: f32[n,4]", "%a = neg(%x); %c = cumsum(%a, axis=1, exclusive=false, reverse=false); %y = relu(%c)"),
        ["map: neg", "opaque: cumsum", "map: relu"],
    ),
}


QKV = "q: f32[h,n,4], k: f32[h,4,m], v: f32[h,m,3]"
ATTENTION = {
    "attention is one kernel with what is pointwise between its products": (
        graph(
            f"{QKV}, b: f32[m]",
            "%s = matmul(%q, %k); %t = add(%s, %b); %w = softmax(%t, axis=2); %a = abs(%w); %o = matmul(%a, %v); %y = neg(%o)",
        ),
        ["attention: matmul add reduce_max sub exp reduce_sum reciprocal mul abs matmul neg"],
    ),
    "reshapes between may regroup the rows": (
        graph(
            QKV,
            "%s = matmul(%q, %k); %t = reshape(%s, shape=[1,h,n,m]); %w = softmax(%t, axis=3); %a = reshape(%w, shape=[h,n,m]); "
            "%y = matmul(%a, %v)",
        ),
        ["attention: matmul reshape reduce_max sub exp reduce_sum reciprocal mul reshape matmul"],
    ),
    "weights that something else reads are stored": (
        graph(QKV, "%s = matmul(%q, %k); %w = softmax(%s, axis=2); %y = matmul(%w, %v)", "%y, %w"),
        ["contract: matmul", "row: reduce_max sub exp reduce_sum reciprocal mul", "contract: matmul"],
    ),
    "so are scores": (
        graph(QKV, "%s = matmul(%q, %k); %w = softmax(%s, axis=2); %y = matmul(%w, %v); %z = neg(%s)", "%y, %z"),
        ["contract: matmul", "row: reduce_max sub exp reduce_sum reciprocal mul", "contract: matmul", "map: neg"],
    ),
    "a softmax along another axis needs the whole matrix": (
        graph(QKV, "%s = matmul(%q, %k); %w = softmax(%s, axis=1); %y = matmul(%w, %v)"),
        ["contract: matmul", "row: reduce_max sub exp reduce_sum reciprocal mul", "contract: matmul"],
    ),
    "so does a product with its own rows": (
        graph("q: f32[h,n,4], k: f32[h,4,n]", "%s = matmul(%q, %k); %w = softmax(%s, axis=2); %y = matmul(%w, %w)"),
        ["contract: matmul", "row: reduce_max sub exp reduce_sum reciprocal mul", "contract: matmul"],
    ),
    "or with one matrix for rows of every batch": (
        graph("q: f32[h,n,4], k: f32[h,4,m], v: f32[m,3]", "%s = matmul(%q, %k); %w = softmax(%s, axis=2); %y = matmul(%w, %v)"),
        ["contract: matmul", "row: reduce_max sub exp reduce_sum reciprocal mul", "contract: matmul"],
    ),
    "products without a softmax between are two": (
        graph(QKV, "%s = matmul(%q, %k); %w = exp(%s); %y = matmul(%w, %v)"),
        ["contract: matmul exp", "contract: matmul"],
    ),
}


@pytest.mark.parametrize(
    ("text", "expected"), [pytest.param(*c, id=k) for k, c in (POINTWISE | VIEWS | ROWS | CONTRACTIONS | ATTENTION).items()]
)
def test_what_shares_a_kernel(text: str, expected: list[str] | None):
    found = kernels(text)
    if expected is None:  # the body is the expansion of a composite
        assert found[0] == "map: neg"
        assert len(found) == 2
        assert found[1].startswith("row: ")
    else:
        assert found == expected


def test_an_opaque_op_reads_even_single_elements_from_memory():
    fused = fuse(parse(graph("x: f32[3]", "%y = scatter_elements(%x, const<i64[1] [1]>, const<f32[1] [5.0]>, axis=0)")))
    (kernel,) = (n for n in fused.nodes if n.op == "kernel")
    assert [n.op for n in kernel.attrs["body"].nodes] == ["input", "input", "input", "scatter_elements"]


def test_kernels_have_a_bounded_size():
    lines = "; ".join(f"%a{k + 1} = neg(%a{k})" for k in range(2 * LIMIT))
    found = kernels(graph("a0: f32[n]", lines, f"%a{2 * LIMIT}"))
    assert [len(k.split()) - 1 for k in found] == [LIMIT, LIMIT]


def test_a_long_chain_is_fused_without_recursion():
    lines = "; ".join(f"%a{k + 1} = neg(%a{k})" for k in range(20_000))
    assert len(described(fuse(parse(graph("a0: f32[n]", lines, "%a20000"))))) == -(-20_000 // LIMIT)


SCAN = """graph g(%s: f32[2], %x: f32[n,2]) -> (%o, %o#1) {
  %o = scan(%s, %x, body=graph step(%i: i64[], %h: f32[2], %v: f32[2]) -> (%c, %d) {
    %a = add(%h, %v)
    %b = exp(%a)
    %c = neg(%b)
    %d = sqrt(%b)
  }, states=1, length=n, reverse=[false,false])
}"""


def test_bodies_of_control_flow_are_fused_too():
    before = parse(SCAN)
    after = fuse(before)
    verify(after)
    same_values(before, after)
    (scan,) = (n for n in after.nodes if n.op == "scan")
    assert described(scan.attrs["body"]) == ["map: add exp", "map: neg", "map: sqrt"]


def test_a_graph_without_computation_is_left_alone():
    text = graph("x: f32[n,4]", "%y = reshape(%x, shape=[4*n])")
    assert to_text(fuse(parse(text))) == to_text(parse(text))


# --- bytes between kernels ------------------------------------------------------------------------------------------------------

SCALED = "const<f32[] 0.5>, const<u8[] 3>"


def test_a_quantized_residual_is_read_as_bytes_by_the_kernel_that_adds_it():
    text = graph(
        "x: u8[n,4], w: i8[4,8], r: u8[n,8]",
        "%p = matmul(%x, %w); %d = dequantize(%p, const<f32[] 0.1>, const<i32[] 0>); "
        f"%e = dequantize(%r, {SCALED}); %s = add(%d, %e); %a = relu(%s); %y = quantize(%a, {SCALED}, to=u8)",
    )
    assert kernels(text) == ["contract: matmul dequantize dequantize add relu quantize"]


def test_each_reader_dequantizes_what_is_stored_as_bytes():
    text = graph(
        "x: f32[n,4]",
        f"%s = exp(%x); %q = quantize(%s, {SCALED}, to=u8); %d = dequantize(%q, {SCALED}); %t = reduce_sum(%d, axes=[1], keepdims=true); "
        "%y = add(%d, %t)",
    )
    assert kernels(text) == ["map: exp quantize", "row: dequantize reduce_sum", "map: dequantize add"]


def test_a_contraction_stores_bytes_rather_than_what_they_stand_for():
    text = graph(
        "x: f32[n,4], w: f32[4,8]",
        f"%p = matmul(%x, %w); %q = quantize(%p, {SCALED}, to=u8); %d = dequantize(%q, {SCALED}); %y = transpose(%d, perm=[1,0])",
    )
    assert kernels(text) == ["contract: matmul quantize", "map: dequantize transpose"]
