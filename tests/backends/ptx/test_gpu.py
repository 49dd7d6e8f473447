"""On a GPU, where there is one: the bits of the CPU."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo.backends.ptx.device import cuda_target
from octavo.benchmarks.zoo.registry import MODELS
from octavo.ir.errors import TargetError

from . import models
from .test_grid import GRAPHS, feeds_for


def _targets() -> list[str]:
    """What the GPU at hand runs."""
    try:
        return sorted({cuda_target().name, "sm_80"})
    except TargetError:
        return []


TARGETS = _targets()
pytestmark = pytest.mark.skipif(not TARGETS, reason="there is no GPU that CUDA can use through pycuda")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_kernel_has_the_bits_of_the_cpu(name: str, target: str):
    graph = GRAPHS[name]()
    on_gpu, native = octavo.compile(graph, target=target), octavo.compile(graph)
    for n in (1, 5, 70):
        feeds = feeds_for(graph, {"n": n, "length": 100 * n + 3})
        for a, b in zip(on_gpu.run(None, feeds), native.run(None, feeds), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_the_zoo_has_the_bits_of_the_cpu(name: str, target: str):
    model = MODELS[name]
    graph = model.make(**model.small)
    on_gpu, native = octavo.compile(graph, target=target), octavo.compile(graph)
    for batch in (1, 3):
        feeds = model.feed(np.random.default_rng(0), batch, **model.small)
        for a, b in zip(on_gpu.run(None, feeds), native.run(None, feeds), strict=True):
            np.testing.assert_array_equal(a, b)


def test_cuda_is_a_target():
    model = octavo.compile(models.pointwise(), target="cuda")
    x, y = np.ones((3, 300), np.float32), -2 * np.ones(300, np.float32)
    np.testing.assert_array_equal(model(x, y), np.zeros((3, 300), np.float32))
