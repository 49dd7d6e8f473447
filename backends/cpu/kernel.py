"""One loop function -> one LLVM module with the kernel's entry.

    void KERNEL(ptr buffers[], ptr i64 symbols[], ptr threads, ptr scratch, i64 scratch_stride)

Each top-level statement becomes a function over an iteration range; parallel loops go through `threads->parallel_for` when there are
threads and the work is worth it.  A worker's scratch memory is `scratch + worker * scratch_stride`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.dims import Dim, ceildiv, dim_max
from ...ir.loops import (
    Alloc,
    Buf,
    Const,
    Expr,
    For,
    LoopFunction,
    Matrices,
    MatrixDot,
    MatrixLoad,
    MatrixStore,
    MatrixZero,
    Stmt,
    size_expr,
    walk,
)
from ...ir.types import i64
from ..instructions import Val
from ..llvm import Emitter
from ..target import Target
from .amx import MatrixEmitter

STACK_BYTES = 16384  # local buffers of constant size up to this live on the stack
SERIAL_COST = 30_000  # scalar operations below which a loop is not worth sharing (some 3 us; sharing costs 0.5 us and cold caches)


def _local_buffers(body: Sequence[Stmt]) -> list[Buf]:
    return [s.buf for s in walk(body) if isinstance(s, Alloc) and s.buf.space == "local"]


def _on_stack(buf: Buf) -> bool:
    return isinstance(buf.size, int) and buf.size * buf.dtype.itemsize <= STACK_BYTES


def _bytes(buf: Buf) -> Dim:
    return ceildiv(buf.size * buf.dtype.itemsize, 64) * 64


def scratch_bytes(function: LoopFunction) -> Dim:
    """How much scratch memory each worker needs, in bytes."""
    most: Dim = 0
    for s in function.body:
        total: Dim = 0
        for buf in _local_buffers((s,)):
            if not _on_stack(buf):
                total = total + _bytes(buf)
        most = dim_max(most, total)
    return most


class KernelEmitter(Emitter):
    """Adds memory spaces and matrix registers of the CPU to the shared emitter."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.scratch: dict[int, Dim] = {}  # id(Buf) -> its offset in scratch memory, the same each time that code for it is emitted
        self.scratch_used: Dim = 0
        self.matrices = MatrixEmitter(self)

    def emit(self, s: Stmt) -> None:
        """Emit one statement."""
        match s:
            case Matrices():
                self.matrices.begin(s.registers)
                self.body(s.body)
                self.matrices.end()
            case MatrixZero() | MatrixLoad() | MatrixStore() | MatrixDot():
                self.matrices.emit(s)
            case _:
                super().emit(s)

    def alloc(self, buf: Buf) -> None:
        """Registers and small buffers lie on the stack, others in the scratch memory of the worker."""
        if buf.space == "reg" or _on_stack(buf):
            super().alloc(buf)
            return
        if id(buf) not in self.scratch:
            self.scratch[id(buf)] = self.scratch_used
            self.scratch_used = self.scratch_used + _bytes(buf)
        offset = self.value(size_expr(self.scratch[id(buf)]))
        name = self.fresh("local")
        self.put(f"{name} = getelementptr inbounds i8, ptr %scratch, i64 {offset.text}")
        self.buffers[id(buf)] = name


