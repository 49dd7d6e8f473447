"""AMX where the processor has none: `amx.c` answers the SIGILL of each of its instructions.  What is tested is the code that runs on a
processor that has it, byte for byte.
"""

from __future__ import annotations

import ctypes
import faulthandler
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from octavo.backends import target
from octavo.backends.runtime import native

LEVEL = "x86-64-v4-amx"
FEATURES = frozenset({"amx-tile", "amx-int8"})
HERE = target.host_features()  # of the processor
runnable = target.runnable  # by these


class Emulator:
    """AMX of this process."""

    def __init__(self, library: ctypes.CDLL):
        self._library = library
        library.amx_problem.restype = ctypes.c_char_p
        library.amx_products.restype = ctypes.c_long

    def install(self) -> None:
        """Answer SIGILL from now on."""
        assert self._library.amx_install() == 0

    @property
    def products(self) -> int:
        """How many products of tiles were computed so far."""
        return self._library.amx_products()

    def check(self) -> None:
        """Nothing was done that a processor refuses, and every thread gave its tiles back."""
        problem = self._library.amx_problem().decode()
        self._library.amx_forgive()
        assert problem == "", problem
        assert self._library.amx_in_use() == 0, "a thread kept its tiles"


def enable(patch: pytest.MonkeyPatch) -> Emulator | None:
    """Have this process run code for AMX, but not as what is native here; None where the processor does so by itself."""
    if HERE >= FEATURES:
        return None
    *others, best = (t for t in runnable() if t.name != LEVEL)
    patch.setattr(target, "runnable", lambda: [*others, target.TARGETS[LEVEL], best])
    patch.setattr(native, "host_features", lambda: HERE | FEATURES)
    found, disable = emulator(), faulthandler.disable

    def disable_and_install() -> None:
        disable()
        found.install()  # children that isolate a crash disable it, which takes all handlers off

    patch.setattr(faulthandler, "disable", disable_and_install)
    found.install()
    return found


def missing() -> str:
    """Why code for AMX cannot run here, natively or emulated; empty if it can."""
    lacking = set(target.TARGETS[LEVEL].requires) - FEATURES - HERE
    if not sys.platform.startswith("linux") or lacking:
        return f"needs an x86-64 Linux with {', '.join(sorted(lacking)) or 'the rest of its level'}"
    return "" if shutil.which("cc") or HERE >= FEATURES else "needs AMX, or a C compiler (cc) to build an emulator of it"


@functools.cache
def emulator() -> Emulator:
    """Built once."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "amx.so")
        source = Path(__file__).with_suffix(".c")
        flags = ["-O3", "-mavx512f", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(path)], check=True)
        return Emulator(ctypes.CDLL(str(path)))
