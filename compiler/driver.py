"""`compile`: a model in, a `Model` out; and the stages between, which the CLI and the reports use one by one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.cpu.build import Built, build
from ..backends.lower.legalize import legalize
from ..backends.program import Program, plan, weights
from ..backends.ptx.build import build as build_ptx
from ..backends.ptx.device import check_device, cuda_target
from ..backends.ptx.run import load_gpu
from ..backends.runtime.native import NativeProgram, Variant, load_native
from ..backends.runtime.signature import Requirement, Signature, TensorSpec
from ..backends.target import Target, find_target
from ..backends.tune import schedules
from ..ir.dims import symbols_of
from ..ir.errors import TargetError
from ..ir.graph import Graph
from ..ir.requirements import requirements
from ..ir.text import to_text
from ..passes.fuse import fuse
from ..passes.pipeline import optimize
from ..passes.quantize.quantize import quantize as quantized
from . import whole
from .artifact import save
from .model import Model, Saved
from .source import graph_of, profile_of
from .tune import Row, tune

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True)
class Compilation:
    """A compiled model with everything on the way to it."""

    graph: Graph  # as imported, dims pinned
    optimized: Graph
    fused: Graph
    program: Program
    built: list[Built]
    native: NativeProgram


def compile(
    model: Any,
    *,
    target: str | tuple[str, ...] = "native",
    threads: int | None = None,
    dims: Mapping[str, int] | None = None,
    quantize: Any = None,
    tune: float = 0,
    progress: Progress | None = None,
) -> Model:
    """Compile a model to native code in this process.

    model: a path to an ONNX file, its bytes, a ModelProto, a Graph or a traced function.  target: "native", or one of the CPU
    levels that this machine can run; or, where there are pycuda and a GPU, "cuda" (the best for it), "sm_80" or "sm_90a".
    threads: how many a call may use (default: OCTAVO_THREADS, then what affinity and cgroup allow).  dims: sizes for symbols of
    the input shapes, to compile for these alone.  quantize: a profile from `octavo.calibrate`, or its path: the model is
    quantized first, as by `octavo.quantize`, which has options.  tune: seconds of measuring schedules first (`tune_model`); what
    the record has of earlier runs is used in any case.  progress(stage, done, total) is called along the way.

    Raises ModelError, UnsupportedOp, ShapeError or TargetError for what cannot be compiled, QuantError for what cannot be quantized.
    """
    if quantize is not None:
        model, dims = quantized(graph_of(model, dims), profile_of(quantize)), None
    if isinstance(target, str) and (target == "cuda" or find_target(target).kind == "gpu"):
        if tune:
            raise TargetError("schedules are tuned for CPU targets only; compile for a GPU without tuning")
        return _compile_gpu(model, cuda_target() if target == "cuda" else find_target(target), dims, progress)
    if tune:
        tune_model(model, tune, target=target, dims=dims, progress=progress)
    native = compile_program(model, target=target, dims=dims, progress=progress)
    return Model(load_native(native, threads), partial(save, native))


def tune_model(
    model: Any,
    seconds: float,
    *,
    target: str | tuple[str, ...] = "native",
    dims: Mapping[str, int] | None = None,
    sizes: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> dict[str, list[Row]]:
    """Measure schedules for a model, some seconds for each target, and keep the best where every later compile finds them.

    sizes: of the symbols of the input shapes while measuring; `compile` says what the rest is.  The result: what was measured, by
    target.  Raises as `compile` does, TargetError for a target that does not run here, OctavoError where nothing can be kept.
    """
    targets = _cpu_targets(target)
    tell = progress or (lambda stage, done, total: None)
    with _collecting_later():
        _, optimized = _optimized(model, dims, tell)
    return {t.name: tune(optimized, t, seconds, sizes, tell=tell) for t in targets}


def _compile_gpu(model: Any, target: Target, dims: Mapping[str, int] | None, progress: Progress | None) -> Model:
    """A model that runs on this machine's GPU."""
    check_device(target)
    tell = progress or (lambda stage, done, total: None)
    graph, optimized = _optimized(model, dims, tell)
    program = plan(fuse(legalize(optimized, target), attention=False))
    code = build_ptx(program, target, lambda done, total: tell("compile kernels", done, total))
    return Model(load_gpu(program, code, signature_of(graph, program)), _refuse_to_save)


