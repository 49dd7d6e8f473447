"""Who is measured: Octavo and other runtimes, in f32 and with the int8 model that each makes of the calibration inputs by itself.

Each is a function from a model file and calibration inputs to something that runs, on one thread and with default settings. What it
raises is its answer; a peer that is not installed is said to be so. `..peers` makes the int8 models of the others; dynamic quantization
is measured with transformers only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.calibrate import calibrate
from ...compiler.driver import compile
from ...compiler.progress import report
from ...compiler.quantize import quantize
from ..feeds import Feeds
from ..peers import RECIPES, Recipe
from .task import Run

REFERENCE, OCTAVO_INT8 = "octavo f32", "octavo int8"


@dataclass(frozen=True)
class Contender:
    """`dynamic`: makes sense for transformers and recurrent networks only."""

    name: str
    prepare: Callable[[Path, Sequence[Feeds], bool], Run]
    dynamic: bool = False


def octavo_f32(onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    return _octavo(onnx)


def octavo_int8(onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    return _octavo(quantize(onnx, calibrate(onnx, calibration, threads=1, progress=report)))


def _octavo(model: Any) -> Run:
    compiled = compile(model, threads=1, progress=report)
    return lambda feeds: compiled.run(None, feeds)


def onnxruntime_f32(onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    return _onnxruntime(onnx)


def quantized(recipe: Recipe, onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    """The peer that a recipe is for, with the model that the recipe makes."""
    with tempfile.TemporaryDirectory(prefix="octavo-accuracy-") as folder:
        path = Path(folder) / f"quantized{recipe.suffix}"
        recipe.quantize(onnx, calibration, transformer, path)
        return _OPEN[recipe.runtime](path)


def _onnxruntime(onnx: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    return lambda feeds: [np.asarray(y) for y in session.run(None, feeds)]


def _openvino(model: Path) -> Run:
    import openvino  # pyright: ignore[reportMissingImports]

    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(model), "CPU", config).create_infer_request()
    return lambda feeds: [np.array(y) for y in request.infer(dict(feeds)).values()]


_OPEN: dict[str, Callable[[Path], Run]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}

CONTENDERS = (
    Contender(REFERENCE, octavo_f32),
    Contender("onnxruntime f32", onnxruntime_f32),
    Contender(OCTAVO_INT8, octavo_int8),
    *(Contender(r.name, partial(quantized, r), r.dynamic) for r in RECIPES),
)
