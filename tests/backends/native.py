"""Runs loop functions as machine code, and the same by NumPy: what an emitted expression gives is what it means."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
from octavo.backends.cpu.build import compile_module
from octavo.backends.cpu.kernel import emit_kernel, scratch_bytes
from octavo.backends.runtime.native import link_in_process
from octavo.backends.target import Target, find_target
from octavo.ir.dims import evaluate_dim
from octavo.ir.interpret import interpret
from octavo.ir.loops import Buf, Const, Expr, For, Load, LoopFunction, Store, Var, Word
from octavo.ir.types import dtype_of, i64

LANES = 16
GUARD = 1 << 18  # bytes after the scratch memory that nobody may touch

ENTRY = """
define void @entry(ptr %buffers, ptr %symbols, ptr %threads, ptr %scratch, i64 %stride) {
  call void @kernel(ptr %buffers, ptr %symbols, ptr %threads, ptr %scratch, i64 %stride)
  ret void
}
"""


def execute(function: LoopFunction, arrays: Sequence[np.ndarray], sizes: dict[str, int] | None = None, target: Target | None = None):
    """Run the function's machine code over arrays, one for each parameter, which it may change."""
    sizes = sizes or {}
    level = target or find_target("native")
    code = compile_module(emit_kernel(function, "kernel", level) + ENTRY, level)
    address, owner = link_in_process([code], ["entry"])
    run = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4, ctypes.c_int64)(address)
    needed = evaluate_dim(scratch_bytes(function), sizes)
    scratch = np.full(64 + needed + GUARD, 0xA5, np.uint8)
    offset = -scratch.ctypes.data % 64
    pointers = np.array([a.ctypes.data for a in arrays], np.int64)
    symbols = np.array([sizes[s] for s in function.symbols], np.int64)
    run(pointers.ctypes.data, symbols.ctypes.data, None, scratch.ctypes.data + offset, 0)
    assert (scratch[offset + needed :] == 0xA5).all(), "it wrote past its scratch memory"
    del owner


Expressions = Callable[..., list[Expr]]  # (index, *buffers) -> an expression for each result


def computed(
    make: Expressions, arrays: Sequence[np.ndarray], count: int, vector: bool, target: Target | None = None, lanes: int = LANES
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """`count` elements of each expression as (native code, NumPy); with `vector` 16 (`lanes`) at a time and the last ones masked."""
    inputs = [Buf(f"x{k}", dtype_of(a.dtype)) for k, a in enumerate(arrays)]
    q, v = Var("q"), Var("v")
    index = q * lanes + v if vector else q
    exprs = make(index, *inputs)
    outputs = [Buf(f"y{k}", e.dtype) for k, e in enumerate(exprs)]
    body = []
    for b, e in zip(outputs, exprs, strict=True):
        store = Store(b, index, e)
        if vector:
            left = Const(count, i64) - q * lanes
            body.append(For(q, Const(-(-count // lanes), i64), (For(v, Const(lanes, i64), (store,), "vector", limit=left),)))
        else:
            body.append(For(q, Const(count, i64), (store,)))
    results = [np.zeros(count, b.dtype.np) for b in outputs]
    function = LoopFunction("kernel", (*inputs, *outputs), len(inputs), (), tuple(body))
    execute(function, [*arrays, *results], target=target)
    memory = dict(zip(inputs, arrays, strict=True))
    at = np.arange(count)
    env = {"q": at // lanes, "v": at % lanes} if vector else {"q": at}

    def read(load: Load | Word, where: np.ndarray, mask: np.ndarray | None = None, other: np.ndarray | None = None) -> np.ndarray:
        data = memory[load.buf]
        if isinstance(load, Word):
            return np.ascontiguousarray(data[where[..., None] + np.arange(4)]).view(np.int32)[..., 0]
        if mask is None:
            return data[where]
        return np.where(mask, data[np.where(mask, where, 0)], other)

    return results, [np.broadcast_to(interpret(e, env, read), count) for e in exprs]


def same_bits(actual: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two arrays hold the same elements, where any NaN is like any other and the zeros differ."""
    assert actual.dtype == expected.dtype
    if not dtype_of(actual.dtype).is_float:
        return bool(np.array_equal(actual, expected))
    nan = np.isnan(expected.astype(np.float64))
    whole = np.dtype(f"u{actual.itemsize}")
    bits = actual.view(whole) == np.ascontiguousarray(expected).view(whole)
    return bool(np.where(nan, np.isnan(actual.astype(np.float64)), bits).all())