def _refuse_to_save(path: Path) -> Saved:
    raise TargetError("a model compiled for a GPU cannot be saved; compile it for a CPU target, or emit its PTX")


def _optimized(model: Any, dims: Mapping[str, int] | None, tell: Progress) -> tuple[Graph, Graph]:
    """A model's graph, as it is and after the graph passes."""
    tell("import", 0, 1)
    graph = graph_of(model, dims)
    tell("optimize", 0, 1)
    return graph, optimize(graph)


def compile_native(
    model: Any,
    *,
    target: str | tuple[str, ...] = "native",
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> Compilation:
    """All stages up to object code; several targets give several variants of the same program, best first."""
    targets = _cpu_targets(target)
    tell = progress or (lambda stage, done, total: None)
    with _collecting_later():
        return from_optimized(*_optimized(model, dims, tell), targets, tell)


@contextmanager
def _collecting_later() -> Iterator[None]:
    """Without Python's cyclic collector: it would visit all nodes again and again, though none is garbage while a graph holds it."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def compile_program(
    model: Any,
    *,
    target: str | tuple[str, ...] = "native",
    dims: Mapping[str, int] | None = None,
    progress: Progress | None = None,
) -> NativeProgram:
    """What `compile_native` comes to, from the cache where this model has been compiled before."""
    targets = _cpu_targets(target)
    source = getattr(model, "graph", None) if isinstance(getattr(model, "graph", None), Graph) else model
    place = whole.place_of(source, targets, dims)
    known = whole.find(place) if place else None
    if known is not None:
        return known
    result = compile_native(source, target=target, dims=dims, progress=progress)
    if place and whole.place_of(source, targets, dims) == place:  # the file has not changed since
        whole.keep(place, result.native, result.graph, source)
    return result.native


def _cpu_targets(target: str | tuple[str, ...]) -> list[Target]:
    """Targets by name, best first.  Raises TargetError."""
    names = (target,) if isinstance(target, str) else target
    if not isinstance(names, tuple | list) or not names:
        raise TargetError(f"target={target!r} names no target; give a name such as 'native', or a tuple of names")
    targets = sorted((find_target(n) for n in names), key=lambda t: len(t.requires), reverse=True)
    for t in targets:
        if t.kind != "cpu":
            raise TargetError(f"target {t.name!r} gives no artifact; octavo.compile runs it in process, --emit ptx shows its code")
    return targets


def from_optimized(graph: Graph, optimized: Graph, targets: list[Target], tell: Progress) -> Compilation:
    """The stages after the graph passes."""
    built: list[Built] = []
    variants: list[Variant] = []
    blocks: list[np.ndarray] = []  # packed constants; levels that pack alike share a block
    program: Program | None = None
    fused = optimized
    for k, t in enumerate(targets):
        fused = fuse(legalize(optimized, t, schedules(t)))
        program = plan(fused)
        prefix = f"octavo_v{k}"
        symbols = (*graph.symbols, *program.defined)
        built.append(build(program, t, prefix, symbols, lambda done, total: tell("compile kernels", done, total)))
        block = weights(program)
        home = next((k for k, known in enumerate(blocks) if np.array_equal(known, block)), len(blocks))
        if home == len(blocks):
            blocks.append(block)
        variants.append(replace(built[-1].variant, weights_offset=sum(b.size for b in blocks[:home])))
    assert program is not None
    signature = signature_of(graph, program)
    constants = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    native = NativeProgram(graph.name, signature, variants, constants, to_text(optimized))
    return Compilation(graph, optimized, fused, program, built, native)


def signature_of(graph: Graph, program: Program) -> Signature:
    """Names, dtypes and shapes as the caller sees them."""
    planned = program.graph

    def shape(v: Any) -> tuple[int | str, ...]:
        return tuple(d if isinstance(d, int) else str(d) for d in v.shape)

    inputs = tuple(TensorSpec(n, v.dtype.name, shape(v)) for n, v in zip(graph.input_names, graph.inputs, strict=True))
    run_time = set(program.defined)
    outputs = tuple(
        TensorSpec(n, v.dtype.name, shape(v), any(symbols_of(d) & run_time for d in v.shape))
        for n, v in zip(graph.output_names, planned.outputs, strict=True)
    )
    needed = tuple(Requirement(str(dim), where) for dim, where in requirements(graph).items())
    return Signature(graph.name, inputs, outputs, graph.symbols, program.defined, needed)
