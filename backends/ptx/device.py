"""The one place that talks to a GPU: memory, copies and launches, through pycuda.

pycuda is an optional extra and is imported when a device is opened; without it, or without a GPU, that is a TargetError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from ...ir.errors import OctavoError, TargetError
from ..target import Target, find_target
from .kernel import Entry

Result = TypeVar("Result")


class Device(Protocol):
    """What a program needs of a GPU.  Addresses are integers; work is in order; `download` waits for it."""

    def allocate(self, nbytes: int) -> int: ...

    def free(self, address: int) -> None: ...

    def upload(self, address: int, data: np.ndarray) -> None: ...

    def download(self, address: int, into: np.ndarray) -> None: ...

    def copy(self, source: int, target: int, nbytes: int) -> None: ...

    def launch(self, entry: Entry, blocks: int, pointers: Sequence[int], sizes: Sequence[int]) -> None: ...

    def using(self, work: Callable[[], Result]) -> Result:
        """Runs `work` with the device current for this thread."""
        ...


class CudaDevice:
    """The first GPU that CUDA shows, with a module loaded."""

    def __init__(self, text: str, target: Target):
        """Raises TargetError where pycuda or a GPU is missing, or the GPU cannot run code for `target`."""
        self._driver, device = check_device(target)
        self._context = device.retain_primary_context()
        self._functions: dict[str, Any] = {}
        self._allocations: dict[int, Any] = {}
        self._module = self.using(lambda: self._driver.module_from_buffer(text.encode()))

    def using(self, work: Callable[[], Result]) -> Result:
        self._context.push()
        try:
            return work()
        except self._driver.Error as error:
            raise OctavoError(f"the GPU failed: {error}") from error
        finally:
            self._driver.Context.pop()

    def allocate(self, nbytes: int) -> int:
        allocation = self._driver.mem_alloc(max(nbytes, 1))
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        self._allocations.pop(address).free()

    def upload(self, address: int, data: np.ndarray) -> None:
        if data.nbytes:
            self._driver.memcpy_htod(address, data)

    def download(self, address: int, into: np.ndarray) -> None:
        if into.nbytes:
            self._driver.memcpy_dtoh(into, address)

    def copy(self, source: int, target: int, nbytes: int) -> None:
        if nbytes:
            self._driver.memcpy_dtod(target, source, nbytes)

    def launch(self, entry: Entry, blocks: int, pointers: Sequence[int], sizes: Sequence[int]) -> None:
        function = self._functions.get(entry.symbol)
        if function is None:
            function = self._functions[entry.symbol] = self._module.get_function(entry.symbol)
            function.prepare([np.uintp] * len(pointers) + [np.int64] * len(sizes))
        function.prepared_call((blocks, 1), (entry.threads, 1, 1), *pointers, *sizes)


def _open() -> tuple[Any, Any]:
    """pycuda's driver module and the first device."""
    try:
        import pycuda.driver as driver  # pyright: ignore[reportMissingImports]
    except ImportError as error:  # pycuda itself, or the driver's library, is not there
        raise TargetError(f"running on a GPU needs pycuda and NVIDIA's driver ({error}); install octavo[gpu]") from error
    try:
        driver.init()
        return driver, driver.Device(0)
    except driver.Error as error:
        raise TargetError(f"there is no GPU that CUDA can use: {error}") from error


def check_device(target: Target) -> tuple[Any, Any]:
    """pycuda's driver module and a GPU that runs code for the target.  Raises TargetError where there is none."""
    driver, device = _open()
    if not _runs(target, device.compute_capability()):
        major, minor = device.compute_capability()
        raise TargetError(f"the GPU {device.name()} is of compute capability {major}.{minor} and cannot run code for {target.name}")
    return driver, device


def _runs(target: Target, capability: tuple[int, int]) -> bool:
    """Code for an architecture runs on later ones, but that for one with a letter (sm_90a) on no other."""
    number = target.name.removeprefix("sm_")
    wanted = (int(number.rstrip("a")[:-1]), int(number.rstrip("a")[-1]))
    return capability == wanted if number.endswith("a") else capability >= wanted


def cuda_target() -> Target:
    """The best target for the GPU at hand.  Raises TargetError where there is none that Octavo has code for."""
    _, device = _open()
    capability = device.compute_capability()
    for name in ("sm_90a", "sm_80"):
        if _runs(find_target(name), capability):
            return find_target(name)
    raise TargetError(f"the GPU {device.name()} is older than sm_80, the oldest that Octavo emits code for")
