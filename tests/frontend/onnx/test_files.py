"""External data: read only from inside the model's folder, and only as many bytes as the tensor has."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from octavo.frontend.onnx import import_model
from octavo.ir.errors import ModelError
from onnx import TensorProto, helper

from .models import run

WEIGHTS = np.arange(6, dtype=np.float32)


def saved(folder: Path, **external: str) -> Path:
    """A model `y = x + w` whose w is said to lie in an external file."""
    w = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    for key, value in external.items():
        w.external_data.add(key=key, value=value)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [6]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [w])
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / "w.bin").write_bytes(b"\xff" * 8 + WEIGHTS.tobytes())
    (tmp_path / "secret.bin").write_bytes(WEIGHTS.tobytes())
    return inside


def refused(path: Path, text: str) -> None:
    with pytest.raises(ModelError, match=text):
        import_model(path)


def test_external_data_is_read_at_its_offset(folder: Path) -> None:
    graph = import_model(saved(folder, location="w.bin", offset="8", length="24"))
    np.testing.assert_array_equal(run(graph, x=np.ones(6, np.float32))[0], WEIGHTS + 1)


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "a/../../secret.bin", "..\\secret.bin", "", ".", "w\0.bin", "C:/w"]
)
def test_a_location_outside_the_folder_is_refused(folder: Path, location: str) -> None:
    refused(saved(folder, location=location), "external data")


def test_a_symbolic_link_is_not_followed(folder: Path) -> None:
    (folder / "link.bin").symlink_to("../secret.bin")
    refused(saved(folder, location="link.bin"), "symbolic links are not followed")


def test_a_symbolic_link_to_a_folder_is_not_followed(folder: Path) -> None:
    (folder / "up").symlink_to("..")
    refused(saved(folder, location="up/secret.bin"), "symbolic links are not followed")


def test_a_hard_link_is_refused(folder: Path) -> None:
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    refused(saved(folder, location="hard.bin"), "without hard links")


def test_a_pipe_is_refused_without_waiting_for_it(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    refused(saved(folder, location="pipe"), "regular file")


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"offset": "16"}, "ends at byte 40, but the file has 32"),
        ({"offset": "-8"}, "does not hold"),
        ({"length": str(1 << 60)}, "does not hold"),
        ({"length": "1"}, "does not hold"),
        ({"offset": "many"}, "must be integers"),
        ({"offset": str(1 << 70)}, "but the file has 32"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(folder: Path, entries: dict[str, str], text: str) -> None:
    refused(saved(folder, location="w.bin", **entries), text)


def test_a_model_from_memory_has_no_external_data(folder: Path) -> None:
    with pytest.raises(ModelError, match="import the model from its path"):
        import_model(saved(folder, location="w.bin", offset="8").read_bytes())


def test_external_data_of_a_constant_node_is_checked_too(folder: Path) -> None:
    value = TensorProto(name="v", data_type=TensorProto.FLOAT, dims=[6], data_location=TensorProto.EXTERNAL)
    value.external_data.add(key="location", value="../secret.bin")
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [6])
    graph = helper.make_graph([helper.make_node("Constant", [], ["y"], value=value)], "g", [], [y])
    path = folder / "constant.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]).SerializeToString())
    refused(path, "outside the model's folder")


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1.5, -2.0]], np.float64),
        np.array([1, -2, 3], np.int8),
        np.array([True, False]),
        np.array(7, np.uint64),
        np.array([0.1, 65504], np.float16),
        np.zeros((0, 3), np.int32),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_initializers_are_read_from_raw_and_typed_fields(array: np.ndarray, raw: bool) -> None:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    data = array.tobytes() if raw else array.ravel().tolist()
    tensor = helper.make_tensor("w", kind, array.shape, data, raw=raw)
    y = helper.make_tensor_value_info("y", kind, array.shape)
    graph = helper.make_graph([helper.make_node("Identity", ["w"], ["y"])], "g", [], [y], [tensor])
    (result,) = run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype


def test_four_bit_initializers_are_unpacked() -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT4, dims=[3], raw_data=b"\x8f\x07")
    y = helper.make_tensor_value_info("y", TensorProto.INT8, [3])
    graph = helper.make_graph([helper.make_node("Cast", ["w"], ["y"], to=TensorProto.INT8)], "g", [], [y], [tensor])
    (result,) = run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    np.testing.assert_array_equal(result, np.int8([-1, -8, 7]))
