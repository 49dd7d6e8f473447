"""Runs kernels of a grid in NumPy, every thread of every block a lane: what a GPU must compute, with the mistakes that it forgives.

It faults on an access outside a buffer, on a barrier that not all threads of a block reach, on shared memory that one thread writes
and another touches without a barrier between, and on a result that two threads write.  Fresh memory is rubbish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from octavo.ir.interpret import interpret
from octavo.ir.loops import Alloc, Barrier, Buf, Const, Expr, For, If, Let, Load, LoopFunction, Stmt, Store, While

NOBODY, MANY = -1, -2


class Shared:
    """One shared buffer of every block, and who touched what since the last barrier."""

    def __init__(self, name: str, blocks: int, size: int):
        self.name, self.size = name, size
        self.writer, self.reader = np.full(blocks * size, NOBODY), np.full(blocks * size, NOBODY)

    def meet(self) -> None:
        self.writer[:] = NOBODY
        self.reader[:] = NOBODY

    def read(self, at: np.ndarray, thread: np.ndarray) -> None:
        self._refuse(self.writer, at, thread, "reads what another thread writes")
        seen = self.reader[at]
        self.reader[at] = np.where((seen == NOBODY) | (seen == thread), thread, MANY)
        order = np.argsort(at, kind="stable")
        same = at[order][1:] == at[order][:-1]
        different = same & (thread[order][1:] != thread[order][:-1])
        self.reader[at[order][1:][different]] = MANY

    def write(self, at: np.ndarray, thread: np.ndarray) -> None:
        assert len(np.unique(at)) == len(at), f"two threads write the same element of {self.name}"
        self._refuse(self.writer, at, thread, "writes what another thread writes")
        self._refuse(self.reader, at, thread, "writes what another thread reads")
        self.writer[at] = thread

    def _refuse(self, who: np.ndarray, at: np.ndarray, thread: np.ndarray, what: str) -> None:
        other = (who[at] != NOBODY) & (who[at] != thread)
        assert not other.any(), f"a thread {what} in {self.name} without a barrier between"


class Grid:
    """One launch."""

    def __init__(self, memory: Mapping[Buf, np.ndarray], inputs: int, sizes: Mapping[str, int], blocks: int, threads: int):
        self.lanes, self.blocks, self.threads = blocks * threads, blocks, threads
        self.block, self.thread = np.divmod(np.arange(self.lanes), threads)
        self.memory = dict(memory)
        self.constant = set(list(memory)[:inputs])
        self.shared: dict[Buf, Shared] = {}
        self.env: dict[str, np.ndarray] = {name: np.asarray(n, np.int64) for name, n in sizes.items()}
        self.active = np.ones(self.lanes, bool)

    def value(self, e: Expr) -> np.ndarray:
        return np.broadcast_to(interpret(e, self.env, self.load), (self.lanes,))

    def place(self, buf: Buf, index: np.ndarray, live: np.ndarray) -> np.ndarray:
        """Positions in the memory of a buffer for the live lanes."""
        size = self.memory[buf].size if buf.space == "param" else max(int(buf.size), 1)
        at = np.broadcast_to(index, (self.lanes,))[live]
        assert ((at >= 0) & (at < size)).all(), f"{buf.name}[{at.min()}..{at.max()}] of {size}"
        if buf.space == "param":
            return at
        return at + size * (self.block if buf.space == "shared" else np.arange(self.lanes))[live]

    def load(self, e: Load, index: np.ndarray, mask: np.ndarray | None = None, other: np.ndarray | None = None) -> np.ndarray:
        live = self.active if mask is None else self.active & mask
        result = np.zeros(self.lanes, e.dtype.np) if other is None else np.array(np.broadcast_to(other, (self.lanes,)))
        at = self.place(e.buf, index, live)
        if e.buf in self.shared:
            self.shared[e.buf].read(at, self.thread[live])
        result[live] = self.memory[e.buf][at]
        return result

    def store(self, s: Store) -> None:
        live = self.active if s.mask is None else self.active & self.value(s.mask)
        if not live.any():
            return
        value, at = self.value(s.value), self.place(s.buf, self.value(s.index), live)
        assert s.value.dtype is s.buf.dtype, f"{s.value.dtype} stored in {s.buf.name}: {s.buf.dtype}"
        if s.buf in self.shared:
            self.shared[s.buf].write(at, self.thread[live])
        elif s.buf.space == "param":
            assert s.buf not in self.constant, f"a store into the input {s.buf.name}"
            assert len(np.unique(at)) == len(at), f"two threads store the same element of {s.buf.name}"
        self.memory[s.buf][at] = value[live]

    def within(self, mask: np.ndarray, body: Sequence[Stmt]) -> None:
        """Run a body for some of the lanes."""
        before = self.active
        self.active = before & mask
        if self.active.any():
            self.run(body)
        self.active = before

    def run(self, body: Sequence[Stmt]) -> None:
        for s in body:
            match s:
                case Store():
                    self.store(s)
                case Let():
                    old = self.env.get(s.var.name, np.zeros((), s.var.dtype.np))
                    self.env[s.var.name] = np.where(self.active, self.value(s.value), old)
                case Alloc():
                    self.alloc(s.buf)
                case For(kind="block"):
                    self.env[s.var.name] = self.block
                    self.run(s.body)
                case For(kind="thread"):
                    assert isinstance(s.extent, Const)
                    assert s.extent.value == self.threads
                    self.env[s.var.name] = self.thread
                    self.run(s.body)
                case For(kind="serial" | "unroll"):
                    extent = self.value(s.extent)
                    for k in range(int(np.where(self.active, extent, 0).max(initial=0))):
                        self.env[s.var.name] = np.asarray(k, np.int64)
                        self.within(k < extent, s.body)
                case If():
                    condition = self.value(s.condition)
                    self.within(condition, s.then)
                    self.within(~condition, s.otherwise)
                case While():
                    going = self.active
                    while (going := going & self.value(s.condition)).any():
                        self.within(going, s.body)
                case Barrier():
                    of_block = self.active.reshape(self.blocks, self.threads)
                    assert (of_block.all(1) | ~of_block.any(1)).all(), "a barrier that some threads of a block do not reach"
                    for shared in self.shared.values():
                        shared.meet()
                case _:
                    raise TypeError(f"{type(s).__name__} {getattr(s, 'kind', '')} on a grid")

    def alloc(self, buf: Buf) -> None:
        size = max(int(buf.size), 1)
        copies = self.blocks if buf.space == "shared" else self.lanes
        self.memory[buf] = np.full(copies * size, 77).astype(buf.dtype.np)
        if buf.space == "shared":
            self.shared[buf] = Shared(buf.name, self.blocks, size)


def launch(function: LoopFunction, part: int, arrays: Sequence[np.ndarray], sizes: Mapping[str, int]) -> None:
    """Run one top-level block loop of a function on flat arrays, one for each parameter; results are written into them."""
    statement = function.body[part]
    assert isinstance(statement, For)
    blocks = int(interpret(statement.extent, sizes))
    (thread_loop,) = (s for s in statement.body if isinstance(s, For) and s.kind == "thread")
    assert isinstance(thread_loop.extent, Const)
    memory = dict(zip(function.params, arrays, strict=True))
    if blocks:
        Grid(memory, function.inputs, sizes, blocks, int(thread_loop.extent.value)).run((statement,))


def execute(function: LoopFunction, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], sizes: Mapping[str, int]) -> None:
    """Run all kernels of a function in order."""
    arrays = [np.ascontiguousarray(a).reshape(-1) for a in inputs] + [a.reshape(-1) for a in outputs]
    for part in range(len(function.body)):
        launch(function, part, arrays, sizes)
