"""What a measurement was made on, and what about the machine makes it doubtful."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_ISA = [
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_int8",
    "asimd",
    "asimddp",
    "sve",
]
BUSY = 0.5  # runnable processes per core beyond which figures are doubtful


@dataclass(frozen=True)
class Machine:
    """The processor and software under a measurement; `warnings` are sentences for the reader."""

    cpu: str
    isa: tuple[str, ...]
    cores: int
    system: str
    python: str
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.cpu} ({' '.join(self.isa)}), {self.cores} cores, {self.system}, Python {self.python}"


def describe_machine() -> Machine:
    """The machine as it is now."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    cores = len(available_cores())
    warnings = []
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > BUSY * cores:
        warnings.append(f"the load average is {load:.1f} on {cores} cores: other work disturbs the figures")
    governor = _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor and governor != "performance":
        warnings.append(f"the frequency governor is {governor!r}: clocks vary")
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        isa=tuple(name for name in _ISA if name in flags),
        cores=cores,
        system=f"{platform.system()} {platform.machine()}",
        python=".".join(map(str, sys.version_info[:3])),
        warnings=tuple(warnings),
    )


def available_cores() -> list[int]:
    """The cores that this process may use, in order."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextmanager
def pinned(threads: int, realtime: bool = False) -> Iterator[str]:
    """Keep this thread, and those that it starts, on the first `threads` cores; gives the scheduling in words.

    realtime: at the lowest real-time priority too, before everything ordinary on these cores, where the system permits that.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield "normal priority, not pinned"
        return
    cores, policy, parameters = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    chosen = sorted(cores)[:threads]
    os.sched_setaffinity(0, chosen)
    priority = "normal priority"
    if realtime:
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
            priority = "real-time priority (SCHED_RR 1)"
    try:
        yield f"{priority}, {'core' if len(chosen) == 1 else 'cores'} {', '.join(map(str, chosen))}"
    finally:
        os.sched_setscheduler(0, policy, parameters)
        os.sched_setaffinity(0, cores)


def _cpuinfo() -> dict[str, str]:
    pairs = (line.partition(":") for line in _read("/proc/cpuinfo").split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
