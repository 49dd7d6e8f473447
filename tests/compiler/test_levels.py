"""One model compiled for several processor levels."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo.backends.runtime import native
from octavo.backends.target import find_target, runnable
from octavo.compiler.driver import compile_native
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type

LEVELS = [t.name for t in runnable()]


def matmul() -> Graph:
    x = input_value("x", parse_type("f32[n,70]"))
    w = const_value(np.random.default_rng(1).standard_normal((70, 130)).astype(np.float32))
    return Graph("levels", (x,), (apply("matmul", x, w),))


@pytest.mark.skipif(len(LEVELS) < 2, reason="this processor runs one level alone")
def test_each_level_of_a_model_finds_its_own_packed_weights(monkeypatch: pytest.MonkeyPatch):
    x = np.random.default_rng(0).standard_normal((5, 70)).astype(np.float32)
    program = compile_native(matmul(), target=tuple(LEVELS)).native
    assert len({v.weights_offset for v in program.variants}) > 1
    for level in LEVELS:
        (alone,) = octavo.compile(matmul(), target=level).run(None, {"x": x})
        features = dict.fromkeys(find_target(level).requires, True)
        monkeypatch.setattr(native.llvm, "get_host_cpu_features", lambda features=features: features)
        np.testing.assert_array_equal(native.load_native(program).run([x])[0], alone)
        monkeypatch.undo()
