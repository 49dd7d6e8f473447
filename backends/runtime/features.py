"""How a program finds out at run time whether a processor has a feature: cpuid and xgetbv bits, or Linux's auxiliary vector.

Names are LLVM's.  A variant may only ask for features that stand here; the baseline of an instruction set needs none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from dataclasses import dataclass

from ...ir.errors import TargetError


@dataclass(frozen=True)
class Probe:
    """`word(leaf, subleaf, register)` must have `bit` set, and the system must save the register state `state` (XCR0).

    permission: of this component of the state, if not 0, the system must be asked once whether the process may use it.
    """

    leaf: int
    subleaf: int
    register: int
    bit: int
    state: int = 0
    permission: int = 0


_A, _B, _C, _D = range(4)  # eax, ebx, ecx, edx
_YMM, _ZMM, _TILES = 0x6, 0xE6, 0x60000
TILE_DATA = 18  # the component of the state that holds AMX's tiles
# On x86-64, arch_prctl(ARCH_REQ_XCOMP_PERM, component) asks Linux (5.16 and later) for the whole process, threads to come included; it
# gives 0 as often as it is asked, once it was permitted.
ARCH_PRCTL, ASK = 158, 0x1023
_EXTENDED = 0x8000_0001
_HWCAP, _HWCAP2 = 16, 26  # keys of getauxval

_X86 = {
    "sse3": Probe(1, 0, _C, 0),
    "pclmul": Probe(1, 0, _C, 1),
    "ssse3": Probe(1, 0, _C, 9),
    "fma": Probe(1, 0, _C, 12, _YMM),
    "cx16": Probe(1, 0, _C, 13),
    "sse4.1": Probe(1, 0, _C, 19),
    "sse4.2": Probe(1, 0, _C, 20),
    "movbe": Probe(1, 0, _C, 22),
    "popcnt": Probe(1, 0, _C, 23),
    "aes": Probe(1, 0, _C, 25),
    "xsave": Probe(1, 0, _C, 26),
    "avx": Probe(1, 0, _C, 28, _YMM),
    "f16c": Probe(1, 0, _C, 29, _YMM),
    "bmi": Probe(7, 0, _B, 3),
    "avx2": Probe(7, 0, _B, 5, _YMM),
    "bmi2": Probe(7, 0, _B, 8),
    "avx512f": Probe(7, 0, _B, 16, _ZMM),
    "avx512dq": Probe(7, 0, _B, 17, _ZMM),
    "adx": Probe(7, 0, _B, 19),
    "avx512ifma": Probe(7, 0, _B, 21, _ZMM),
    "avx512cd": Probe(7, 0, _B, 28, _ZMM),
    "avx512bw": Probe(7, 0, _B, 30, _ZMM),
    "avx512vl": Probe(7, 0, _B, 31, _ZMM),
    "avx512vbmi": Probe(7, 0, _C, 1, _ZMM),
    "avx512vbmi2": Probe(7, 0, _C, 6, _ZMM),
    "gfni": Probe(7, 0, _C, 8),
    "vaes": Probe(7, 0, _C, 9, _YMM),
    "vpclmulqdq": Probe(7, 0, _C, 10, _YMM),
    "avx512vnni": Probe(7, 0, _C, 11, _ZMM),
    "avx512bitalg": Probe(7, 0, _C, 12, _ZMM),
    "avx512vpopcntdq": Probe(7, 0, _C, 14, _ZMM),
    "avx512fp16": Probe(7, 0, _D, 23, _ZMM),
    "amx-tile": Probe(7, 0, _D, 24, _TILES, TILE_DATA),
    "amx-int8": Probe(7, 0, _D, 25, _TILES, TILE_DATA),
    "avxvnni": Probe(7, 1, _A, 4, _YMM),
    "avx512bf16": Probe(7, 1, _A, 5, _ZMM),
    "avxifma": Probe(7, 1, _A, 23, _YMM),
    "avxvnniint8": Probe(7, 1, _D, 4, _YMM),
    "sahf": Probe(_EXTENDED, 0, _C, 0),
    "lzcnt": Probe(_EXTENDED, 0, _C, 5),
}
_ARM = {
    "fullfp16": Probe(_HWCAP, 0, 0, 10),
    "lse": Probe(_HWCAP, 0, 0, 8),
    "dotprod": Probe(_HWCAP, 0, 0, 20),
    "sve": Probe(_HWCAP, 0, 0, 22),
    "sve2": Probe(_HWCAP2, 0, 0, 1),
    "i8mm": Probe(_HWCAP2, 0, 0, 13),
    "bf16": Probe(_HWCAP2, 0, 0, 14),
}
_PROBES = {"x86_64": _X86, "aarch64": _ARM}
_BASELINE = {"x86_64": {"64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2", "x87"}, "aarch64": {"fp-armv8", "neon"}}


def probes_of(processor: str, features: Iterable[str]) -> list[Probe]:
    """What must hold for code that uses these features; none for what every such processor has.  Raises TargetError."""
    table = _PROBES[processor]
    needed = [f for f in features if f not in _BASELINE[processor]]
    for feature in needed:
        if feature not in table:
            raise TargetError(f"whether a {processor} has {feature!r} cannot be tested at run time; known: {', '.join(table)}")
    return [table[feature] for feature in needed]


def permitted(component: int) -> bool:
    """Whether Linux lets this process use a component of the register state: asks for it."""
    return ctypes.CDLL(None).syscall(ctypes.c_long(ARCH_PRCTL), ctypes.c_long(ASK), ctypes.c_long(component)) == 0
