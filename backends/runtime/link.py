"""Object files to a shared object, with whatever linker the machine has; nothing but libc is needed to load the result.

The same objects give the same bytes: no build id, no time, no path, and files enter the linker under fixed names.  The library
names no other library, so that one file serves every libc of its instruction set; the symbols that it leaves open are checked
against the few that any libc has.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...ir.errors import CodegenError, TargetError
from .assembly import host_processor, processor_of

# What pool.ll and abi.ll call, and what LLVM may call by itself.  Each has one version, or versions that all serve, in glibc:
# pthread_cond_wait, for one, would bind to a variant of 1998.
LIBC = frozenset({
    "clock_gettime", "close", "free", "getauxval", "lseek", "madvise", "malloc", "memcmp", "memcpy", "memmove", "memset",
    "mmap", "munmap", "open", "pthread_create", "pthread_join", "pthread_sigmask", "sigdelset", "sigfillset",
    "syscall",
})  # fmt: skip

_FLAGS = [
    "-shared", "--build-id=none", "--hash-style=gnu", "--gc-sections", "--strip-debug", "-Bsymbolic", "-z", "noexecstack",
    "-z", "relro", "-z", "now", "-z", "noseparate-code",
]  # fmt: skip


def link_shared(objects: Sequence[bytes], exports: Sequence[str], triple: str) -> bytes:
    """A shared object that exports exactly `exports`.  Raises TargetError where no linker can be found."""
    command = _linker(triple)
    with tempfile.TemporaryDirectory(prefix="octavo-link-") as folder:
        names = []
        for number, data in enumerate(objects):
            names.append(f"{number}.o")
            Path(folder, names[-1]).write_bytes(data)
        Path(folder, "exports.map").write_text("{ global: " + " ".join(f"{e};" for e in exports) + " local: *; };\n")
        flags = [*_FLAGS, "--version-script=exports.map", "-o", "model.so", *names]
        if command[-1].endswith("cc"):  # a compiler driver hands its linker what follows -Wl
            flags = ["-shared", "-nostdlib", *[f"-Wl,{f}" if f.startswith("-") or "=" in f else f for f in _joined(flags[1:])]]
        result = subprocess.run(
            [*command, *flags], cwd=folder, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
        )
        if result.returncode:
            raise CodegenError(f"{' '.join(command)} failed to link the model:\n{result.stderr.strip()[-2000:]}")
        library = Path(folder, "model.so").read_bytes()
    foreign = sorted(set(open_symbols(library)) - LIBC)
    if foreign:
        raise CodegenError(f"the machine code calls {', '.join(foreign)}, which libc alone does not provide")
    return library


def _joined(flags: list[str]) -> list[str]:
    """`-z now` and `-o file` as the driver wants them: one `-Wl` for the first, the second unchanged."""
    joined: list[str] = []
    rest = iter(flags)
    for flag in rest:
        if flag == "-z":
            joined.append(f"-z,{next(rest)}")
        elif flag == "-o":
            joined.append("-omodel.so")
            next(rest)
        else:
            joined.append(flag)
    return joined


def _linker(triple: str) -> list[str]:
    """The command of a linker for this triple: ld, then cc, then the ziglang package's."""
    processor = processor_of(triple)
    if processor == host_processor():
        candidates = ["ld", "ld.lld", "cc"]
    else:
        candidates = [f"{processor.name}-linux-gnu-ld", "ld.lld", f"{processor.name}-linux-gnu-gcc"]
    for name in candidates:
        found = shutil.which(name)
        if found:
            return [found]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "ld.lld"]
    raise TargetError(
        f"saving a model for {processor.name} needs a linker and none of {', '.join(candidates)} is on the PATH; "
        "install binutils (apt install binutils) or, without root, pip install ziglang"
    )


def open_symbols(library: bytes) -> list[str]:
    """The dynamic symbols that a 64-bit little-endian ELF file expects others to define."""
    (sections_at,) = struct.unpack_from("<Q", library, 40)
    size, count = struct.unpack_from("<HH", library, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", library, sections_at + k * size) for k in range(count)]
    names = []
    for _, kind, _, _, offset, nbytes, link, _, _, _ in headers:
        if kind != 11:  # SHT_DYNSYM
            continue
        strings = headers[link][4]
        for at in range(offset + 24, offset + nbytes, 24):  # the first entry is empty by definition
            name, _, _, section = struct.unpack_from("<IBBH", library, at)
            if section == 0:
                end = library.index(b"\0", strings + name)
                names.append(library[strings + name : end].decode("ascii"))
    return names
