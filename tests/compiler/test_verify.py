"""`verify`: every value can be looked at, and a wrong one is found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.compiler import verify as verifying
from octavo.compiler.verify import expose_every_value, verify
from octavo.frontend.onnx import export_model


@pytest.fixture
def graph() -> octavo.Graph:
    def f(x):
        return ops.relu(ops.exp(x) - 1.0)

    return octavo.trace(f, octavo.spec("f32", ("batch", 3)))


@pytest.fixture
def path(graph: octavo.Graph, tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(export_model(graph).SerializeToString())
    return file


def test_every_value_becomes_an_output_in_order_and_names_stay(graph: octavo.Graph) -> None:
    exposed = expose_every_value(graph)
    assert [v.node.op for v in exposed.outputs] == ["exp", "sub", "relu"]
    assert exposed.output_names[-1] == graph.output_names[0]
    assert len(set(exposed.output_names)) == 3


def test_the_first_value_that_is_off_names_the_culprit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = verifying.evaluate

    def wrong(graph, feeds):
        results = right(graph, feeds)
        return [results[0], *(r + 1 for r in results[1:])]

    monkeypatch.setattr(verifying, "evaluate", wrong)
    report = verify(path, per_node=True)
    assert not report.ok
    assert [row.op for row in report.rows if not row.ok] == ["sub", "relu"]


def test_given_inputs_are_used(path: Path) -> None:
    x = np.full((5, 3), 0.5, np.float32)
    name = octavo.compile(path).inputs[0].name
    assert verify(path, feeds={name: x}).inputs == {name: "float32[5, 3]"}


def test_an_input_that_the_model_lacks_is_refused(path: Path) -> None:
    with pytest.raises(octavo.OctavoError, match="the model has no input 'nonsense'; it has: "):
        verify(path, feeds={"nonsense": np.zeros(1)})
