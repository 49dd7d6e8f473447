"""A compiled model as object code in memory, and its loading into this process.

`NativeProgram` is what the code generator hands over: the JIT loads it from here, `abi.py` and `link.py` make a shared
object of it.  Every global symbol that an object defines starts with the variant's `prefix`; see `executable.py` for the two
functions that a variant must have.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from llvmlite import binding as llvm

from ...ir.errors import CodegenError, TargetError
from ..target import host_features
from .assembly import initialize, pool_ir, processor_of
from .executable import Executable, aligned
from .signature import Signature
from .threads import PoolCode, share, thread_count


@dataclass(frozen=True)
class Variant:
    """The model's code for one level of a processor: `features` are the LLVM names of what the code needs ("avx2", "fma").

    Levels pack constants differently: this one's begin `weights_offset` bytes into the program's weights, a multiple of 64.
    """

    features: tuple[str, ...]
    triple: str
    prefix: str
    objects: list[bytes]
    weights_offset: int = 0


@dataclass(frozen=True)
class NativeProgram:
    """A whole compiled model.  `variants` are for one instruction set and stand in order of preference, best first."""

    name: str
    signature: Signature
    variants: list[Variant]
    weights: bytes | np.ndarray
    graph_text: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def triple(self) -> str:
        return self.variants[0].triple

    @property
    def weights_array(self) -> np.ndarray:
        """The weights as bytes, not copied."""
        return np.frombuffer(self.weights, np.uint8)


def load_native(program: NativeProgram, threads: int | None = None) -> Executable:
    """Links the best variant that this CPU can run into the process.  Raises TargetError where there is none."""
    return load_variant(program, _choose(program), threads)[0]


def load_variant(
    program: NativeProgram, variant: Variant, threads: int | None = None, exports: Sequence[str] = ()
) -> tuple[Executable, list[int]]:
    """Links one variant into the process; also the addresses of further symbols that its objects define.

    Raises TargetError where this CPU cannot run it.
    """
    if not _runs_here(variant):
        raise _refusal(program.name, [variant])
    symbols = [f"{variant.prefix}_main", f"{variant.prefix}_workspace", *exports]
    main, workspace, *others, owner = link_in_process(variant.objects, symbols)
    weights = _aligned(program.weights_array)[variant.weights_offset :]
    return Executable(program.signature, main, workspace, weights, share(thread_count(threads), jit_pool), owner), others


def jit_pool() -> PoolCode:
    """The thread pool's code, compiled into this process."""
    ir = pool_ir(llvm.get_process_triple(), "octavo_")
    create, _, parallel_for, owner = link_in_process([ir], ["octavo_pool_create", "octavo_pool_destroy", "octavo_parallel_for"])
    return PoolCode(create, parallel_for, owner)


def _choose(program: NativeProgram) -> Variant:
    for variant in program.variants:
        if _runs_here(variant):
            return variant
    raise _refusal(program.name, program.variants)


def _runs_here(variant: Variant) -> bool:
    return processor_of(variant.triple) == processor_of(llvm.get_process_triple()) and host_features().issuperset(variant.features)


def _refusal(name: str, variants: Sequence[Variant]) -> TargetError:
    levels = "; ".join(f"{v.triple.split('-')[0]} with {', '.join(v.features) or 'nothing special'}" for v in variants)
    return TargetError(f"model {name!r} was compiled for {levels}, which this CPU cannot run; compile it with target='native'")


def _aligned(flat: np.ndarray) -> np.ndarray:
    if flat.ctypes.data % 64 == 0:
        return flat
    copy = aligned(flat.size)
    copy[:] = flat
    return copy


_jit_lock = threading.Lock()
_names = itertools.count()


@functools.cache
def _jit() -> llvm.LLJIT:
    initialize()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(jit=True, reloc="pic")
    return llvm.create_lljit_compiler(machine)


def link_in_process(parts: list[bytes] | list[str], symbols: list[str]) -> tuple[Any, ...]:
    """Loads objects (bytes) or IR (str) as one library; returns the symbols' addresses and the owner of the memory."""
    builder = llvm.JITLibraryBuilder().add_current_process()
    for part in parts:
        _ = builder.add_object_img(part) if isinstance(part, bytes) else builder.add_ir(part)
    for symbol in symbols:
        builder.export_symbol(symbol)
    try:
        with _jit_lock:
            owner = builder.link(_jit(), f"octavo{next(_names)}")
    except RuntimeError as error:
        raise CodegenError(f"the machine code does not link into this process: {error}") from error
    return (*[owner[symbol] for symbol in symbols], owner)
