"""The int8 models that other runtimes make of an ONNX file and calibration inputs, with default settings, as files that they run.

- onnxruntime's static quantization wants a model that `quant_pre_process` has prepared (shapes inferred, constants folded), and for
  weights per channel one of operator set 13, to which older ones are converted. Activations are u8 or i8. Where 1.32 fails to adjust
  scales to small biases (on a vector of scales for a MatMul), it quantizes without that step.
- onnxruntime's dynamic quantization needs no calibration, and its documentation recommends it for transformers and recurrent networks.
- OpenVINO's is `nncf.quantize`, told of a transformer where the model is one.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compiler.contender import said
from ..frontend.onnx.files import read_model
from ..ir.errors import OctavoError
from .feeds import Feeds

PER_CHANNEL = 13  # the operator set in which scales by channel came
FOLDERS = re.compile(r"(?<![\w.])/\S*/(?=\S)")  # absolute, in what a peer says: temporary, or of this machine alone

Quantize = Callable[[Path, Sequence[Feeds], bool, Path], None]  # (model, calibration inputs, is it a transformer?, file to write)


@dataclass(frozen=True)
class Recipe:
    """`runtime` runs the file that `quantize` writes, named with `suffix`.  `dynamic`: for transformers and recurrent networks only."""

    name: str
    runtime: str
    quantize: Quantize
    suffix: str = ".onnx"
    dynamic: bool = False


def reason(e: Exception) -> str:
    """Why a peer has no result, without the folders of this machine."""
    if isinstance(e, ModuleNotFoundError):
        return f"{e.name} is not installed"
    return FOLDERS.sub("", str(e) if isinstance(e, OctavoError) else said(e))


def _static(onnx: Path, calibration: Sequence[Feeds], activations: str, output: Path) -> None:
    """Activations become `activations`, QUInt8 or QInt8, and weights i8 by channel."""
    from onnxruntime import quantization

    def quantize(prepared: Path, **options: bool) -> None:
        kind, weights = quantization.QuantType[activations], quantization.QuantType.QInt8
        reader: Any = _Reader(calibration)
        quantization.quantize_static(
            prepared, output, reader, activation_type=kind, weight_type=weights, per_channel=True, extra_options=options
        )

    def quantize_somehow(prepared: Path) -> None:
        try:
            quantize(prepared)
        except ValueError:
            quantize(prepared, QDQDisableWeightAdjustForInt32Bias=True)

    _by_onnxruntime(onnx, quantize_somehow)


def _u8s8(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
    _static(onnx, calibration, "QUInt8", output)


def _s8s8(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
    _static(onnx, calibration, "QInt8", output)


def _dynamic(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
    from onnxruntime import quantization

    kind = quantization.QuantType.QInt8
    _by_onnxruntime(onnx, lambda prepared: quantization.quantize_dynamic(prepared, output, per_channel=True, weight_type=kind))


def _by_onnxruntime(onnx: Path, quantize: Callable[[Path], None]) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.tools.onnx_model_utils import update_onnx_opset

    logging.getLogger().setLevel(logging.ERROR)  # it advises on the root logger
    onnx = onnx.resolve()
    with tempfile.TemporaryDirectory(prefix="octavo-peers-") as folder, chdir(folder):  # it leaves files where it runs
        newer, prepared = (Path(folder) / f"{stage}.onnx" for stage in ("newer", "prepared"))
        proto, _ = read_model(onnx)
        if max(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")) < PER_CHANNEL:
            update_onnx_opset(onnx, PER_CHANNEL, newer)
            onnx = newer
        try:
            quant_pre_process(onnx, prepared)
        except Exception:  # its symbolic shape inference does not know every operator; the other steps do without
            quant_pre_process(onnx, prepared, skip_symbolic_shape=True)
        quantize(prepared)


class _Reader:
    """What onnxruntime reads calibration inputs from."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def _nncf(onnx: Path, calibration: Sequence[Feeds], transformer: bool, output: Path) -> None:
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]

    nncf.set_log_level(logging.ERROR)
    data = nncf.Dataset(list(calibration))
    kind = nncf.ModelType.TRANSFORMER if transformer else None
    model: Any = nncf.quantize(openvino.Core().read_model(str(onnx)), data, subset_size=len(calibration), model_type=kind)
    openvino.save_model(model, str(output), compress_to_fp16=False)


RECIPES = (
    Recipe("onnxruntime u8s8", "onnxruntime", _u8s8),
    Recipe("onnxruntime s8s8", "onnxruntime", _s8s8),
    Recipe("onnxruntime dynamic", "onnxruntime", _dynamic, dynamic=True),
    Recipe("openvino int8", "openvino", _nncf, suffix=".xml"),
)
