"""What the layers of a model take: times of the kernels that compute given contractions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir.errors import QuantWarning
from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.ops.registry import OPS
from .driver import compile_native
from .profile import profile
from .progress import report


@dataclass(frozen=True)
class LayerTimes:
    """Microseconds of the kernels of each contraction by its number; numbers of the others that the same kernels compute; of all
    kernels, and of those that compute none of the contractions."""

    us: Mapping[int, float]
    together: Mapping[int, tuple[int, ...]]
    total_us: float
    other_us: float


def layer_times(
    name: str, graph: Graph, contractions: Sequence[Node], sample: Mapping[str, np.ndarray], seconds: float, threads: int
) -> LayerTimes:
    """Run a graph on a sample for some seconds, in its name for progress.  Layers are told by places that no other node has."""
    places = {n: f"layer {k}" for k, n in enumerate(contractions)}
    numbers = {place: k for k, place in enumerate(places.values())}

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        return Node(node.op, inputs, node.attrs, node.types, places[node]).outputs if node in places else None

    report(f"compile {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuantWarning)  # the places are made up; who quantized was told
        compiled = compile_native(rewrite(graph, rule), progress=report)
    found = profile(compiled, sample, threads=threads, seconds=seconds)
    times: dict[int, float] = {}
    together: dict[int, set[int]] = {}
    other = 0.0
    for kernel, (_, step) in zip(found.kernels, compiled.built[0].calls, strict=True):
        nodes = [n for n in step.body.nodes if n.op in OPS and OPS[n.op].kind == "contraction"]
        here = {numbers[n.loc] for n in nodes if n.loc in numbers}
        for k in here:
            times[k] = times.get(k, 0.0) + kernel.us
            together.setdefault(k, set()).update(here - {k})
        other += 0.0 if here else kernel.us
    return LayerTimes(times, {k: tuple(sorted(v)) for k, v in together.items()}, found.kernel_us, other)
