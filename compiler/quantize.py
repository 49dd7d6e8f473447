"""`quantize`: a model and its profile in, a graph out that computes with 8-bit values and that `compile` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ir.errors import QuantError
from ..ir.graph import Graph
from ..passes.quantize.profile import Profile
from ..passes.quantize.quantize import quantize as quantized
from ..passes.quantize.quantize import quantize_weights
from ..passes.quantize.ranges import DEFAULT
from .source import graph_of


def quantize(
    model: Any,
    profile: Profile | str | os.PathLike[str] | None,
    *,
    method: str = DEFAULT,
    weights: str = "max",
    correct_bias: bool = True,
    smooth: float | None = None,
    exclude: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
    **options: Any,
) -> Graph:
    """A model with 8-bit weights and activations, by what calibration saw of its values.

    model: anything that `octavo.compile` takes.  profile: of this model with the same dims, from `octavo.calibrate` or a file of it;
    None makes bytes of large weights of matmuls alone, which is what bounds these where rows are few, and leaves all else as it is.
    method: how the range of a value follows from its histogram: "percentile" (percent=99.99), "minmax", "entropy" or "mse".  The
    default leaves out what is so rare that it would cost all other values more precision than it is worth; "minmax" is for models of
    which single large values decide.  weights: scales that reach the largest weight of a channel ("max") or err least ("mse").
    correct_bias: whether biases make up for what the rounding of weights shifts the means of results by.  smooth: how much of what is
    hard to quantize in normalised values moves into the weights of the matmuls that read them (SmoothQuant), from 0 to 1; 0.5 where a
    transformer loses too much otherwise.  exclude: contractions that keep computing in floats, each by its op ("matmul"), its place
    in the model ("/head/*", wildcards as in a shell) or the name of its result.

    The result is a graph with quantize and dequantize: `octavo.compile` makes integer arithmetic of it, and it exports as QDQ ONNX.
    Raises QuantError for a profile of another graph, and where nothing can be quantized; OSError for a profile that cannot be read;
    and what `octavo.compile` raises for a model that it cannot take.
    """
    if profile is None:
        return quantize_weights(graph_of(model, dims), weights=weights, exclude=exclude)
    options |= {"method": method, "weights": weights, "correct_bias": correct_bias, "smooth": smooth, "exclude": exclude}
    return quantized(graph_of(model, dims), loaded(profile), **options)


def loaded(profile: Profile | str | os.PathLike[str]) -> Profile:
    """A profile, from its file if it is a path.  Raises QuantError for anything else, OSError for a file that cannot be read."""
    if isinstance(profile, str | os.PathLike):
        profile = Profile.load(Path(profile))
    if not isinstance(profile, Profile):
        raise QuantError(f"a profile is what octavo.calibrate returns, or the path of its file, not a {type(profile).__name__}")
    return profile
