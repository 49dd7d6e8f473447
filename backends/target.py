"""Targets: what a processor can do, by name, and the LLVM target machine that emits its code.

`native` is the best level that this machine's processor has.  A level is a fixed set of features, so that code for it is the same
wherever it is built and can be cached and shipped; nothing outside the level is ever used, because LLVM aborts the process on an
instruction that a target lacks.
"""

from __future__ import annotations

import functools
import platform
import warnings
from collections.abc import Callable
from ctypes import string_at
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm

from ..ir.errors import CodegenError, TargetError
from .runtime.features import TILE_DATA, permitted


@dataclass(frozen=True)
class Target:
    """A processor level.

    vector_bits: width of one register; registers: how many there are; kind: "cpu" or "gpu".  `requires` are the feature names
    (as LLVM spells them) that a processor must have to run the code.  dot4: the instruction that sums products of bytes
    (`instructions.py` knows "vpdpbusd", "vpmaddwd", of pairs of 16 bits, "usdot", "sdot", of signed bytes alone, and "dp4a"), or ""
    where plain arithmetic has to do.  matrices: whether there are registers that hold matrices (AMX).
    """

    name: str
    kind: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    registers: int
    requires: tuple[str, ...]
    dot4: str = ""
    matrices: bool = False

    def lanes(self, bits: int) -> int:
        """Elements of that many bits in one register."""
        return self.vector_bits // bits


_V3 = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_VNNI = (*_V4, "avx512vnni")
_AMX = (*_VNNI, "amx-tile", "amx-int8")
_WIDE = "-prefer-256-bit"  # LLVM may use all 512
_TILES = f"{_WIDE},+avx512vnni,+amx-tile,+amx-int8"
_LINUX, _ARM_LINUX = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"

TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target("x86-64-v3", "cpu", _LINUX, "x86-64-v3", "", 256, 16, _V3, "vpmaddwd"),
        Target("x86-64-v3-vnni", "cpu", _LINUX, "x86-64-v3", "+avxvnni", 256, 16, (*_V3, "avxvnni"), "vpdpbusd"),
        Target("x86-64-v4", "cpu", _LINUX, "x86-64-v4", _WIDE, 512, 32, _V4, "vpmaddwd"),
        Target("x86-64-v4-vnni", "cpu", _LINUX, "x86-64-v4", f"{_WIDE},+avx512vnni", 512, 32, _VNNI, "vpdpbusd"),
        Target("x86-64-v4-amx", "cpu", _LINUX, "x86-64-v4", _TILES, 512, 32, _AMX, "vpdpbusd", True),
        Target("aarch64", "cpu", _ARM_LINUX, "generic", "+neon", 128, 32, ("neon",)),
        Target("aarch64-dotprod", "cpu", _ARM_LINUX, "generic", "+neon,+dotprod", 128, 32, ("neon", "dotprod"), "sdot"),
        Target("aarch64-i8mm", "cpu", _ARM_LINUX, "generic", "+neon,+dotprod,+i8mm", 128, 32, ("neon", "dotprod", "i8mm"), "usdot"),
        Target("sm_80", "gpu", "nvptx64-nvidia-cuda", "sm_80", "+ptx80", 32, 255, (), "dp4a"),
        Target("sm_90a", "gpu", "nvptx64-nvidia-cuda", "sm_90a", "+ptx80", 32, 255, (), "dp4a"),
    )
}


@functools.cache
def host_features() -> frozenset[str]:
    """The features of the processor at hand that this process may use."""
    found = {name for name, has in llvm.get_host_cpu_features().items() if has}
    if "amx-tile" in found and not permitted(TILE_DATA):
        found = {name for name in found if not name.startswith("amx")}
        warnings.warn("this processor has AMX, which the system does not let this process use (Linux does from 5.16 on)", stacklevel=2)
    return frozenset(found)


def runnable() -> list[Target]:
    """The CPU levels that this processor can run, best last.  Empty where it can run none."""
    machine = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}.get(platform.machine(), "?")
    return [t for t in TARGETS.values() if t.kind == "cpu" and t.triple.startswith(machine) and set(t.requires) <= host_features()]


def find_target(name: str) -> Target:
    """The target of that name, or the best one here for "native".  Raises TargetError."""
    if name == "native":
        levels = runnable()
        if not levels:
            raise TargetError("this processor has none of the feature levels that Octavo emits code for (AVX2 with FMA, AVX-512, NEON)")
        return levels[-1]
    if name not in TARGETS:
        raise TargetError(f"there is no target {name!r}; known: native, {', '.join(TARGETS)}")
    return TARGETS[name]


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(target: Target, effort: int = 3) -> llvm.TargetMachine:
    """A new LLVM target machine (never shared: an execution engine owns the one it is given)."""
    _initialize()
    machine = llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=effort, reloc="pic" if target.kind == "cpu" else "default", codemodel="default"
    )
    machine.set_asm_verbosity(False)
    return machine


def optimized(text: str, target: Target, effort: int = 3) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """The module of an LLVM text after LLVM's own passes.  Vectors and unrolling are ours: those passes of LLVM are off.

    effort: how hard LLVM works on instructions, 3 for code that computes; at 0 the time to compile is linear in the length of a
    function.  Its passes over the IR are those of level 1 always: what 2 and 3 add is for code that people write, and made no model
    of the zoo faster in a sixth more time.
    """
    machine = target_machine(target, effort)
    try:
        module = llvm.parse_assembly(text, context=llvm.create_context())
        module.verify()
    except RuntimeError as e:
        raise CodegenError(f"LLVM refuses the code of a kernel: {e}") from e
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    _unlocked("LLVMPY_RunNewModulePassManager")(builder.getModulePassManager(), module, builder)
    return module, machine


def object_code(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> bytes:
    """The object file of a module.  Raises CodegenError where LLVM refuses."""
    with llvm.ffi.OutputString() as problem:
        buffer = _unlocked("LLVMPY_TargetMachineEmitToMemory")(machine, module, 1, problem)
        if not buffer:
            raise CodegenError(f"LLVM cannot emit the code of a kernel: {problem}")
    lib = llvm.ffi.lib
    try:
        return string_at(lib.LLVMPY_GetBufferStart(buffer), lib.LLVMPY_GetBufferSize(buffer))
    finally:
        lib.LLVMPY_DisposeMemoryBuffer(buffer)


def _unlocked(name: str) -> Callable[..., Any]:
    """A function of LLVM for several threads at a time.  llvmlite lets one in, but LLVM itself only asks for a context each."""
    function = getattr(llvm.ffi.lib, name)
    return getattr(function, "_cfn", function)