def emit_kernel(function: LoopFunction, symbol: str, target: Target) -> str:
    """The LLVM module text of a kernel whose entry is called `symbol`, with the instructions of a target."""
    declarations: set[str] = set()
    parts: list[str] = []
    entry = KernelEmitter(target)
    entry.symbols = {s: Val(f"%s{k}", i64) for k, s in enumerate(function.symbols)}
    prologue = [
        f"  %a{k} = getelementptr inbounds i64, ptr %symbols, i64 {k}\n  %s{k} = load i64, ptr %a{k}"
        for k in range(len(function.symbols))
    ]
    for k, statement in enumerate(function.body):
        text, used = _range_function(function, statement, f"{symbol}.{k}", target)
        parts.append(text)
        declarations |= used
        parts.append(_chunk_function(function, f"{symbol}.{k}"))
        if isinstance(statement, For) and statement.kind == "parallel":
            n = entry.value(statement.extent)
            cost: Expr = statement.cost if statement.cost is not None else Const(SERIAL_COST, i64)
            total = entry.value(cost * statement.extent)
            entry.put(f"call void @{symbol}.run(ptr @{symbol}.{k}.chunk, i64 {n.text}, i64 {total.text}, ptr %context, ptr %threads)")
        else:
            entry.put(f"call void @{symbol}.{k}.chunk(ptr %context, i64 0, i64 1, i32 0)")
    context = "{ ptr, ptr, ptr, i64 }"
    body = "\n".join(entry.lines)
    parts.append(
        f"""define weak_odr hidden void @{symbol}(ptr %buffers, ptr %symbols, ptr %threads, ptr %scratch, i64 %stride) {{
entry:
  %context = alloca {context}, align 16
  store ptr %buffers, ptr %context
  %c1 = getelementptr inbounds {context}, ptr %context, i32 0, i32 1
  store ptr %symbols, ptr %c1
  %c2 = getelementptr inbounds {context}, ptr %context, i32 0, i32 2
  store ptr %scratch, ptr %c2
  %c3 = getelementptr inbounds {context}, ptr %context, i32 0, i32 3
  store i64 %stride, ptr %c3
{chr(10).join(prologue)}
{body}
  ret void
}}

define internal void @{symbol}.run(ptr %chunk, i64 %n, i64 %cost, ptr %context, ptr %threads) alwaysinline {{
entry:
  %none = icmp eq ptr %threads, null
  %small = icmp slt i64 %cost, {SERIAL_COST}
  %one = icmp slt i64 %n, 2
  %a = or i1 %none, %small
  %serial = or i1 %a, %one
  br i1 %serial, label %here, label %there
here:
  call void %chunk(ptr %context, i64 0, i64 %n, i32 0)
  ret void
there:
  %f = load ptr, ptr %threads
  %q = getelementptr inbounds {{ ptr, ptr, i32 }}, ptr %threads, i32 0, i32 1
  %pool = load ptr, ptr %q
  call void %f(ptr %pool, ptr %chunk, ptr %context, i64 %n)
  ret void
}}
"""
    )
    return "\n".join([*parts, *sorted(declarations), ""])


def _range_function(function: LoopFunction, statement: Stmt, name: str, target: Target) -> tuple[str, set[str]]:
    """The function that runs one top-level statement over begin..end."""
    emitter = KernelEmitter(target)
    for k, buf in enumerate(function.params):
        emitter.buffers[id(buf)] = f"%b{k}"
    emitter.symbols = {s: Val(f"%s{k}", i64) for k, s in enumerate(function.symbols)}
    if isinstance(statement, For) and statement.kind == "parallel":
        match statement.body:
            case (Matrices(registers=registers, body=body),):  # shapes that all iterations want are set once
                emitter.matrices.begin(registers)
                emitter.counted_loop(statement.var, Val("%begin", i64), Val("%end", i64), body)
                emitter.matrices.end()
            case body:
                emitter.counted_loop(statement.var, Val("%begin", i64), Val("%end", i64), body)
    else:
        emitter.body((statement,))
    params = [f"ptr noalias %b{k}" for k in range(len(function.params))] + [f"i64 %s{k}" for k in range(len(function.symbols))]
    header = f"define internal void @{name}({', '.join([*params, 'ptr noalias %scratch', 'i64 %begin', 'i64 %end'])}) noinline {{"
    # Stores past the caches are ordered by nothing weaker: whoever waits for this range must see them.
    fence = ["  fence seq_cst"] if emitter.streams else []
    lines = [header, "entry:", *emitter.entry, *emitter.lines, *fence, "  ret void", "}", ""]
    return "\n".join(lines), emitter.declarations


def _chunk_function(function: LoopFunction, name: str) -> str:
    """The function that a pool calls: unpacks the context and runs the range."""
    lines = [
        f"define internal void @{name}.chunk(ptr %context, i64 %begin, i64 %end, i32 %worker) {{",
        "entry:",
        "  %buffers = load ptr, ptr %context",
    ]
    for k, (hint, t) in enumerate([("symbols", "ptr"), ("base", "ptr"), ("stride", "i64")], 1):
        lines.append(f"  %x{k} = getelementptr inbounds {{ ptr, ptr, ptr, i64 }}, ptr %context, i32 0, i32 {k}")
        lines.append(f"  %{hint} = load {t}, ptr %x{k}")
    lines.append("  %w = sext i32 %worker to i64")
    lines.append("  %offset = mul i64 %w, %stride")
    lines.append("  %scratch = getelementptr inbounds i8, ptr %base, i64 %offset")
    args = []
    for k in range(len(function.params)):
        lines.append(f"  %p{k} = getelementptr inbounds ptr, ptr %buffers, i64 {k}")
        lines.append(f"  %b{k} = load ptr, ptr %p{k}")
        args.append(f"ptr %b{k}")
    for k in range(len(function.symbols)):
        lines.append(f"  %y{k} = getelementptr inbounds i64, ptr %symbols, i64 {k}")
        lines.append(f"  %s{k} = load i64, ptr %y{k}")
        args.append(f"i64 %s{k}")
    args += ["ptr %scratch", "i64 %begin", "i64 %end"]
    lines.append(f"  call void @{name}({', '.join(args)})")
    return "\n".join([*lines, "  ret void", "}", ""])
