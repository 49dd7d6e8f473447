"""Products with weights of 4 and 8 bits in blocks, at every level that this machine has: the same bits, near the reference."""

from collections.abc import Sequence

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.backends.lower.contraction import contraction_of
from octavo.backends.lower.legalize import legalize
from octavo.backends.lower.schedule import candidates, signature_of, with_schedule
from octavo.backends.target import find_target, runnable
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.types import DTYPES, DType
from octavo.ir.verify import verify
from octavo.passes.fuse import fuse

LEVELS = [t.name for t in runnable()]
RNG = np.random.default_rng(0)


def weights(dtype: DType, rows: int, columns: int, block: int, zero: bool) -> tuple[Value, np.ndarray]:
    """Weights in blocks, and the numbers that they are."""
    blocks = rows // block
    q = RNG.integers(dtype.min, dtype.max + 1, (blocks, block, columns)).astype(np.int16)
    z = RNG.integers(dtype.min, dtype.max + 1, (blocks, 1, columns)).astype(np.int16) if zero else np.zeros((), np.int16)
    s = RNG.uniform(0.5, 1.5, (blocks, 1, columns)).astype(np.float32)
    narrow = ops.dequantize(const_value(q.astype(dtype.np)), const_value(s), const_value(z.astype(dtype.np)))
    return ops.reshape(narrow, shape=(rows, columns)), ((q - z).astype(np.float32) * s).reshape(rows, columns)


def product(rows: int | str, w: Value) -> Graph:
    x = input_value("x", octavo.spec("f32", (rows, w.shape[0])))
    return Graph("g", (x,), (ops.relu(ops.matmul(x, w)),))


CASES: Sequence[tuple[str, int | str, int, int, int, bool]] = (
    # dtype, rows, depth, columns, block, whether there are zero points
    ("i4", 1, 256, 512, 32, False),
    ("i4", 5, 256, 515, 32, False),
    ("i4", "n", 2048, 70, 64, False),
    ("i4", 70, 1024, 200, 128, False),
    ("u4", 1, 512, 300, 16, True),
    ("u4", "n", 264, 300, 8, True),
    ("i8", 3, 512, 200, 32, False),
    ("u8", 40, 960, 200, 24, True),
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_the_same_at_every_level_and_in_every_batch(case: tuple[str, int | str, int, int, int, bool]):
    dtype, rows, depth, columns, block, zero = case
    w, numbers = weights(DTYPES[dtype], depth, columns, block, zero)
    graph = product(rows, w)
    x = RNG.standard_normal((rows if isinstance(rows, int) else 35, depth)).astype(np.float32)
    results = [octavo.compile(graph, target=level, threads=threads)(x) for level in LEVELS for threads in (1, 2)]
    assert len({y.tobytes() for y in results}) == 1
    expected = np.maximum(x.astype(np.float64) @ numbers.astype(np.float64), 0)
    assert np.abs(results[0] - expected).max() < 3e-6 * np.abs(expected).max()
    if not isinstance(rows, int):
        model = octavo.compile(graph, threads=1)
        assert all(
            np.array_equal(model(x[k : k + n]), results[0][k : k + n])
            for k, n in ((0, 1), (7, 1), (9, 2), (5, 3), (3, 4), (8, 5), (2, 17))
        )


def test_every_row_is_summed_in_order_of_k():
    w, numbers = weights(DTYPES["i4"], 512, 256, 32, False)
    x = RNG.standard_normal((2, 512)).astype(np.float32)
    total = np.zeros((2, 256), np.float32)
    for k in range(512):  # a multiply-add rounds once; f64 holds the product
        total = (x[:, k, None].astype(np.float64) * numbers[k] + total).astype(np.float32)
    result = octavo.compile(product(2, w), threads=1)(x)
    assert (result == np.maximum(total, 0)).mean() > 0.999  # rounding twice, by f64, differs now and then


def test_a_kernel_reads_words_of_eight_and_panels_of_scales():
    w, _ = weights(DTYPES["u4"], 512, 256, 32, True)
    (kernel,) = (n for n in fuse(legalize(product(1, w), find_target("x86-64-v4"))).nodes if n.op == "kernel")
    types = sorted(str(v.type) for v in kernel.inputs)
    assert types == ["f32[1,512]", "f32[4,16,64]", "i32[4,64,64]", "u4[4,16,64]"]


def test_other_schedules_give_the_same_bits():
    w, _ = weights(DTYPES["i4"], 256, 512, 32, False)
    target = find_target("x86-64-v3")
    (kernel,) = (n for n in fuse(legalize(product(5, w), target)).nodes if n.op == "kernel")
    body = kernel.attrs["body"]
    other = next(s for s in candidates(contraction_of(body), target) if s.vectors == 3)
    changed = with_schedule(body, other, target)
    verify(changed)
    assert sorted(str(v.type) for v in changed.inputs) == ["f32[22,8,24]", "f32[5,256]", "i32[22,32,24]"]
    x = RNG.standard_normal((5, 256)).astype(np.float32)
    legal = legalize(product(5, w), target, {signature_of(body): other})
    assert contraction_of(next(n for n in fuse(legal).nodes if n.op == "kernel").attrs["body"]).attrs["tile"] == other.tile
    assert np.isfinite(octavo.compile(product(5, w), target="x86-64-v3")(x)).all()


def test_a_target_without_panels_of_words_gets_floats():
    w, _ = weights(DTYPES["i4"], 256, 512, 32, False)
    assert [n.op for n in legalize(product(5, w), find_target("sm_80")).nodes] == ["input", "const", "unpack_panels", "matmul", "relu"]
