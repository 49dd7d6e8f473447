"""Contractions of bytes give what NumPy sums in 64 bits, at every level that this processor runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.lower.legalize import legalize
from octavo.backends.target import find_target, runnable
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value

LEVELS = [t.name for t in runnable()]


def bytes_of(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Mostly the extremes, of either sign."""
    low, high = (0, 255) if dtype == "u8" else (-128, 127)
    rng = np.random.default_rng(seed)
    return rng.choice([low, high, high, rng.integers(low, high)], shape).astype(np.uint8 if dtype == "u8" else np.int8)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 4), (4, 1)),
        ((1, 2048), (2048, 70)),
        ((37, 131), (131, 67)),
        ((29, 64), (64, 128)),
        ((11, 6144), (6144, 48)),
        ((2, 5, 40), (40, 33)),
        ((2, 5, 41), (2, 41, 33)),
    ],
)
def test_matmul(level: str, dtype: str, a: tuple[int, ...], b: tuple[int, ...]):
    x, w = bytes_of(dtype, a, 1), bytes_of("i8", b, 2)
    value = input_value("x", octavo.spec(dtype, a))
    model = octavo.compile(Graph("g", (value,), (ops.matmul(value, const_value(w)),)), target=level, threads=1)
    np.testing.assert_array_equal(model(x), (x.astype(np.int64) @ w.astype(np.int64)).astype(np.int32))


CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "plain": ((2, 9, 11, 8), (21, 8, 3, 3), {}),
    "pointwise": ((1, 7, 7, 64), (70, 64, 1, 1), {"pads": ((0, 0), (0, 0))}),
    "few_channels": ((1, 19, 17, 3), (16, 3, 5, 5), {"strides": (2, 2), "pads": ((2, 2), (1, 3))}),
    "taps": ((1, 2, 11, 9), (5, 2, 3, 3), {"layout": "channels_first", "pads": ((0, 1), (2, 0))}),
    "one_channel": ((3, 12, 12, 1), (7, 1, 5, 5), {"pads": ((0, 0), (0, 0))}),
    "dilated": ((1, 13, 12, 5), (9, 5, 3, 3), {"dilations": (2, 3), "pads": ((2, 2), (3, 3))}),
    "grouped": ((1, 8, 9, 24), (33, 8, 3, 3), {"groups": 3}),
    "odd_groups": ((1, 8, 9, 9), (6, 3, 3, 3), {"groups": 3}),
    "depthwise": ((1, 9, 14, 37), (37, 1, 3, 3), {"groups": 37}),
    "depthwise_wide": ((2, 7, 9, 150), (150, 1, 3, 3), {"groups": 150}),
    "depthwise_blocks": ((1, 6, 11, 128), (128, 1, 3, 5), {"groups": 128, "pads": ((1, 1), (2, 2))}),
    "depthwise_strided": ((1, 9, 14, 64), (64, 1, 5, 5), {"groups": 64, "strides": (2, 2), "pads": ((2, 1), (1, 3))}),
    "depthwise_strided_windows": ((1, 9, 15, 64), (64, 1, 3, 6), {"groups": 64, "strides": (1, 2), "pads": ((1, 1), (7, 9))}),
    "depthwise_dilated": ((1, 9, 13, 64), (64, 1, 3, 5), {"groups": 64, "dilations": (2, 3), "pads": ((2, 2), (6, 5))}),
    "depthwise_narrow": ((1, 5, 1, 64), (64, 1, 3, 3), {"groups": 64}),
    "depthwise_no_pads": ((1, 5, 8, 66), (66, 1, 2, 2), {"groups": 66, "pads": ((0, 0), (0, 0))}),
    "depthwise_column": ((1, 9, 4, 64), (64, 1, 3, 1), {"groups": 64, "pads": ((1, 1), (0, 0))}),
    "depthwise_first": ((1, 64, 6, 7), (64, 1, 3, 3), {"groups": 64, "layout": "channels_first"}),
    "depthwise_line": ((2, 19, 64), (64, 1, 7), {"groups": 64, "strides": (1,), "pads": ((3, 3),), "dilations": (1,)}),
    "depthwise_volume": (
        (1, 4, 5, 6, 64),
        (64, 1, 2, 3, 3),
        {"groups": 64, "strides": (1, 2, 1), "pads": ((1, 0), (1, 1), (1, 1)), "dilations": (1, 1, 1)},
    ),
    "depthwise_many_taps": ((1, 23, 21, 18), (18, 1, 19, 19), {"groups": 18, "pads": ((9, 9), (9, 9))}),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("name", CONVS)
def test_conv(level: str, dtype: str, name: str):
    shape, weights, attrs = CONVS[name]
    square = {"strides": (1, 1), "pads": ((1, 1), (1, 1)), "dilations": (1, 1), "layout": "channels_last"}
    value = input_value("x", octavo.spec(dtype, ("n", *shape[1:])))
    graph = Graph("g", (value,), (ops.conv(value, const_value(bytes_of("i8", weights, 3)), **square | attrs),))
    x = bytes_of(dtype, shape, 4)
    np.testing.assert_array_equal(octavo.compile(graph, target=level, threads=1)(x), evaluate(graph, {"x": x})[0])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("width", [1, 2, 3, 8, 9])
def test_depthwise_lines_of_any_length(level: str, width: int):
    value = input_value("x", octavo.spec("u8", ("n", "h", "w", 70)))
    attrs = {"strides": (1, 1), "pads": ((1, 1), (1, 2)), "dilations": (1, 1), "groups": 70, "layout": "channels_last"}
    graph = Graph("g", (value,), (ops.conv(value, const_value(bytes_of("i8", (70, 1, 3, 3), 5)), **attrs),))
    x = bytes_of("u8", (2, 3, width, 70), 6)
    np.testing.assert_array_equal(octavo.compile(graph, target=level, threads=1)(x), evaluate(graph, {"x": x})[0])


@pytest.mark.parametrize(("x_dtype", "w_dtype"), [(np.uint8, np.int8), (np.float32, np.float32)])
def test_a_convolution_of_nothing(x_dtype: type, w_dtype: type):
    none = np.zeros((0, 14, 3, 6), x_dtype)
    x = input_value("x", octavo.spec("u8" if x_dtype is np.uint8 else "f32", none.shape))
    w = const_value(np.ones((200, 14, 2, 3), w_dtype))
    attrs = {"strides": (2, 2), "pads": ((2, 2), (3, 3)), "dilations": (2, 2)}
    assert octavo.compile(Graph("g", (x,), (ops.conv(x, w, **attrs),)), threads=1)(none).shape == (0, 200, 3, 4)


def test_winograd_is_for_floats():
    x = input_value("x", octavo.spec("u8", (1, 8, 8, 32)))
    w = const_value(bytes_of("i8", (32, 32, 3, 3), 5))
    y = ops.conv(x, w, strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), layout="channels_last")
    names = {n.op for n in legalize(Graph("g", (x,), (y,)), find_target("x86-64-v4-vnni")).nodes}
    assert "unpack_dots" in names
    assert "unpack_winograd" not in names
