"""The benchmark of products with weights of few bits: every runtime computes the product, and the table has a line for each."""

from octavo.benchmarks.tables import markdown
from octavo.benchmarks.weight_only import BYTES, measure, sections


def test_a_small_product_is_measured_by_every_runtime():
    rows = measure(1, (256, 256), 1)
    assert [r.runtime for r in rows] == [
        "octavo f32",
        "octavo int8",
        "octavo int4",
        "onnxruntime f32",
        "onnxruntime int4",
        "onnxruntime int4, int8 activations",
    ]
    assert rows[0].gain == 1
    for r in rows:
        of = next(b for kind, b in BYTES.items() if kind in r.runtime.split(",")[0])
        assert abs(r.gb_per_s * r.ms * 1e6 / (256 * 256 * of) - 1) < 1e-9
    (section,) = sections(rows)
    assert len(markdown([section])) == 4 + 6 + 2 + 1
