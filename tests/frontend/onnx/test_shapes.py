"""Shape arithmetic: chains of shape operators become symbolic attributes and leave no nodes behind."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from octavo.compiler.driver import compile
from octavo.frontend.onnx import symbolic as sym
from octavo.ir.dims import dim_max, floordiv, symbol
from octavo.ir.errors import UnsupportedOp
from octavo.passes.expand import expand

from .models import imported, ops, run

N = symbol("n")


def test_reshape_by_gathered_sizes_is_symbolic() -> None:
    graph = imported(
        """(float[b,s,12] x) => (float[p,q,r,t] y)
        <int64[1] minus = {-1}, int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] heads = {4}> {
        shape = Shape(x)
        b0 = Gather(shape, zero)
        s0 = Gather(shape, one)
        b1 = Unsqueeze(b0, first)
        s1 = Unsqueeze(s0, first)
        target = Concat<axis=0>(b1, s1, heads, minus)
        y = Reshape(x, target) }"""
    )
    assert ops(graph) == ["reshape"]
    assert str(graph.outputs[0].type) == "f32[b,s,4,3]"


def test_sizes_used_as_data_are_computed_at_run_time() -> None:
    graph = imported("(float[b,s] x) => (int64[2] y) { y = Shape(x) }")
    assert ops(graph) == ["sizes"]
    np.testing.assert_array_equal(run(graph, x=np.zeros((2, 5), np.float32))[0], [2, 5])


def test_resize_by_sizes_computed_in_floats() -> None:
    graph = imported(
        """(float[1,1,h,w] x) => (float[1,1,p,q] y)
        <float factor = {2.5}, int64[1] two = {2}, int64[1] four = {4}, float[0] none = {}> {
        shape = Shape(x)
        all = Cast<to=1>(shape)
        larger = Mul(all, factor)
        whole = Floor(larger)
        sizes = Cast<to=7>(whole)
        spatial = Slice(sizes, two, four)
        kept = Shape<end=2>(x)
        target = Concat<axis=0>(kept, spatial)
        y = Resize<mode="nearest">(x, none, none, target) }"""
    )
    assert [str(d) for d in graph.outputs[0].shape[2:]] == ["(5*h)//(2)", "(5*w)//(2)"]
    assert run(graph, x=np.zeros((1, 1, 3, 4), np.float32))[0].shape == (1, 1, 7, 10)


def test_resize_by_a_factor_is_one_op_that_repeats_elements() -> None:
    graph = imported(
        """(float[1,1,h,w] x) => (float[1,1,p,q] y) <float[4] scales = {1, 1, 2, 2}> {
        y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales) }"""
    )
    assert ops(graph) == ["resize_nearest"]
    assert ops(expand(graph)) == ["repeat"]
    x = np.arange(6, dtype=np.float32).reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(run(graph, x=x)[0], x.repeat(2, 2).repeat(2, 3))


def test_resize_by_scales_that_are_ratios_of_sizes() -> None:
    graph = imported(
        """(float[1,1,6,w] x) => (float[1,1,p,q] y)
        <float[1] factor = {0.25}, int64[1] three = {3}, int64[1] four = {4}, float[3] ones = {1, 1, 1}> {
        shape = Shape(x)
        width = Slice(shape, three, four)
        wide = Cast<to=1>(width)
        quarter = Mul(wide, factor)
        scales = Concat<axis=0>(ones, quarter)
        y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, , scales) }"""
    )
    assert [str(d) for d in graph.outputs[0].shape[2:]] == ["6", "(w*w)//(4)"]
    x = np.arange(30, dtype=np.float32).reshape(1, 1, 6, 5)
    expected = np.interp(np.arange(6) / 1.25, np.arange(5), np.arange(5)) + 5 * np.arange(6)[:, None]
    np.testing.assert_allclose(run(graph, x=x)[0][0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(compile(graph)(x)[0, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(compile(graph, dims={"w": 5})(x)[0, 0], expected, rtol=1e-6)


def test_a_shared_scale_keeps_the_aspect_ratio() -> None:
    """The size 3 stays, but its coordinates move by the factor that the other axis dictates."""
    graph = imported(
        """(float[8,3] x) => (float[p,q] y) <int64[2] sizes = {9, 4}> {
        y = Resize<mode="linear", keep_aspect_ratio_policy="not_larger">(x, , , sizes) }""",
    )
    x = np.tile(np.arange(3, dtype=np.float32), (8, 1))
    (y,) = run(graph, x=x)
    assert y.shape == (9, 3)
    np.testing.assert_allclose(y[0], np.clip((np.arange(3) + 0.5) / 1.125 - 0.5, 0, 2), rtol=1e-5, atol=1e-6)


def test_expand_by_where_over_a_shape() -> None:
    """As torch writes expand(-1, n): Where(shape == -1, 1, shape)."""
    graph = imported(
        """(float[n,1] x) => (float[n,m] y)
        <int64[1] minus = {-1}, int64[2] ones = {1, 1}, int64[1] five = {5}, int64[1] first = {0}> {
        size = Shape<start=0, end=1>(x)
        wanted = Concat<axis=0>(size, five)
        unknown = Equal(wanted, minus)
        target = Where(unknown, ones, wanted)
        y = Expand(x, target) }"""
    )
    assert ops(graph) == ["broadcast_to"]
    assert str(graph.outputs[0].type) == "f32[n,5]"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(0, -1, "n-1"), (1, 2**63 - 1, "n-1"), (-3, 2**31 - 1, None), (0, 5, "min(5,n)"), (-1, 2**62, "1")],
)
def test_slices_of_a_symbolic_axis(start: int, end: int, expected: str | None) -> None:
    graph = imported(f"(float[n] x) => (float[m] y) <int64[1] a = {{{start}}}, int64[1] b = {{{end}}}> {{ y = Slice(x, a, b) }}")
    if expected is not None:
        assert str(graph.outputs[0].shape[0]) == expected
    for n in (1, 2, 7):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(run(graph, x=x)[0], x[start:end])


def test_a_range_over_a_symbolic_size() -> None:
    graph = imported(
        """(float[b,s] x) => (int64[m] y) <int64 zero = {0}, int64 one = {1}> {
        shape = Shape(x)
        length = Gather(shape, one)
        y = Range(zero, length, one) }"""
    )
    assert ops(graph) == ["iota"]
    np.testing.assert_array_equal(run(graph, x=np.zeros((2, 4), np.float32))[0], np.arange(4))


def test_a_shape_that_depends_on_data_is_refused_with_its_origin() -> None:
    with pytest.raises(UnsupportedOp, match="the new shape depends on the contents of 'shape'"):
        imported("(float[n] x, int64[2] shape) => (float[p,q] y) { y = Reshape(x, shape) }")


def test_such_a_shape_can_be_given_as_a_constant() -> None:
    graph = imported("(float[n] x, int64[2] shape) => (float[p,q] y) { y = Reshape(x, shape) }", constants={"shape": np.array([-1, 2])})
    assert graph.input_names == ("x", "shape")
    assert str(graph.outputs[0].type) == "f32[(n)//(2),2]"


def test_dims_pin_symbols() -> None:
    graph = imported("(float[batch,s] x) => (float[batch,s] y) { y = Relu(x) }", dims={"batch": 3})
    assert str(graph.outputs[0].type) == "f32[3,s]"


def test_wrong_declared_shapes_of_intermediate_values_are_ignored() -> None:
    graph = imported("(float[n,4] x) => (float[77] y) <float[9,9] h> { h = Relu(x) y = Neg(h) }")
    assert str(graph.outputs[0].type) == "f32[n,4]"


# the algebra


def test_bounds_decide_what_symbols_allow() -> None:
    assert sym.at_least(N, 1)
    assert sym.at_least(0, N) is False
    assert sym.at_least(N, 2) is None
    assert sym.at_least(N * 2 - 1, N)
    assert sym.largest(N - 1, 0) == N - 1
    assert sym.smallest(2**63 - 1, N) == N


def test_padding_to_a_multiple_is_known_to_be_positive() -> None:
    total = -2 * floordiv(-N, 2) - N  # the padding of "same" with stride 2
    assert sym.largest(total, 0) == total


def test_max_of_min_is_absorbed() -> None:
    assert dim_max(sym.smallest(512, N), N) == N


def test_ratios_keep_decimal_factors_exact() -> None:
    scaled = sym.mul(sym.to_float(N), 0.7)
    assert scaled == sym.Ratio(N, Fraction(7, 10))
    assert sym.to_int(sym.floor(scaled)) == floordiv(7 * N, 10)
    assert sym.div(sym.to_float(2 * N), sym.to_float(N)) == 2.0


def test_what_symbols_leave_open_is_not_tracked() -> None:
    with pytest.raises(sym.Untracked):
        sym.equal(N, 3)
    assert sym.equal(N, -1) is False
    assert sym.equal(N, N) is True


def test_a_count_of_which_only_the_size_is_used_is_computed_all_the_same() -> None:
    graph = imported(
        "(float[n] x, float[m] w) => (float[k] y) { z = NonZero(x) s = Shape<start=1>(z) e = Shape(w) y = Slice(w, s, e) }"
    )
    assert ops(graph)[-1] == "after"
    x, w = np.array([1, 0, 1, 0, 1], np.float32), np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(run(graph, x=x, w=w)[0], [3, 4, 5])
    np.testing.assert_array_equal(compile(graph).executable.run([x, w])[0], [3, 4, 5])
