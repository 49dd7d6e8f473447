"""Runs a program's steps on a GPU: memory from the program's plan, kernels launched in order, control flow on the host.

`GpuProgram.main` takes what the machine code of a CPU program takes, so that an `Executable` calls either.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from ...ir.dims import Dim, evaluate_dim
from ...ir.errors import ShapeError
from ...ir.interpret import interpret
from ..lower.kernel import body_symbols
from ..program import ALIGN, Branch, Check, Copy, Define, Kernel, Loop, Place, Program, Ref, SetIndex, Step, weights
from ..runtime.executable import Executable
from ..runtime.signature import Signature
from .build import Built
from .device import CudaDevice, Device


def load_gpu(program: Program, built: Built, signature: Signature, device: Device | None = None) -> Executable:
    """A program on a GPU behind the checks of every call.  Raises TargetError where there is no GPU that runs its code."""
    on = device if device is not None else CudaDevice(built.text, built.target)
    loaded = GpuProgram(program, built, on, signature.symbols)
    return Executable(signature, loaded.main, loaded.workspace, np.zeros(0, np.uint8))


class GpuProgram:
    """A program in a GPU's memory.  Calls may come from any thread and run one at a time."""

    def __init__(self, program: Program, built: Built, device: Device, symbols: Sequence[str]):
        """`symbols`: the order of `sizes`, before those that the run defines."""
        self.program, self.built, self.device, self.symbols = program, built, device, tuple(symbols)
        self._late = [(k, ref) for k, ref in enumerate(program.outputs) if ref.place.region != "output"]
        constants = weights(program)
        self._lock = threading.Lock()
        self._weights = device.using(lambda: self._uploaded(constants))
        self._memory, self._capacity = 0, 0

    def _uploaded(self, data: np.ndarray) -> int:
        address = self.device.allocate(data.nbytes)
        self.device.upload(address, data)
        return address

    def _env(self, sizes: int) -> dict[str, int]:
        return dict(zip(self.symbols, (ctypes.c_int64 * len(self.symbols)).from_address(sizes), strict=True))

    def workspace(self, sizes: int, workers: int) -> int:
        """Host memory that a call needs: for outputs whose sizes the run defines, at their largest."""
        env = self._env(sizes)
        return sum(_aligned(evaluate_dim(ref.place.nbytes, env)) for _, ref in self._late)

    def main(self, inputs: int, outputs: int, sizes: int, weights: int, workspace: int, threads: int) -> int:
        """One inference, with the machine interface of a CPU program's code; 0."""
        env = self._env(sizes)
        late = {}
        for k, ref in self._late:
            nbytes = evaluate_dim(ref.place.nbytes, env)
            late[k] = _memory(workspace, nbytes)
            ctypes.c_size_t.from_address(_pointer(outputs, k)).value = workspace
            workspace += _aligned(nbytes)
        graph = self.program.graph
        given = [_memory(_pointer(inputs, k), evaluate_dim(v.type.nbytes, env)) for k, v in enumerate(graph.inputs)]
        results = []
        for k, v in enumerate(graph.outputs):
            results.append(late[k] if k in late else _memory(_pointer(outputs, k), evaluate_dim(v.type.nbytes, env)))
        self.run(given, results, env)
        for k, name in enumerate(self.program.defined, len(self.symbols)):
            ctypes.c_int64.from_address(sizes + 8 * k).value = env[name]
        return 0

    def run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], env: dict[str, int]) -> None:
        """One inference; inputs and outputs are the bytes of dense host arrays.  Sizes that the run defines come into `env`."""
        with self._lock:
            self.device.using(lambda: self._run(inputs, outputs, env))

    def _run(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray], env: dict[str, int]) -> None:
        device = self.device
        arena, total = arena_offsets(self.program, env)
        offsets = []
        for array in (*inputs, *outputs):
            offsets.append(total)
            total += _aligned(array.nbytes)
        if total > self._capacity:
            if self._capacity:
                device.free(self._memory)
            self._capacity = 0
            self._memory, self._capacity = device.allocate(total), total
        call = _Call(self, env, arena, offsets[: len(inputs)], offsets[len(inputs) :])
        for array, offset in zip(inputs, offsets, strict=False):
            device.upload(self._memory + offset, array)
        call.steps(self.program.steps)
        for array, ref in zip(outputs, self.program.outputs, strict=True):
            device.download(call.address(ref), array)

    @property
    def memory(self) -> int:
        """Where inputs, outputs and the arena lie."""
        return self._memory

    @property
    def constants(self) -> int:
        """Where the weights lie."""
        return self._weights


