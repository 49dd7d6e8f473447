"""Tiny models written by hand in LLVM IR, so that the runtime is tested without the code generator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from llvmlite import binding as llvm
from octavo.backends.runtime.assembly import assemble
from octavo.backends.runtime.native import NativeProgram, Variant
from octavo.backends.runtime.signature import Requirement, Signature, TensorSpec

TRIPLE = llvm.get_process_triple()

# y = x * factor + w[0], each element by its own iteration of parallel_for where threads are given; the workspace holds one
# counter of 8 bytes a worker, which the body increments once a chunk.
_AFFINE = """
%threads = type {{ ptr, ptr, i32 }}
%context = type {{ ptr, ptr, ptr, ptr }}

define internal void @{prefix}_body(ptr %context, i64 %begin, i64 %end, i32 %worker) {{
entry:
  %x = load ptr, ptr %context
  %y_at = getelementptr %context, ptr %context, i32 0, i32 1
  %y = load ptr, ptr %y_at
  %w_at = getelementptr %context, ptr %context, i32 0, i32 2
  %w_ptr = load ptr, ptr %w_at
  %w = load float, ptr %w_ptr
  %work_at = getelementptr %context, ptr %context, i32 0, i32 3
  %work = load ptr, ptr %work_at
  %counter = getelementptr i64, ptr %work, i32 %worker
  %old = load i64, ptr %counter
  %new = add i64 %old, 1
  store i64 %new, ptr %counter
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %next, %step ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %step, label %done
step:
  %from = getelementptr float, ptr %x, i64 %i
  %value = load float, ptr %from
  %scaled = fmul float %value, {factor}
  %sum = fadd float %scaled, %w
  %to = getelementptr float, ptr %y, i64 %i
  store float %sum, ptr %to
  %next = add i64 %i, 1
  br label %loop
done:
  ret void
}}

define i32 @{prefix}_main(ptr %inputs, ptr %outputs, ptr %sizes, ptr %weights, ptr %workspace, ptr %threads) {{
entry:
  %context = alloca %context
  %x = load ptr, ptr %inputs
  %y = load ptr, ptr %outputs
  %rows = load i64, ptr %sizes
  %n = mul i64 %rows, {columns}
  store ptr %x, ptr %context
  %y_at = getelementptr %context, ptr %context, i32 0, i32 1
  store ptr %y, ptr %y_at
  %w_at = getelementptr %context, ptr %context, i32 0, i32 2
  store ptr %weights, ptr %w_at
  %work_at = getelementptr %context, ptr %context, i32 0, i32 3
  store ptr %workspace, ptr %work_at
  %serial = icmp eq ptr %threads, null
  br i1 %serial, label %alone, label %together
alone:
  call void @{prefix}_body(ptr %context, i64 0, i64 %n, i32 0)
  br label %done
together:
  %parallel_for = load ptr, ptr %threads
  %pool_at = getelementptr %threads, ptr %threads, i32 0, i32 1
  %pool = load ptr, ptr %pool_at
  call void %parallel_for(ptr %pool, ptr @{prefix}_body, ptr %context, i64 %n)
  br label %done
done:
  ret i32 {status}
}}

define i64 @{prefix}_workspace(ptr %sizes, i32 %workers) {{
  %wide = sext i32 %workers to i64
  %bytes = mul i64 %wide, 8
  ret i64 %bytes
}}
"""

# Copies the positive elements of x: their number is found out by the run, they lie in the workspace.
_POSITIVE = """
define i32 @{prefix}_main(ptr %inputs, ptr %outputs, ptr %sizes, ptr %weights, ptr %workspace, ptr %threads) {{
entry:
  %x = load ptr, ptr %inputs
  %slot = load ptr, ptr %outputs
  %n = load i64, ptr %sizes
  %found_at = getelementptr i64, ptr %sizes, i64 1
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %keep ], [ %next, %look ]
  %k = phi i64 [ 0, %entry ], [ %k1, %keep ], [ %k, %look ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look, label %done
look:
  %from = getelementptr float, ptr %x, i64 %i
  %value = load float, ptr %from
  %next = add i64 %i, 1
  %positive = fcmp ogt float %value, 0.0
  br i1 %positive, label %keep, label %loop
keep:
  %to = getelementptr float, ptr %workspace, i64 %k
  store float %value, ptr %to
  %k1 = add i64 %k, 1
  br label %loop
done:
  store i64 %k, ptr %found_at
  store ptr %workspace, ptr %slot
  ret i32 0
}}

