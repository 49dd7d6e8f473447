"""Models as PyTorch modules compute what Octavo computes; those that cannot be translated are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from octavo.benchmarks import zoo
from octavo.compiler.driver import compile
from octavo.frontend.onnx import export_model
from octavo.ir.errors import UnsupportedOp

torch = pytest.importorskip("torch")

from octavo.compiler.onnx_torch import read_module  # noqa: E402 - needs torch


def run(path: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    module, names = read_module(str(path), feeds)
    with torch.inference_mode():
        return [y.numpy() for y in module(*[torch.from_numpy(feeds[name]) for name in names])]


def agree(path: Path, feeds: dict[str, np.ndarray]) -> None:
    for ours, theirs in zip(compile(path).run(None, feeds), run(path, feeds), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "yolo", "vit_tiny", "bert_small", "gpt2"])
def test_models_of_the_zoo_compute_the_same(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(export_model(zoo.build(name, small=True)).SerializeToString())
    agree(path, zoo.feeds(name, 2, small=True))


def saved(path: Path, text: str, *weights: onnx.TensorProto) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(weights)
    onnx.save(model, path)
    return path


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.random.default_rng(len(name)).standard_normal(shape, np.float32), name)


@pytest.mark.parametrize(
    ("kind", "gates", "states", "more"),
    [("LSTM", 4, "h, c", ""), ("GRU", 3, "h", ", linear_before_reset = 1")],
)
def test_gates_of_recurrent_layers_are_put_in_order(kind: str, gates: int, states: str, more: str, tmp_path: Path) -> None:
    text = (
        f"m (float[5,2,3] x, float[2,2,4] h, float[2,2,4] c) => (float[5,2,2,4] y, float[2,2,4] last)"
        f'{{ y, last = {kind}<hidden_size = 4, direction = "bidirectional"{more}>(x, weights, recurrence, bias, , {states}) }}'
    )
    weights = (weight("weights", 2, 4 * gates, 3), weight("recurrence", 2, 4 * gates, 4), weight("bias", 2, 8 * gates))
    path = saved(tmp_path / "model.onnx", text, *weights)
    rng = np.random.default_rng(0)
    shapes = {"x": (5, 2, 3), "h": (2, 2, 4), "c": (2, 2, 4)}
    agree(path, {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()})


@pytest.mark.parametrize(
    "node",
    [
        'MaxPool<kernel_shape = [2, 2], strides = [2, 2], auto_pad = "SAME_UPPER">(x)',
        "AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)",
        "Slice(x, three, one, axis, back)",
        'Pad<mode = "reflect">(x, pads)',
        'Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , scales)',
        'Resize<mode = "nearest">(x, , scales)',
        "Gather<axis = 1>(x, back)",
        "Transpose<perm = [0, 2, 3, 1]>(x)",
        "Softmax<axis = 1>(x)",
        "ReduceMean<axes = [2, 3]>(x)",
        "ConvTranspose<strides = [2, 2]>(x, kernel)",
    ],
)
def test_attributes_mean_what_onnx_says(node: str, tmp_path: Path) -> None:
    text = f"""m (float[1,2,5,7] x) => (y)
    <int64[1] one = {{0}}, int64[1] three = {{3}}, int64[1] axis = {{2}}, int64[1] back = {{-1}},
     int64[8] pads = {{0,0,1,2,0,0,2,1}}, float[4] scales = {{1.0,1.0,2.0,3.0}}>
    {{ y = {node} }}"""
    if "pads)" in node:
        text = text.replace("[1,2,5,7]", "[2,5,7]").replace("int64[8] pads = {0,0,1,2,0,0,2,1}", "int64[6] pads = {0,1,2,0,2,1}")
    shape = (2, 5, 7) if "pads)" in node else (1, 2, 5, 7)
    path = saved(tmp_path / "model.onnx", text, weight("kernel", 2, 3, 2, 2))
    agree(path, {"x": np.random.default_rng(1).standard_normal(shape, np.float32)})


def test_what_has_no_translation_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", "m (float[3] x) => (y) { y = Det(x) }")
    with pytest.raises(UnsupportedOp, match="Det has no translation to torch"):
        run(path, {"x": np.ones(3, np.float32)})


def test_sizes_that_are_computed_from_the_input_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.onnx", "m (float[6] x, int64[2] s) => (y) { y = Reshape(x, s) }")
    with pytest.raises(UnsupportedOp, match="Reshape with a computed operand 1"):
        run(path, {"x": np.ones(6, np.float32), "s": np.array([2, 3])})
