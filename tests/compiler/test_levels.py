"""One model compiled for several processor levels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import octavo
import pytest
from octavo.backends.target import find_target, runnable
from octavo.compiler.artifact import read_manifest
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type

LEVELS = [t.name for t in runnable()]


def matmul() -> Graph:
    x = input_value("x", parse_type("f32[n,70]"))
    w = const_value(np.random.default_rng(1).standard_normal((70, 130)).astype(np.float32))
    return Graph("levels", (x,), (apply("matmul", x, w),))


@pytest.mark.skipif(len(LEVELS) < 2, reason="this processor runs one level alone")
def test_each_level_of_a_model_finds_its_own_packed_weights(tmp_path: Path):
    x = np.random.default_rng(0).standard_normal((5, 70)).astype(np.float32)
    results = []
    for target in (LEVELS[0], LEVELS[-1], tuple(LEVELS)):
        path = tmp_path / "m.octavo"
        octavo.compile(matmul(), target=target).save(path)
        results.append(octavo.load(path)(x))
    assert len(read_manifest(path)["variants"]) == len(LEVELS)
    for result in results[:2]:
        np.testing.assert_allclose(results[2], result, rtol=1e-5, atol=1e-5)
    assert find_target("native").name == LEVELS[-1]
