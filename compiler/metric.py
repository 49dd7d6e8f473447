"""A metric of a model's answers, as `octavo debug quant` and `octavo quantize --max-drop` take it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ir.errors import OctavoError, QuantError, QuantWarning
from ..ir.graph import Graph
from .data import run_sample
from .driver import compile
from .progress import report

Metric = Callable[[dict[str, np.ndarray], int], float]  # (outputs by name, number of the sample from 0); higher is better


def mean_metric(metric: Metric, graph: Graph, samples: Sequence[Any], threads: int | None) -> float:
    """The mean over the samples of what the metric says of a graph's outputs.  Raises QuantError where it fails or is not finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", QuantWarning)
        compiled = compile(graph, threads=threads)
    values = []
    for number, sample in enumerate(samples):
        outputs = run_sample(compiled, sample, number + 1)
        values.append(_value(metric, dict(zip(graph.output_names, outputs, strict=True)), number))
        report("samples", number + 1, len(samples))
    return float(np.mean(values))


def _value(metric: Metric, outputs: dict[str, np.ndarray], number: int) -> float:
    """What the metric says of a sample; whatever goes wrong in it is the metric's, and said to be."""
    try:
        value = float(metric(outputs, number))
    except OctavoError:
        raise
    except Exception as e:
        raise QuantError(f"the metric failed on sample {number}: {type(e).__name__}: {e}") from e
    if not math.isfinite(value):
        raise QuantError(f"the metric gave {value} for sample {number}; it must give a finite number, of which a higher one is better")
    return value
