"""`quantize`: a model and its profile in, a graph out that computes with 8-bit values and that `compile` takes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..ir.errors import QuantError
from ..ir.graph import Graph
from ..passes.quantize.profile import Profile
from ..passes.quantize.quantize import quantize as quantized
from ..passes.quantize.ranges import DEFAULT
from ..passes.quantize.weight_only import quantize_weights
from .metric import Metric
from .precision import choose_precision
from .source import graph_of, profile_of


def quantize(
    model: Any,
    profile: Profile | str | os.PathLike[str] | None = None,
    *,
    weight_only: str | None = None,
    block: int | None = None,
    method: str = DEFAULT,
    weights: str | None = None,
    correct_bias: bool = True,
    equalize: bool = True,
    smooth: float | None = None,
    exclude: Sequence[str] = (),
    time: bool = False,
    max_drop: float | None = None,
    metric: Metric | None = None,
    data: Iterable[Mapping[str, np.ndarray]] | None = None,
    require_speedup: float | None = None,
    threads: int = 1,
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> Graph:
    """A model with 8-bit weights and activations, by what calibration saw of its values.

    model: anything that `octavo.compile` takes.  profile: of this model with the same dims, from `octavo.calibrate` or a file of it.
    weight_only: in place of a profile, "int8" or "int4": large weights of matmuls become so small, and all else stays f32.  It pays
    where rows are few, and a matmul that always has more than 16 stays as it is.  int8 weights have a scale for each column,
    int4 weights one for every `block` rows of a column: 16, 32 (the default), 64, 128 or 256, which has to divide their number.
    method: how the range of a value follows from its histogram: "percentile" (percent=99.99), "minmax", "entropy" or "mse".  The
    default leaves out what is so rare that it would cost all other values more precision than it is worth; "minmax" is for models of
    which single large values decide.  weights: scales that reach the largest weight of a channel ("max", the default) or err least
    ("mse", the default for int4).
    correct_bias: whether biases make up for what the rounding of weights shifts the means of results by.  equalize: whether channels
    of a value between two layers get ranges alike, by factors in the weights of both, where some are so much smaller than others that
    far less error can be expected (cross-layer equalization).  smooth: how much of what is hard to quantize in normalised values moves
    into the weights of the matmuls that read them (SmoothQuant), from 0 to 1; 0.5 where a transformer loses too much otherwise.
    exclude: contractions that keep computing in floats, each by its op ("matmul"), its place in the model ("/head/*", wildcards as in
    a shell) or the name of its result.

    time: measure every layer in both precisions on this machine (`threads` of it) and leave in floats what is not faster in int8.
    max_drop, metric, data: leave in floats what a metric needs for its mean over the samples of data to be at most max_drop below that
    of the model in f32, at the least cost in speed; metric(outputs by name, number of the sample from 0) is as of `octavo debug quant`,
    higher is better, and max_drop in its own unit.  require_speedup: how many times as fast as f32 the result has to be here.
    Without `time` the result depends on the model, the profile and the options alone.

    The result is a graph with quantize and dequantize: `octavo.compile` makes integer arithmetic of it, and it exports as QDQ ONNX.
    Raises QuantError for a profile of another graph, and where nothing can be quantized; GateError where max_drop or require_speedup
    cannot be reached, with the reasons; OSError for a profile that cannot be read;
    and what `octavo.compile` raises for a model that it cannot take.
    """
    measured: dict[str, Any] = {"time": time, "max_drop": max_drop, "metric": metric, "require_speedup": require_speedup}
    if (profile is None) == (weight_only is None):
        raise QuantError("quantize by a profile, which octavo.calibrate returns, or give weight_only='int8' or 'int4', not both")
    if profile is None:
        if any(x not in (None, False) for x in measured.values()):
            raise QuantError("weights alone are quantized all or not at all: time, max_drop and require_speedup need a profile")
        return quantize_weights(graph_of(model, dims), str(weight_only), block=block, weights=weights, exclude=exclude)
    if block is not None:
        raise QuantError("a block is for weight_only='int4'; by a profile, weights have a scale for each channel")
    options |= {
        "method": method,
        "weights": weights or "max",
        "correct_bias": correct_bias,
        "equalize": equalize,
        "smooth": smooth,
        "exclude": exclude,
    }
    graph, known = graph_of(model, dims), profile_of(profile)
    if not any(x not in (None, False) for x in measured.values()):
        return quantized(graph, known, **options)
    return choose_precision(graph, known, data=data, threads=threads, **measured, **options).graph
