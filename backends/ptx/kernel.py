"""One loop function -> GPU kernels: the shared emitter with block and thread loops, shared memory and barriers.

Each top-level statement of a function is a `block` loop and becomes a kernel of its own, launched in order:

    .visible .entry SYMBOL(pointers to inputs, pointers to outputs, i64 symbols)

Pointers are to global memory.  There are no vector loops: one thread is one lane.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.dims import Dim
from ...ir.errors import CodegenError, UnsupportedOp
from ...ir.loops import Buf, Const, Expr, For, LoopFunction, walk
from ...ir.types import i64
from ..instructions import Val
from ..llvm import Emitter
from ..target import Target

# Subnormal f32 numbers count as zero, as on a CPU (backends/cpu/main.py); a GPU cannot flush those of f64.
FLUSH = '"denormal-fp-math-f32"="preserve-sign,preserve-sign"'
LOCAL_BYTES = 1 << 16  # of scratch memory that one thread may have (half a MiB is what the hardware allows)


@dataclass(frozen=True)
class Entry:
    """A kernel of a module: `blocks` (over size symbols) of `threads` threads each."""

    symbol: str
    blocks: Expr
    threads: int


class PtxEmitter(Emitter):
    """Adds the memory spaces, loops and barriers of a GPU to the shared emitter."""

    def __init__(self, symbol: str, target: Target):
        super().__init__(target)
        self.symbol = symbol
        self.threads: int | None = None

    def alloc(self, buf: Buf) -> None:
        if buf.space == "shared":
            name = f"@{self.symbol}.{buf.name}"
            element = self.memory_type(buf.dtype)
            self.declarations.add(f"{name} = internal addrspace(3) global [{_constant(buf)} x {element}] poison, align 16")
            self.buffers[id(buf)] = f"addrspacecast (ptr addrspace(3) {name} to ptr)"
            return
        if buf.space == "local" and _constant(buf) * buf.dtype.itemsize > LOCAL_BYTES:
            raise UnsupportedOp(f"kernel {self.symbol}: a thread of a GPU has no room for {buf.name}: {buf.dtype}[{buf.size}]")
        super().alloc(buf)

    def barrier(self) -> None:
        self.declarations.add("declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)")
        self.put("call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)")

    def special_loop(self, s: For) -> None:
        if s.kind == "block":
            self.bindings[id(s.var)] = self._register("ctaid")
        elif s.kind == "thread":
            extent = self._constant_extent(s)
            if self.threads not in (None, extent):
                raise CodegenError(f"kernel {self.symbol}: its thread loops differ in extent ({self.threads} and {extent})")
            self.threads = extent
            self.bindings[id(s.var)] = self._register("tid")
        else:
            super().special_loop(s)
        self.body(s.body)

    def _register(self, name: str) -> Val:
        intrinsic = f"@llvm.nvvm.read.ptx.sreg.{name}.x"
        self.declarations.add(f"declare i32 {intrinsic}()")
        short = self.fresh(name)
        self.put(f"{short} = call i32 {intrinsic}()")
        return self.define(f"zext nneg i32 {short} to i64", i64)


def _constant(buf: Buf) -> int:
    size: Dim = buf.size
    if not isinstance(size, int):
        raise UnsupportedOp(f"a GPU kernel needs scratch memory of a known size, not {buf.name}: {buf.dtype}[{size}]; pin the dims")
    return max(size, 1)


def entries(function: LoopFunction, symbol: str) -> list[Entry]:
    """The kernels of a function, in launch order."""
    found = []
    for k, statement in enumerate(function.body):
        name = symbol if len(function.body) == 1 else f"{symbol}_{k}"
        if not (isinstance(statement, For) and statement.kind == "block"):
            raise CodegenError(f"kernel {name}: a statement outside a block loop")
        extents = [s.extent for s in walk((statement,)) if isinstance(s, For) and s.kind == "thread"]
        threads = {e.value for e in extents if isinstance(e, Const)}
        if len(threads) != 1:
            raise CodegenError(f"kernel {name}: a block has no one number of threads")
        found.append(Entry(name, statement.extent, int(threads.pop())))
    return found


def emit_kernels(function: LoopFunction, symbol: str, target: Target) -> tuple[list[str], set[str]]:
    """LLVM text of the kernels of a function, and the declarations that they need."""
    texts: list[str] = []
    declarations: set[str] = set()
    for entry, statement in zip(entries(function, symbol), function.body, strict=True):
        emitter = PtxEmitter(entry.symbol, target)
        parameters = []
        casts = []
        for k, buf in enumerate(function.params):
            parameters.append(f"ptr addrspace(1) noalias {'readonly ' if k < function.inputs else ''}%g{k}")
            casts.append(f"  %b{k} = addrspacecast ptr addrspace(1) %g{k} to ptr")
            emitter.buffers[id(buf)] = f"%b{k}"
        for k, s in enumerate(function.symbols):
            parameters.append(f"i64 %s{k}")
            emitter.symbols[s] = Val(f"%s{k}", i64)
        emitter.body((statement,))
        # Without .reqntid: it makes ptxas round registers down to the next occupancy, with spills.  256 threads of 255 always fit.
        header = f"define ptx_kernel void @{entry.symbol}({', '.join(parameters)}) {FLUSH} {{"
        texts.append("\n".join([header, "entry:", *casts, *emitter.entry, *emitter.lines, "  ret void", "}", ""]))
        declarations |= emitter.declarations
    return texts, declarations
