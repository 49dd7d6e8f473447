"""What kernels have to do at least, counted by hand."""

from __future__ import annotations

from octavo.backends.work import Work, work
from octavo.ir.dims import symbol
from octavo.ir.graph import Graph, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import TensorType, f32, i64

N = symbol("n")


def given(name: str, *shape: object, dtype: object = f32) -> object:
    return input_value(name, TensorType(dtype, shape))


def body(inputs: tuple, *outputs: object) -> Graph:
    return Graph("body", inputs, outputs)


def test_a_matmul_multiplies_and_adds_for_each_product() -> None:
    a, b = given("a", N, 10), given("b", 10, 5)
    assert work(body((a, b), apply("matmul", a, b)), {"n": 3}) == Work(2 * 3 * 5 * 10, 4 * (30 + 50 + 15))


def test_a_convolution_in_groups_sums_over_its_own_channels() -> None:
    x, w = given("x", 1, 4, 8, 8), given("w", 6, 2, 3, 3)
    y = apply("conv", x, w, strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=2)
    assert work(body((x, w), y), {}).flops == 2 * (6 * 8 * 8) * (2 * 3 * 3)


def test_fused_work_adds_up_and_moves_no_bytes() -> None:
    x = given("x", N, 16)
    y = apply("reduce_sum", apply("exp", apply("neg", x)), axes=(1,))
    assert work(body((x,), y), {"n": 2}) == Work(32 + 32 + 32, 4 * (32 + 2))


def test_of_a_table_only_what_is_picked_counts() -> None:
    table, ids = given("table", 1000, 8), given("ids", 3, dtype=i64)
    assert work(body((table, ids), apply("gather", table, ids, axis=0)), {}) == Work(0, 4 * 24 + 8 * 3 + 4 * 24)


def test_an_operand_read_twice_counts_once_and_whole() -> None:
    x = given("x", 6)
    part = apply("slice", x, starts=(0,), stops=(2,), steps=(1,))
    total = apply("reduce_sum", x, axes=(0,))
    assert work(body((x,), part, total), {}).nbytes == 4 * (6 + 2 + 1)
