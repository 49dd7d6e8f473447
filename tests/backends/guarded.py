"""Memory whose neighbours on both sides cannot be touched, and models that run in it.

A model under guard has its inputs, outputs, constants and workspace each in pages of its own, either ending where an unreadable page
begins or starting where one ends: one byte read or written outside kills the process, so run it in a child.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from octavo.backends.runtime import executable as module
from octavo.backends.runtime.executable import Executable

SIDES = ("end", "start")
PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Guard:
    """Allocates arrays that lie against unreadable pages at one side, until `close`."""

    def __init__(self, side: str):
        self.side = side
        self._mapped: list[tuple[int, int]] = []

    def address(self, nbytes: int, alignment: int) -> int:
        """Where so many bytes lie; a side "end" whose alignment leaves a gap leaves less than `alignment` bytes readable."""
        pages = -(-max(nbytes, 1) // PAGE)
        size = (pages + 2) * PAGE
        base = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), "mmap")
        self._mapped.append((base, size))
        for page in (base, base + size - PAGE):
            if _libc.mprotect(page, PAGE, 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        first, end = base + PAGE, base + size - PAGE
        return first if self.side == "start" else (end - nbytes) // alignment * alignment

    def empty(self, shape: Any, dtype: Any = np.float64) -> np.ndarray:
        dtype = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return self._array(nbytes, dtype.alignment).view(dtype).reshape(shape)

    def aligned(self, nbytes: int) -> np.ndarray:
        return self._array(nbytes, 64)

    def copy(self, array: np.ndarray, alignment: int | None = None) -> np.ndarray:
        new = self.empty(array.shape, array.dtype) if alignment is None else self._array(array.nbytes, alignment)
        new[...] = array
        return new

    def _array(self, nbytes: int, alignment: int) -> np.ndarray:
        memory = (ctypes.c_uint8 * nbytes).from_address(self.address(nbytes, alignment))
        return np.frombuffer(memory, np.uint8, nbytes)

    def close(self) -> None:
        for base, size in self._mapped:
            _libc.munmap(base, size)


class _Numpy:
    """NumPy as the runtime sees it, but for new arrays."""

    def __init__(self, guard: Guard):
        self.empty = guard.empty

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


@contextmanager
def under_guard(executable: Executable, side: str) -> Iterator[Guard]:
    """Within it `executable` allocates from the guard; inputs are the caller's to copy there."""
    guard = Guard(side)
    weights = executable._keepalive[0]
    usual = module.aligned, module.np, executable._weights, executable._frames
    if executable._weights:
        executable._weights = guard.copy(weights, 64).ctypes.data
    executable._frames = []
    module.aligned, module.np = guard.aligned, _Numpy(guard)
    try:
        yield guard
    finally:
        module.aligned, module.np, executable._weights, executable._frames = usual
        guard.close()


def run_guarded(executable: Executable, arrays: Sequence[np.ndarray], side: str) -> list[np.ndarray]:
    """The results, in ordinary memory."""
    with under_guard(executable, side) as guard:
        results = executable.run([guard.copy(a) for a in arrays])
        return [np.array(r, copy=True) for r in results]
