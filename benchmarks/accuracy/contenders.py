"""Who is measured: Octavo and other runtimes, in f32 and with the int8 model that each makes of the calibration inputs by itself.

Each is a function from a model file and calibration inputs to something that runs, on one thread and with default settings. What it
raises is its answer; a peer that is not installed is said to be so.

- onnxruntime's static quantization wants a model that `quant_pre_process` has prepared (shapes inferred, constants folded), and for
  weights per channel one of operator set 13, to which older ones are converted. Activations are u8 or i8. Where 1.32 fails to adjust
  scales to small biases (on a vector of scales for a MatMul), it quantizes without that step.
- onnxruntime's dynamic quantization needs no calibration, and its documentation recommends it for transformers and recurrent networks:
  only these are measured with it.
- OpenVINO's is `nncf.quantize`, told of a transformer where the task says that the model is one.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...compiler.calibrate import calibrate
from ...compiler.driver import compile
from ...compiler.progress import report
from ...compiler.quantize import quantize
from ...frontend.onnx.files import read_model
from ..feeds import Feeds
from .task import Run

PER_CHANNEL = 13  # the operator set in which scales by channel came
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


def onnxruntime_static(onnx: Path, calibration: Sequence[Feeds], activations: str) -> Run:
    """Static quantization of activations to `activations`, QUInt8 or QInt8, and of weights to i8 by channel."""
    from onnxruntime import quantization

    def quantize(prepared: Path, quantized: Path, **options: bool) -> None:
        kind, weights = quantization.QuantType[activations], quantization.QuantType.QInt8
        reader: Any = _Reader(calibration)
        quantization.quantize_static(
            prepared, quantized, reader, activation_type=kind, weight_type=weights, per_channel=True, extra_options=options
        )

    def quantize_somehow(prepared: Path, quantized: Path) -> None:
        try:
            quantize(prepared, quantized)
        except ValueError:
            quantize(prepared, quantized, QDQDisableWeightAdjustForInt32Bias=True)

    return _quantized_by_onnxruntime(onnx, quantize_somehow)


def onnxruntime_dynamic(onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    from onnxruntime import quantization

    return _quantized_by_onnxruntime(
        onnx,
        lambda prepared, quantized: quantization.quantize_dynamic(
            prepared, quantized, per_channel=True, weight_type=quantization.QuantType.QInt8
        ),
    )


def _quantized_by_onnxruntime(onnx: Path, quantize: Callable[[Path, Path], None]) -> Run:
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.tools.onnx_model_utils import update_onnx_opset

    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger
    onnx = onnx.resolve()
    with tempfile.TemporaryDirectory(prefix="octavo-accuracy-") as folder, chdir(folder):  # it leaves files where it runs
        newer, prepared, quantized = (Path(folder) / f"{stage}.onnx" for stage in ("newer", "prepared", "quantized"))
        proto, _ = read_model(onnx)
        if max(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")) < PER_CHANNEL:
            update_onnx_opset(onnx, PER_CHANNEL, newer)
            onnx = newer
        try:
            quant_pre_process(onnx, prepared)
        except Exception:  # its symbolic shape inference does not know every operator; the other steps do without
            quant_pre_process(onnx, prepared, skip_symbolic_shape=True)
        quantize(prepared, quantized)
        return _onnxruntime(quantized)


class _Reader:
    """What onnxruntime reads calibration inputs from."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def _onnxruntime(onnx: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])
    return lambda feeds: [np.asarray(y) for y in session.run(None, feeds)]


def openvino_int8(onnx: Path, calibration: Sequence[Feeds], transformer: bool) -> Run:
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]

    nncf.set_log_level(logging.ERROR)
    core = openvino.Core()
    data = nncf.Dataset(list(calibration))
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    model: Any = nncf.quantize(core.read_model(str(onnx)), data, subset_size=len(calibration), model_type=kind)
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", config).create_infer_request()
    return lambda feeds: [np.array(y) for y in request.infer(dict(feeds)).values()]


CONTENDERS = (
    Contender(REFERENCE, octavo_f32),
    Contender("onnxruntime f32", onnxruntime_f32),
    Contender(OCTAVO_INT8, octavo_int8),
    Contender("onnxruntime u8s8", lambda onnx, calibration, transformer: onnxruntime_static(onnx, calibration, "QUInt8")),
    Contender("onnxruntime s8s8", lambda onnx, calibration, transformer: onnxruntime_static(onnx, calibration, "QInt8")),
    Contender("onnxruntime dynamic", onnxruntime_dynamic, dynamic=True),
    Contender("openvino int8", openvino_int8),
)
