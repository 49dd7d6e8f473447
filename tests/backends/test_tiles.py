"""Maps that interleave planes and kernels of bytes alone give what NumPy gives, at every level that this machine runs."""

from __future__ import annotations

import numpy as np
import octavo
import pytest
from octavo import ops, spec, trace
from octavo.backends.target import runnable
from octavo.tests.backends.templates import padded, pooled

LEVELS = [t.name for t in runnable()]


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize(
    "shape", [(1, 3, 5, 30), (2, 3, 2, 37), (1, 2, 4, 14), (3, 5, 3, 31), (1, 7, 2, 48), (2, 3, 2, 7), (1, 4, 0, 20)]
)
@pytest.mark.parametrize("sizes", ["known", "any"])
def test_planes_become_the_last_axis(shape: tuple[int, ...], target: str, sizes: str):
    declared = shape if sizes == "known" else (*shape[:2], "h", "w")
    x = np.random.default_rng(1).standard_normal(shape, np.float32)
    graph = trace(lambda x: ops.transpose(padded(x * 2.0), perm=(0, 2, 3, 1)), spec("f32", declared))
    around = ((0, 0), (0, 0), (1, 1), (1, 1))
    expected = np.pad(x * 2, around, constant_values=3).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(octavo.compile(graph, target=target)(x), expected)


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("planes", [3, 4, 5])
@pytest.mark.parametrize("width", [16, 64, 70])
def test_planes_of_bytes_become_the_last_axis(planes: int, width: int, target: str):
    x = np.random.default_rng(3).integers(0, 256, (2, planes, 3, width)).astype(np.uint8)
    graph = trace(lambda x: ops.transpose(x, perm=(0, 2, 3, 1)), spec("u8", x.shape))
    np.testing.assert_array_equal(octavo.compile(graph, target=target)(x), x.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("channels", [16, 32, 33, 64, 192])
def test_bytes_are_padded_and_pooled(channels: int, target: str):
    x = np.random.default_rng(2).integers(0, 256, (2, 9, 7, channels)).astype(np.uint8)
    graph = trace(
        lambda x: (pooled(x), ops.pad(x, low=(0, 1, 1, 0), high=(0, 1, 1, 0), mode="constant", value=200.0)), spec("u8", x.shape)
    )
    largest, wider = octavo.compile(graph, target=target)(x)
    around = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(around, (3, 3), axis=(1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(largest, windows.max(axis=(4, 5)))
    np.testing.assert_array_equal(wider, np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=200))
