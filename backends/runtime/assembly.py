"""The runtime's own LLVM IR: fills in the text templates beside this file and turns IR into object code.

Templates are LLVM IR with `$name` and `${name}` placeholders.  What differs between processors is gathered here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from string import Template

from llvmlite import binding as llvm

from ...ir.errors import CodegenError, TargetError

MAX_THREADS = 256
SPIN_NS = 100_000  # how long an idle worker waits awake: some calls from Python lie 10 to 50 us apart
CHUNKS = 8  # that each thread's part of a loop is cut into
_CORE_BYTES = 36_864  # holds 384 bytes of state and MAX_THREADS slots of 128; a whole number of small pages

_X86 = """
define internal void @${prefix}pause() nounwind alwaysinline {
  call void @llvm.x86.sse2.pause()
  ret void
}
define internal i64 @${prefix}get_mode() nounwind {
  %slot = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %slot)
  %mode = load i32, ptr %slot
  %wide = zext i32 %mode to i64
  ret i64 %wide
}
define internal void @${prefix}set_mode(i64 %wide) nounwind {
  %slot = alloca i32
  %mode = trunc i64 %wide to i32
  store i32 %mode, ptr %slot
  call void @llvm.x86.sse.ldmxcsr(ptr %slot)
  ret void
}
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
"""

_ARM = """
define internal void @${prefix}pause() nounwind alwaysinline {
  call void @llvm.aarch64.hint(i32 1)  ; yield
  ret void
}
define internal i64 @${prefix}get_mode() nounwind {
  %mode = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %mode
}
define internal void @${prefix}set_mode(i64 %mode) nounwind {
  call void @llvm.aarch64.set.fpcr(i64 %mode)
  ret void
}
declare void @llvm.aarch64.hint(i32)
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
"""


@dataclass(frozen=True)
class Processor:
    """What the runtime must know of an instruction set: its ELF machine number, Linux's futex number, some IR."""

    name: str
    elf_machine: int
    futex: int
    functions: str


PROCESSORS = {
    "x86_64": Processor("x86_64", 62, 202, _X86),
    "aarch64": Processor("aarch64", 183, 98, _ARM),
}


def processor_of(triple: str) -> Processor:
    """The processor of a target triple.  Raises TargetError for one that the runtime cannot serve."""
    name = {"amd64": "x86_64", "arm64": "aarch64"}.get(triple.split("-")[0], triple.split("-")[0])
    if name not in PROCESSORS:
        raise TargetError(f"the runtime has no code for {triple!r}; it has for {', '.join(PROCESSORS)} on Linux")
    return PROCESSORS[name]


def host_processor() -> Processor:
    """The processor of this machine."""
    return processor_of(llvm.get_process_triple())


def pool_ir(triple: str, prefix: str) -> str:
    """The thread pool as LLVM IR; its functions are PREFIXpool_create, PREFIXpool_destroy and PREFIXparallel_for."""
    processor = processor_of(triple)
    functions = processor.functions.replace("${prefix}", prefix)
    return template("pool.ll").substitute(
        prefix=prefix,
        FUTEX=processor.futex,
        SPIN_NS=SPIN_NS,
        CHUNKS=CHUNKS,
        MAX_THREADS=MAX_THREADS,
        CORE_BYTES=_CORE_BYTES,
        processor=functions,
    )


@functools.cache
def initialize() -> None:
    """Registers every target of llvmlite, once a process."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()


def assemble(ir: str, triple: str) -> bytes:
    """Object code of LLVM IR for the baseline processor of a triple, position independent."""
    initialize()
    try:
        module = llvm.parse_assembly(ir)
        module.verify()
    except RuntimeError as error:
        raise CodegenError(f"the runtime's own LLVM IR does not assemble for {triple}: {error}") from error
    module.triple = triple
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic", codemodel="small")
    module.data_layout = str(machine.target_data)
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    return machine.emit_object(module)


@functools.cache
def template(name: str) -> Template:
    """A template of this folder."""
    return Template(Path(__file__).with_name(name).read_text("utf-8"))
