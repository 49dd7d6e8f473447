"""Model: how it is called, what it says of itself, how it travels."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest
from octavo.backends.runtime.native import NativeProgram, load_native
from octavo.compiler import artifact
from octavo.compiler.model import Model
from octavo.ir.errors import ModelError, ShapeError

from ..backends.handmade import affine, checked


def model_of(program: NativeProgram) -> Model:
    return Model(load_native(program, threads=1), functools.partial(artifact.save, program))


@pytest.fixture(scope="module")
def model() -> Model:
    return model_of(affine())


@pytest.fixture(scope="module")
def three() -> Model:
    return model_of(checked())


X = np.ones((2, 3), np.float32)


def test_arrays_go_in_by_order_or_by_name(model: Model):
    for result in (model(X), model(x=X), model.run(None, {"x": X})[0], model.run(["y"], {"x": X})[0]):
        np.testing.assert_array_equal(result, X * 2 + 1)


def test_order_and_names_mix(three: Model):
    x, k, s = np.ones((2, 5), np.float32), np.zeros(2, np.int64), np.ones(1, np.float32)
    assert three(x, s=s, k=k).shape == (2, 2)


def test_a_model_describes_itself(model: Model):
    assert repr(model) == "Model(affine(x: f32[n,3]) -> (y: f32[n,3]), threads=1)"
    (x,), (y,) = model.inputs, model.outputs
    assert (x.name, x.dtype, x.shape, y.name) == ("x", "f32", ("n", 3), "y")
    assert model.workspace_bytes((2, 3)) == 8


def test_wrong_names_are_told(model: Model, three: Model):
    with pytest.raises(ShapeError, match="model 'affine' has no input 'z'; it has 'x'"):
        model(z=X)
    with pytest.raises(ShapeError, match="input 'x' of model 'affine' is given twice, in order and by name"):
        model(X, x=X)
    with pytest.raises(ShapeError, match=r"model 'checked' was called without k: i64\[seq\], s: f32\[1\]"):
        three.run(None, {"x": X})
    with pytest.raises(ShapeError, match="model 'checked' takes 3 inputs and was given 4 in order"):
        three(X, X, X, X, x=X)
    with pytest.raises(ModelError, match="model 'affine' has no output 'q'; it has y"):
        model.run(["q"], {"x": X})


def test_a_compiled_model_saves_and_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model = model_of(affine())
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again(X), model(X))
    model.save(tmp_path / "m.octavo")
    assert str(tmp_path / "m.octavo").encode() in pickle.dumps(model)
