"""The loops that templates make of small graphs, as files to read: one behaviour a file, named for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.target import find_target
from octavo.ir.loops import to_text
from octavo.ir.text import parse
from octavo.ir.verify import verify
from octavo.passes.fuse import fuse

CONV = 'strides=[1,1], pads=[[0,0],[0,0]], dilations=[1,1], layout="channels_last"'

CASES = {
    "map_flat": """graph g(%x: f32[n,3], %b: f32[n,3]) -> (%y) {
        %s = add(%x, %b)
        %y = relu(%s)
    }""",
    "map_of_a_known_size_in_f16": """graph g(%x: f16[5,7]) -> (%y) {
        %y = mul(%x, const<f16[] 2.0>)
    }""",
    "map_transposed": """graph g(%x: f32[n,40]) -> (%y) {
        %y = transpose(%x, perm=[1,0])
    }""",
    "map_interleaved": """graph g(%x: f32[n,3,40]) -> (%y) {
        %y = transpose(%x, perm=[0,2,1])
    }""",
    "map_interleaved_any_length": """graph g(%x: f32[3,n]) -> (%y) {
        %y = transpose(%x, perm=[1,0])
    }""",
    "row_bytes": """graph g(%x: u8[n,5,64]) -> (%y) {
        %y = reduce_max(%x, axes=[1], keepdims=false)
    }""",
    "map_scalar": """graph g(%x: i32[]) -> (%y) {
        %y = neg(%x)
    }""",
    "concat": """graph g(%x: f32[n,2], %z: f32[n,20]) -> (%y) {
        %a = neg(%x)
        %y = concat(%a, %z, axis=1)
    }""",
    "row_along": """graph g(%x: f32[n,5]) -> (%y) {
        %y = reduce_max(%x, axes=[1], keepdims=false)
    }""",
    "row_along_any_length": """graph g(%x: i32[n,m]) -> (%y) {
        %s = reduce_sum(%x, axes=[1], keepdims=true)
        %y = neg(%s)
    }""",
    "row_whose_large_results_stream": """graph g(%x: f32[n,16]) -> (%y) {
        %y = softmax(%x, axis=1)
    }""",
    "row_in_columns": """graph g(%x: f32[n,3,20]) -> (%y) {
        %y = reduce_sum(%x, axes=[1], keepdims=false)
    }""",
    "row_with_its_own_state": """graph g(%x: f32[3,n]) -> (%y) {
        %y = argmax(%x, axes=[0], keepdims=false)
    }""",
    "softmax_in_columns_keeps_the_exponentials": """graph g(%x: f32[4,16]) -> (%y) {
        %y = softmax(%x, axis=0)
    }""",
    "window": """graph g(%x: f32[n,6]) -> (%y) {
        %w = window(%x, axes=[1], kernel=[3], strides=[2], dilations=[1], low=[1], high=[0], fill=-1.0)
        %y = reduce_max(%w, axes=[2], keepdims=false)
    }""",
    "contract_with_epilogue": """graph g(%x: f32[1,3], %p: f32[3,8]) -> (%y) {
        %m = matmul(%x, %p)
        %s = add(%m, const<f32[] 1.0>)
        %y = relu(%s)
    }""",
    "contract_rows_left": """graph g(%x: f32[19,1], %p: f32[1,16]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_any_depth": """graph g(%x: f32[1,k], %p: f32[k,8]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_fewer_rows_where_they_alias": """graph g(%x: f64[2,512], %p: f64[512,32]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_in_chunks_of_a_deep_sum": """graph g(%x: f32[13,16384], %p: f32[16384,16]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_columns_left": """graph g(%x: f32[1,2], %p: f32[2,21]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_batches": """graph g(%x: f32[b,1,2], %p: f32[b,2,8]) -> (%y) {
        %y = matmul(%x, %p)
    }""",
    "contract_integers": """graph g(%x: i8[1,2], %p: i8[2,8]) -> (%y) {
        %m = matmul(%x, %p)
        %y = cast(%m, to=f32)
    }""",
    "contract_nibbles": """graph g(%x: f32[1,16]) -> (%y) {
        %w = dequantize(const<i4[2,8,1] [1,-2,3,-4,5,-6,7,-8,1,2,3,4,5,6,7,0]>, const<f32[2,1,1] [0.5,2.0]>, const<i4[2,1,1] [1,-1]>)
        %r = reshape(%w, shape=[16,1])
        %y = matmul(%x, %r)
    }""",
    "contract_bytes": """graph g(%x: u8[1,8]) -> (%y) {
        %m = matmul(%x, const<i8[8,2] [1,-2,3,-4,5,-6,7,-8,9,-10,11,-12,13,-14,15,-16]>)
        %y = cast(%m, to=f32)
    }""",
    "contract_bytes_to_bytes_from_an_offset": """graph g(%x: u8[1,4], %w: i8[4,16], %b: i32[1,16]) -> (%y) {
        %m = matmul(%x, %w)
        %s = add(%m, %b)
        %d = dequantize(%s, const<f32[] 0.5>, const<i32[] 0>)
        %y = quantize(%d, const<f32[] 1.0>, const<u8[] 3>, to=u8)
    }""",
    "contract_columns_left_from_an_offset": """graph g(%x: u8[1,4], %w: i8[4,5], %b: i32[1,5]) -> (%y) {
        %m = matmul(%x, %w)
        %y = add(%m, %b)
    }""",
    "convolution": f"""graph g(%x: f32[1,1,4,2], %w: f32[8,2,1,3]) -> (%y) {{
        %y = conv(%x, %w, {CONV})
    }}""",
    "convolution_in_groups": f"""graph g(%x: f32[1,1,1,4], %w: f32[16,2,1,1]) -> (%y) {{
        %y = conv(%x, %w, groups=2, {CONV})
    }}""",
    "attention": """graph g(%q: f32[b,1,2], %k: f32[b,2,8], %v: f32[b,8,8]) -> (%y) {
        %s = matmul(%q, %k)
        %t = mul(%s, const<f32[] 0.5>)
        %w = softmax(%t, axis=2)
        %y = matmul(%w, %v)
    }""",
    "depthwise": f"""graph g(%x: f32[n,1,9,5], %w: f32[5,1,1,3]) -> (%y) {{
        %y = conv(%x, %w, groups=5, {CONV.replace("[0,0]]", "[1,1]]")})
    }}""",
    "depthwise_windows": f"""graph g(%x: u8[n,1,9,32]) -> (%y) {{
        %w = const(value=const<i8[32,1,1,3] WEIGHTS>) : i8[32,1,1,3]
        %y = conv(%x, %w, groups=32, {CONV.replace("[0,0]]", "[1,1]]")})
    }}""".replace("WEIGHTS", f"[{','.join(str(k) for k in range(96))}]"),
    "contract_in_matrices": """graph g(%x: u8[51,128]) -> (%y) {
        %w = const(value=const<i8[128,20] WEIGHTS>) : i8[128,20]
        %y = matmul(%x, %w)
    }""".replace("WEIGHTS", f"[{','.join(str(k % 7) for k in range(2560))}]"),
    "convolution_in_matrices": f"""graph g(%x: u8[2,5,6,16]) -> (%y) {{
        %w = const(value=const<i8[16,16,3,3] WEIGHTS>) : i8[16,16,3,3]
        %y = conv(%x, %w, {CONV})
    }}""".replace("WEIGHTS", f"[{','.join(str(k % 5) for k in range(2304))}]"),
    "opaque": """graph g(%x: f32[n,3]) -> (%y) {
        %y = cumsum(%x, axis=1, exclusive=false, reverse=false)
    }""",
}

LEVELS = {"depthwise_windows": "x86-64-v3-vnni", "contract_in_matrices": "x86-64-v4-amx", "convolution_in_matrices": "x86-64-v4-amx"}


@pytest.mark.parametrize("name", CASES)
def test_the_last_kernel_runs_these_loops(name: str, golden: Callable[[str, str], None]):
    target = find_target(LEVELS.get(name, "x86-64-v3"))
    graph = fuse(legalize(parse(CASES[name]), target))
    verify(graph)
    kernel = next(n for n in reversed(graph.nodes) if n.op == "kernel")
    golden(name, to_text(lower(kernel.attrs["body"], target)))
