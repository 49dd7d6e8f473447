"""Winograd convolutions: where they are chosen, and that they compute the sum."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.lower import legalize
from octavo.backends.lower.lower import lower
from octavo.backends.lower.winograd_choice import winograd_tile
from octavo.backends.target import TARGETS, find_target, runnable
from octavo.compiler.model import Model
from octavo.ir.graph import Graph, Node, Value, const_value, input_value
from octavo.ir.loops import Const, For, to_text
from octavo.ir.ops.registry import op_def
from octavo.passes.fuse import fuse

LEVELS = [t.name for t in runnable() if not t.name.endswith(("vnni", "amx"))]  # the level below but for integers
TOLERANCE = 1e-5  # of the largest result; measured up to 3e-6 with 512 channels
ONE = ((1, 1), (1, 1))

Epilogue = Callable[[Value], Value]


@pytest.fixture
def force(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes F(m) the choice for whatever follows."""

    def choose(m: int) -> None:
        monkeypatch.setattr(legalize, "winograd_tile", lambda node, target: m)

    return choose


def weights(outputs: int, channels: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng((outputs, channels))
    return (rng.standard_normal((outputs, channels, 3, 3)) * scale / np.sqrt(9 * channels)).astype(np.float32)


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def conv(x: Value, w: np.ndarray, pads=ONE) -> Value:
    return ops.conv(x, const_value(w), strides=(1, 1), pads=pads, dilations=(1, 1), layout="channels_last")


def expected(x: np.ndarray, w: np.ndarray, pads=ONE) -> np.ndarray:
    reference = op_def("conv").reference
    assert reference is not None
    square = {"strides": (1, 1), "dilations": (1, 1), "pads": pads}
    return reference(x.astype(np.float64), w.astype(np.float64), **square, layout="channels_last")


def close(actual: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == wanted.shape
    error = np.abs(actual - wanted).max(initial=0) / np.abs(wanted).max(initial=1e-30)
    assert error <= tolerance, f"off by {error:.1e} of the largest result"


def model(shape: tuple, w: np.ndarray, pads=ONE, epilogue: Epilogue = lambda y: y, target: str = "native") -> Model:
    x = input_value("x", octavo.spec("f32", shape))
    return octavo.compile(Graph("g", (x,), (epilogue(conv(x, w, pads)),)), target=target)


SHAPES = [
    ((1, 8, 8, 16), 32, ONE),  # whole tiles
    ((2, 13, 7, 20), 37, ONE),  # no multiple of anything
    ((1, 5, 6, 3), 1, ((0, 0), (0, 0))),
    ((3, 1, 1, 17), 5, ONE),  # every tile is mostly padding
    ((1, 4, 9, 33), 48, ((3, 0), (0, 5))),  # pads wider than the kernel
    ((2, 31, 30, 40), 64, ONE),  # several blocks of tiles
    ((1, 9, 9, 128), 200, ONE),  # panels beyond the second-level cache
    ((0, 8, 8, 16), 16, ONE),
]


@pytest.mark.parametrize("target", LEVELS)
@pytest.mark.parametrize("m", [2, 4])
def test_results_are_those_of_the_sum(m: int, target: str, force: Callable[[int], None]):
    force(m)
    for shape, outputs, pads in SHAPES:
        x, w = image(*shape), weights(outputs, shape[-1])
        close(model(shape, w, pads, target=target)(x), expected(x, w, pads))


@pytest.mark.parametrize("m", [2, 4])
def test_the_error_of_deep_sums_of_large_numbers_stays_small(m: int, force: Callable[[int], None]):
    force(m)
    x, w = np.abs(image(1, 6, 6, 512)) * 1e10, weights(64, 512, 1e10)
    close(model(x.shape, w)(x), expected(x, w))


@pytest.mark.parametrize("m", [2, 4])
def test_one_model_serves_every_size(m: int, force: Callable[[int], None]):
    force(m)
    w = weights(21, 18)
    run = model(("n", "h", "w", 18), w)
    for shape in ((1, 1, 1, 18), (2, 3, 9, 18), (3, 16, 12, 18), (1, 33, 50, 18)):
        x = image(*shape)
        close(run(x), expected(x, w))


@pytest.mark.parametrize("m", [2, 4])
def test_the_epilogue_reads_what_lies_at_each_result(m: int, force: Callable[[int], None]):
    force(m)
    w, shape = weights(37, 16), (2, 7, 9, 16)
    bias, scale, residual = image(37), image(2, 1, 1, 37), image(2, 7, 9, 37)
    x = input_value("x", octavo.spec("f32", ("n", 7, 9, 16)))
    s, r = input_value("s", octavo.spec("f32", ("n", 1, 1, 37))), input_value("r", octavo.spec("f32", ("n", 7, 9, 37)))
    y = ops.relu((conv(x, w) + const_value(bias)) * s + r)
    run = octavo.compile(Graph("g", (x, s, r), (y,)))
    close(run(image(*shape), scale, residual), np.maximum((expected(image(*shape), w) + bias) * scale + residual, 0))


def test_a_result_depends_on_its_own_image_alone(force: Callable[[int], None]):
    force(4)
    run = model(("n", 10, 11, 24), weights(40, 24))
    x = image(9, 10, 11, 24)
    alone = np.concatenate([run(x[k : k + 1]) for k in range(9)])
    np.testing.assert_array_equal(run(x), alone)


def test_these_are_the_loops(force: Callable[[int], None], golden: Callable[[str, str], None]):
    force(2)
    target = find_target("x86-64-v3")
    x = input_value("x", octavo.spec("f32", ("n", 7, 6, 3)))
    graph = fuse(legalize.legalize(Graph("g", (x,), (ops.relu(conv(x, weights(8, 3))),)), target))
    golden("winograd", to_text(lower(graph.outputs[0].node.attrs["body"], target)))


@pytest.mark.parametrize(
    ("size", "channels", "tasks"),
    [
        (56, 64, 14),
        (28, 128, 2),
        (14, 256, 2),
        (14, 64, 1),
    ],  # blocks of tiles, two blocks, halves of the panels, too few panels to split
)
def test_images_of_few_tiles_are_split_by_columns(size: int, channels: int, tasks: int, force: Callable[[int], None]):
    force(4)
    target = find_target("x86-64-v4")
    x = input_value("x", octavo.spec("f32", (1, size, size, channels)))
    graph = fuse(legalize.legalize(Graph("g", (x,), (conv(x, weights(channels, channels)),)), target))
    (loop,) = lower(graph.outputs[0].node.attrs["body"], target).body
    assert isinstance(loop, For)
    assert isinstance(loop.extent, Const)
    assert loop.extent.value == tasks


# --- the choice -------------------------------------------------------------------------------------------------------------


def node(shape: tuple, outputs: int, channels: int | None = None, constant: bool = True, dtype=np.float32, **attrs) -> Node:
    w = np.ones((outputs, shape[-1] if channels is None else channels, 3, 3), dtype)
    x = input_value("x", octavo.spec("f32" if dtype == np.float32 else "f64", shape))
    kernel = const_value(w) if constant else input_value("w", octavo.spec("f32", w.shape))
    usual = {"strides": (1, 1), "pads": ONE, "dilations": (1, 1), "layout": "channels_last"}
    return ops.conv(x, kernel, **(usual | attrs)).node


@pytest.mark.parametrize(
    ("shape", "outputs", "m"),
    [
        ((1, 56, 56, 64), 64, 4),
        ((1, 28, 28, 128), 128, 4),
        ((1, 14, 14, 256), 256, 4),
        ((1, 7, 7, 512), 512, 2),  # the panels of F(4) would take longer to read
        ((1, 2, 2, 64), 64, 2),
        ((1, 1, 1, 64), 64, None),
        ((1, 224, 224, 3), 64, None),  # the transforms would take longer than the products
        ((1, 32, 32, 8), 8, None),
        (("n", "h", "w", 64), 64, 4),
        (("n", "h", "w", 8), 8, None),
    ],
)
def test_the_choice_is_the_fastest_on_the_measured_machine(shape: tuple, outputs: int, m: int | None):
    assert {winograd_tile(node(shape, outputs), find_target(t)) for t in TARGETS if not t.startswith("sm_")} == {m}


def test_the_choice_is_the_same_for_every_batch():
    native = find_target("native")
    for n in (1, 8, 100, "n"):
        assert winograd_tile(node((n, 14, 14, 256), 256), native) == 4


@pytest.mark.parametrize(
    "other",
    [
        node((1, 56, 56, 64), 64, strides=(2, 2)),
        node((1, 56, 56, 64), 64, dilations=(2, 2)),
        node((1, 56, 56, 64), 64, channels=32, groups=2),
        node((1, 56, 56, 64), 64, constant=False),
        node((1, 56, 56, 64), 64, dtype=np.float64),
    ],
    ids=["strides", "dilations", "groups", "weights that a run gives", "f64"],
)
def test_other_convolutions_stay_sums(other: Node):
    assert winograd_tile(other, find_target("native")) is None


def test_graphics_processors_sum():
    assert winograd_tile(node((1, 56, 56, 64), 64), find_target("sm_80")) is None