define i64 @{prefix}_workspace(ptr %sizes, i32 %workers) {{
  %n = load i64, ptr %sizes
  %bytes = mul i64 %n, 4
  ret i64 %bytes
}}
"""


def affine(
    name: str = "affine",
    *,
    factor: float = 2.0,
    offset: float = 1.0,
    columns: int = 3,
    status: int = 0,
    features: tuple[str, ...] = (),
    triple: str = TRIPLE,
    prefix: str = "v0",
) -> NativeProgram:
    """y[n,columns] = x[n,columns] * factor + offset."""
    signature = Signature(
        name,
        (TensorSpec("x", "f32", ("n", columns)),),
        (TensorSpec("y", "f32", ("n", columns)),),
        symbols=("n",),
    )
    ir = _AFFINE.format(prefix=prefix, factor=factor, columns=columns, status=status)
    weights = np.zeros(16, np.float32)
    weights[0] = offset
    variant = Variant(features, triple, prefix, [assemble(ir, triple)])
    return NativeProgram(name, signature, [variant], weights.tobytes(), "graph text", {"target": "test"})


def two_levels(name: str = "levels") -> NativeProgram:
    """A level that no processor of today has, then one whose weights begin 64 bytes further: y = x * 2 + 7."""
    program = affine(name)
    (variant,) = program.variants
    future = replace(variant, features=("avx512fp16", "avxvnniint8", "avxifma"))
    here = replace(affine(name, prefix="v1").variants[0], weights_offset=64)
    weights = np.zeros(32, np.float32)
    weights[0], weights[16] = 1, 7
    return replace(program, variants=[future, here], weights=weights.tobytes())


def positive(name: str = "positive", triple: str = TRIPLE) -> NativeProgram:
    """The positive elements of x[n] as y[found]."""
    signature = Signature(
        name,
        (TensorSpec("x", "f32", ("n",)),),
        (TensorSpec("y", "f32", ("found",), defined=True),),
        symbols=("n",),
        defined=("found",),
    )
    variant = Variant((), triple, "v0", [assemble(_POSITIVE.format(prefix="v0"), triple)])
    return NativeProgram(name, signature, [variant], b"")


# Does nothing; its signature is what is tested.
_NOTHING = """
define i32 @{prefix}_main(ptr %inputs, ptr %outputs, ptr %sizes, ptr %weights, ptr %workspace, ptr %threads) {{
  ret i32 0
}}
define i64 @{prefix}_workspace(ptr %sizes, i32 %workers) {{
  ret i64 0
}}
"""


def checked(name: str = "checked") -> NativeProgram:
    """A model that leaves y[seq,seq] alone; its inputs have dims of every kind, and at most four rows are allowed."""
    signature = Signature(
        name,
        (TensorSpec("x", "f32", ("seq", "2*seq+1")), TensorSpec("k", "i64", ("seq",)), TensorSpec("s", "f32", (1,))),
        (TensorSpec("y", "f32", ("seq", "seq")),),
        symbols=("seq",),
        requirements=(Requirement("max(seq-4,0)", "a loop of four"),),
    )
    variant = Variant((), TRIPLE, "v0", [assemble(_NOTHING.format(prefix="v0"), TRIPLE)])
    return NativeProgram(name, signature, [variant], b"")
