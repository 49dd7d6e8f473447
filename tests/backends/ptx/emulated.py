"""A device without a GPU: memory is a NumPy array, launches run the loops in `simt`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from octavo.backends.lower.legalize import legalize
from octavo.backends.program import Program, plan
from octavo.backends.ptx.build import Built, lowered
from octavo.backends.ptx.kernel import Entry
from octavo.backends.ptx.run import load_gpu
from octavo.backends.runtime.executable import Executable
from octavo.backends.target import find_target
from octavo.compiler.driver import signature_of
from octavo.ir.dims import dim_product, evaluate_dim
from octavo.ir.graph import Graph
from octavo.passes.fuse import fuse
from octavo.passes.pipeline import optimize

from .simt import launch


class EmulatedDevice:
    """Stands in for `CudaDevice`; address 0 is never given out."""

    def __init__(self, built: Built, bodies: dict[str, Graph]):
        self.built, self.bodies = built, bodies
        self.memory = np.full(64, 0xAB, np.uint8)
        self.launched: list[tuple[str, int]] = []

    def using(self, work):
        return work()

    def allocate(self, nbytes: int) -> int:
        address = self.memory.size
        self.memory = np.concatenate([self.memory, np.full(-(-max(nbytes, 1) // 64) * 64, 0xAB, np.uint8)])
        return address

    def free(self, address: int) -> None:
        assert address

    def upload(self, address: int, data: np.ndarray) -> None:
        self.memory[address : address + data.nbytes] = data.reshape(-1).view(np.uint8)

    def download(self, address: int, into: np.ndarray) -> None:
        into.view(np.uint8)[:] = self.memory[address : address + into.nbytes]

    def copy(self, source: int, target: int, nbytes: int) -> None:
        self.memory[target : target + nbytes] = self.memory[source : source + nbytes].copy()

    def launch(self, entry: Entry, blocks: int, pointers: Sequence[int], sizes: Sequence[int]) -> None:
        symbol, part = next(
            (s, k) for s, f in self.built.functions.items() for k in range(len(f.body)) if entry.symbol in (s, f"{s}_{k}")
        )
        function, body = self.built.functions[symbol], self.bodies[symbol]
        env = dict(zip(function.symbols, sizes, strict=True))
        arrays = []
        for pointer, value in zip(pointers, (*body.inputs, *body.outputs), strict=True):
            nbytes = evaluate_dim(dim_product(value.shape), env) * value.dtype.itemsize
            arrays.append(self.memory[pointer : pointer + nbytes].view(value.dtype.np))
        launch(function, part, arrays, env)
        self.launched.append((entry.symbol, blocks))


def executable(graph: Graph, target: str = "sm_80") -> tuple[Executable, EmulatedDevice]:
    """A graph on an emulated device, behind the checks of every call."""
    program, built, device = on_emulated(graph, target)
    return load_gpu(program, built, signature_of(graph, program), device), device


def on_emulated(graph: Graph, target: str = "sm_80") -> tuple[Program, Built, EmulatedDevice]:
    """A planned graph, its kernels, and a device that runs them."""
    chosen = find_target(target)
    program = plan(fuse(legalize(optimize(graph), chosen), attention=False))
    built = Built(chosen, "", *lowered(program, chosen))
    bodies = {}
    for step in program.kernels():
        symbol = next(s for s in built.functions if built.launches[id(step)][0].symbol in (s, f"{s}_0"))
        bodies[symbol] = step.code
    return program, built, EmulatedDevice(built, bodies)
