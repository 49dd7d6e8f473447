"""Weight-only quantization: large weights of matmuls in 8 or 4 bits, and all else as it is; no calibration.

    matmul(x, w)  ->  matmul(x, dequantize(i8 w, s[columns], 0))                                                      int8
    matmul(x, w)  ->  matmul(x, reshape(dequantize(i4 w[blocks,block,columns], s[blocks,1,columns], 0), w's shape))   int4

It pays where a matmul waits for its weights, which is where they are read for few rows: a kernel reads a quarter of the bytes, or with
blocks of 32 a sixth, and widens them in registers.  On one AVX-512 core weights of 4096 x 4096 and more took f32 3 to 4 times as long
as int8 and 4 to 5 times as long as int4 with one row, 1.3 to 2 times with 16 rows (more where weights come from memory), and no longer
with 32.  So matmuls that always have more rows than `MOST_ROWS` stay f32, and those whose weights a near cache holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir.dims import dim_product, least_size
from ...ir.errors import QuantError
from ...ir.graph import Graph, Node, Value, const_value, rewrite
from ...ir.ops.registry import apply
from ...ir.text import value_names
from ...ir.types import f32, i4
from ..values import scalar
from .choose import contractions
from .profile import prepared
from .weights import dequantized, quantized_weights

LEAST_BYTES = 1 << 18  # of f32 weights: smaller ones stay in a near cache
MOST_ROWS = 16
DTYPES = ("int8", "int4")
BLOCKS = (16, 32, 64, 128, 256)
BLOCK = 32  # rows that share a scale, unless it is said


def quantize_weights(
    graph: Graph, weight_only: str = "int8", *, block: int | None = None, weights: str | None = None, exclude: Sequence[str] = ()
) -> Graph:
    """The prepared graph with large weights of matmuls in 8 or 4 bits.

    weight_only: "int8", symmetric with a scale for each column, or "int4", with one for each `block` rows of a column (one of
    `BLOCKS`); weights: "max" or "mse" scales, by default "mse" for int4 and "max" for int8; exclude: as of `quantize`.  Raises
    QuantError for options that do not fit, a block that does not divide the rows of weights, and where nothing can be quantized.
    """
    if weight_only not in DTYPES:
        raise QuantError(f"weights are quantized to {' or '.join(DTYPES)}, not {weight_only!r}")
    if block is not None and weight_only == "int8":
        raise QuantError("int8 weights have one scale for each column; a block is for int4")
    if block is not None and block not in BLOCKS:
        raise QuantError(f"a block has {', '.join(map(str, BLOCKS[:-1]))} or {BLOCKS[-1]} rows, not {block!r}")
    graph = prepared(graph)
    chosen = contractions(graph, value_names(graph), exclude)

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if node not in chosen or not _pays(node):
            return None
        x, w = inputs
        try:
            if weight_only == "int8":
                narrow = dequantized(quantized_weights(w.array, 1, weights or "max"), 1, w)
            else:
                narrow = _in_blocks(w, block or BLOCK, weights or "mse")
        except QuantError as e:
            raise QuantError(f"matmul{' at ' + node.loc if node.loc else ''}: {e}") from None
        return Node("matmul", (x, narrow), node.attrs, node.types, node.loc).outputs[0]

    result = rewrite(graph, rule)
    if result is graph:
        raise QuantError(
            f"nothing can be quantized: no matmul has constant f32 weights of {LEAST_BYTES} bytes or more and can have "
            f"{MOST_ROWS} rows or fewer, where it would wait for them"
        )
    return result


def is_in_blocks(w: Value) -> bool:
    """Whether a matmul's second operand is weights in blocks as `quantize_weights` leaves them."""
    return w.node.op == "reshape" and w.node.inputs[0].node.op == "dequantize" and w.node.inputs[0].node.inputs[0].is_const


def _pays(node: Node) -> bool:
    """Whether a matmul can wait for its weights: there are many of them, and can be few rows."""
    x, w = node.inputs
    if node.op != "matmul" or not w.is_const or w.type.rank != 2 or w.array.nbytes < LEAST_BYTES:
        return False
    return least_size(dim_product(x.shape[:-1])) <= MOST_ROWS


def _in_blocks(w: Value, block: int, method: str) -> Value:
    rows, columns = w.array.shape
    if rows % block:
        fitting = [b for b in BLOCKS if rows % b == 0]
        hint = f"{' or '.join(map(str, fitting))} does" if fitting else "none does"
        raise QuantError(f"a block of {block} does not divide the {rows} rows of weights; {hint}, or exclude the matmul")
    blocks = rows // block
    by_block = w.array.reshape(blocks, block, columns).swapaxes(1, 2).reshape(blocks * columns, block)
    q = quantized_weights(by_block, 0, method, bits=i4.bits)
    integers = q.integers.reshape(blocks, columns, block).swapaxes(1, 2).astype(i4.np)
    scales = q.scales.astype(np.float32).reshape(blocks, 1, columns)
    zero = scalar(0, i4)
    narrow = apply("dequantize", const_value(np.ascontiguousarray(integers), w.node.loc), const_value(scales), zero, loc=w.node.loc)
    assert narrow.dtype is f32
    return apply("reshape", narrow, shape=(rows, columns), loc=w.node.loc)
