"""`InferenceSession`: code written for onnxruntime runs as it is and gets the same answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import octavo
import onnx
import pytest
from octavo.frontend.metadata import ModelMetadata
from onnx import TensorProto, helper

DTYPES = {
    "f": TensorProto.FLOAT,
    "h": TensorProto.FLOAT16,
    "i": TensorProto.INT64,
    "b": TensorProto.BOOL,
    "u": TensorProto.UINT8,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Identities of several dtypes, so that types and names can be compared."""
    inputs = [helper.make_tensor_value_info(n, t, ["batch", 3]) for n, t in DTYPES.items()]
    outputs = [helper.make_tensor_value_info(f"{n}_out", t, ["batch", 3]) for n, t in DTYPES.items()]
    nodes = [helper.make_node("Identity", [n], [f"{n}_out"]) for n in DTYPES]
    model = helper.make_model(
        helper.make_graph(nodes, "copies", inputs, outputs),
        opset_imports=[helper.make_opsetid("", 17)],
        producer_name="a test",
        ir_version=8,
    )
    helper.set_model_props(model, {"labels": "cat,dog"})
    onnx.save(model, tmp_path / "copies.onnx")
    return tmp_path / "copies.onnx"


def feeds(batch: int = 2) -> dict[str, np.ndarray]:
    numbers = np.arange(batch * 3).reshape(batch, 3)
    dtypes = {"f": np.float32, "h": np.float16, "i": np.int64, "b": np.bool_, "u": np.uint8}
    return {name: numbers.astype(dtype) for name, dtype in dtypes.items()}


def test_it_looks_like_onnxruntime(path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = octavo.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for mine, other in [(ours.get_inputs(), theirs.get_inputs()), (ours.get_outputs(), theirs.get_outputs())]:
        assert [(a.name, a.shape, a.type) for a in mine] == [(a.name, a.shape, a.type) for a in other]
    for mine, other in zip(ours.run(None, feeds()), theirs.run(None, feeds()), strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype


def test_outputs_are_chosen_by_name(path: Path) -> None:
    session = octavo.InferenceSession(str(path))
    (u, f) = session.run(["u_out", "f_out"], feeds())
    assert (u.dtype, f.dtype) == (np.uint8, np.float32)
    with pytest.raises(octavo.ModelError, match="has no output 'nonsense'"):
        session.run(["nonsense"], feeds())


def test_bytes_and_artifacts_open_too(path: Path, tmp_path: Path) -> None:
    from_bytes = octavo.InferenceSession(path.read_bytes())
    from_bytes.model.save(tmp_path / "copies.octavo")
    from_artifact = octavo.InferenceSession(tmp_path / "copies.octavo")
    for a, b in zip(from_bytes.run(None, feeds(5)), from_artifact.run(None, feeds(5)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_metadata_of_the_file_is_there(path: Path) -> None:
    meta = octavo.InferenceSession(path).get_modelmeta()
    assert (meta.graph_name, meta.producer_name) == ("copies", "a test")
    assert meta.custom_metadata_map == {"labels": "cat,dog"}


def test_an_artifact_knows_its_graphs_name(path: Path, tmp_path: Path) -> None:
    octavo.compile(path).save(tmp_path / "copies.octavo")
    assert octavo.InferenceSession(tmp_path / "copies.octavo").get_modelmeta() == ModelMetadata("copies")


def test_options_fix_dimensions_and_threads(path: Path) -> None:
    options = octavo.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_free_dimension_override_by_name("batch", 4)
    session = octavo.InferenceSession(path, options)
    assert session.get_inputs()[0].shape == [4, 3]
    assert session.model.threads == 1
    with pytest.raises(octavo.ShapeError, match="dimension 0"):
        session.run(None, feeds(2))


def test_an_option_that_octavo_lacks_is_not_silently_accepted() -> None:
    with pytest.raises(AttributeError):
        octavo.SessionOptions().register_custom_ops_library("x.so")  # type: ignore[attr-defined]