class _Call:
    """The steps of one inference."""

    def __init__(
        self,
        owner: GpuProgram,
        env: dict[str, int],
        arena: Mapping[Place, int],
        inputs: Sequence[int],
        outputs: Sequence[int],
    ):
        self.owner, self.env, self.arena, self.inputs, self.outputs = owner, env, arena, inputs, outputs
        self.counters: dict[int, int] = {}

    def steps(self, steps: Sequence[Step]) -> None:
        device = self.owner.device
        for step in steps:
            match step:
                case Kernel():
                    self._launch(step)
                case Copy():
                    device.copy(self.address(step.source), self.address(step.target), self._size(step.nbytes))
                case SetIndex():
                    device.upload(self.address(step.target), np.array([self.counters[step.loop]], np.int64))
                case Loop():
                    self._loop(step)
                case Branch():
                    self.steps(step.then if self._read(step.condition, np.bool_) else step.otherwise)
                case Define():
                    limit = evaluate_dim(step.limit, self.env)
                    self.env[step.symbol] = max(0, min(int(self._read(step.source, np.int64)), limit))
                case Check():
                    if self._size(step.zero):
                        raise ShapeError(f"sizes do not fit together: {step.where} needs other ones")

    def _launch(self, step: Kernel) -> None:
        pointers = [self.address(r) for r in (*step.inputs, *step.outputs)]
        sizes = [self._size(d) for d in step.sizes]
        env = dict(zip(body_symbols(step.code), sizes, strict=True))
        for entry in self.owner.built.launches[id(step)]:
            blocks = int(interpret(entry.blocks, env))
            if blocks > 0:
                self.owner.device.launch(entry, blocks, pointers, sizes)

    def _loop(self, step: Loop) -> None:
        length = self._size(step.length) if step.trips is None else int(self._read(step.trips, np.int64))
        for k in range(length):
            if step.condition is not None and not self._read(step.condition, np.bool_):
                return
            self.counters[step.number] = k
            self.steps(step.steps)

    def _read(self, ref: Ref, dtype: type) -> int:
        value = np.zeros(1, dtype)
        self.owner.device.download(self.address(ref), value)
        return value[0].item()

    def _size(self, d: Dim) -> int:
        return evaluate_dim(d, self.env)

    def address(self, ref: Ref) -> int:
        """Where a value lies now."""
        place = ref.place
        match place.region:
            case "const":
                address = self.owner.constants + (place.offset or 0)
            case "input":
                address = self.owner.memory + self.inputs[place.number]
            case "output":
                address = self.owner.memory + self.outputs[place.number]
            case _:
                address = self.owner.memory + self.arena[place]
        for loop, stride, length, reverse in ref.moves:
            count = self.counters[loop]
            address += (self._size(length) - 1 - count if reverse else count) * self._size(stride)
        return address


def arena_offsets(program: Program, env: Mapping[str, int]) -> tuple[dict[Place, int], int]:
    """Where each place of the arena lies for these sizes, and where the arena ends."""
    offsets: dict[Place, int] = {}
    ends: dict[Place, int] = {}
    for place, under in program.below.items():
        offsets[place] = place.offset if place.offset is not None else max((ends[q] for q in under), default=0)
        ends[place] = offsets[place] + _aligned(evaluate_dim(place.nbytes, env))
    return offsets, max(ends.values(), default=0)


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _pointer(table: int, k: int) -> int:
    """Entry `k` of a table of addresses."""
    return ctypes.c_size_t.from_address(table + 8 * k).value


def _memory(address: int, nbytes: int) -> np.ndarray:
    """The bytes at an address, without a copy."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)) if nbytes else np.zeros(0, np.uint8)
