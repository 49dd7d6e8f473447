"""How many threads a model uses, and the one pool of this process that all models share.

The count is the least of what was asked for (`threads=`, OCTAVO_THREADS), the CPUs that this process may run on and the
cgroup's quota.  The native code is the same in every library and in the JIT, so whoever comes first provides the pool; it
starts threads when a loop first needs them and lives as long as the process.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...ir import config
from ...ir.errors import OctavoError, TargetError


@dataclass(frozen=True)
class PoolCode:
    """Where the native pool's functions lie: `create(threads) -> pool` and `parallel_for`; `owner` keeps them loaded."""

    create: int
    parallel_for: int
    owner: object


class _View(ctypes.Structure):
    """The pool as one model sees it (`%pool` in pool.ll): the shared core and this model's share of its threads."""

    _fields_ = [("core", ctypes.c_void_p), ("threads", ctypes.c_int32)]


class _Interface(ctypes.Structure):
    """What machine code gets as `threads` (`octavo_threads` in model.h)."""

    _fields_ = [("parallel_for", ctypes.c_void_p), ("pool", ctypes.c_void_p), ("workers", ctypes.c_int32)]


class Threads:
    """A share of the process's pool: `address` goes to the machine code, `count` includes the calling thread."""

    def __init__(self, count: int, core: int, code: PoolCode):
        self.count = count
        self._view = _View(core, count)
        self._interface = _Interface(code.parallel_for, ctypes.addressof(self._view), count)
        self.address = ctypes.addressof(self._interface)


_pool: tuple[int, PoolCode] | None = None
_pool_lock = threading.Lock()
_MOST = 256  # pool.ll's limit


def share(count: int, provide: Callable[[], PoolCode]) -> Threads | None:
    """Threads for a model that may use `count`, or None where that means the calling thread alone.

    `provide` loads the pool's code and is called once a process.
    """
    global _pool
    if count < 2:
        return None
    with _pool_lock:
        if _pool is None:
            code = provide()
            pool = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int32)(code.create)(_MOST)
            if not pool:
                raise OctavoError("there is no memory for the thread pool; use threads=1")
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(code))  # sleeping threads stand in this code until the process ends
            core = ctypes.cast(pool, ctypes.POINTER(_View)).contents
            if core.threads < 2:  # a kernel that cannot wipe the pool in forked children: the pool declines to have threads
                return None
            _pool = (core.core, code)
        return Threads(min(count, _MOST), *_pool)


def thread_count(threads: int | None = None) -> int:
    """The number of threads to use: the least of `threads`, OCTAVO_THREADS, affinity and the cgroup's quota."""
    limits = [len(os.sched_getaffinity(0)), _quota()]
    asked = config.threads()
    if asked is not None:
        limits.append(asked)
    if threads is not None:
        if not isinstance(threads, int) or threads < 1:
            raise TargetError(f"threads={threads!r} is not a number of threads; give an integer of 1 or more")
        limits.append(threads)
    return min(limits)


def _quota(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int:
    """Whole CPUs that the cgroup's quota allows, rounded up; a large number where there is none."""
    quota = math.inf
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            quota = min(quota, _least(root, group, "cpu.max"))
        elif "cpu" in controllers.split(","):
            quota = min(quota, _least(root / "cpu", group, "cpu.cfs_quota_us"))
    return max(1, math.ceil(quota)) if quota < _MOST else _MOST


def _least(root: Path, group: str, name: str) -> float:
    """The smallest quota from the group up to the root, in CPUs."""
    folder, least = root / group.lstrip("/"), math.inf
    while True:
        try:
            words = (folder / name).read_text().split()
            if name == "cpu.cfs_quota_us":
                words.append((folder / "cpu.cfs_period_us").read_text().strip())
            if words[0] != "max" and int(words[0]) > 0:
                least = min(least, int(words[0]) / int(words[1]))
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            pass  # no limit at this level, or none that can be read
        if folder == root or root not in folder.parents:
            return least
        folder = folder.parent
