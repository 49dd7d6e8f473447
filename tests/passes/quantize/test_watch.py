"""The graph of statistics: what it computes by the reference, and that watching costs no work that is not needed."""

from __future__ import annotations

import numpy as np
from octavo.ir.evaluate import evaluate
from octavo.ir.text import parse
from octavo.ir.verify import verify
from octavo.passes.pipeline import optimize
from octavo.passes.quantize.profile import BINS, prepared, value_names
from octavo.passes.quantize.watch import watch

CONVOLUTIONS = """graph convolutions(%x: f32[n,4,8,8]) -> (%6) {
  %1 = conv(%x, const<f32[4,4,1,1] [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]>, dilations=[1,1], pads=[[0,0],[0,0]], strides=[1,1])
  %2 = add(%1, const<f32[1,4,1,1] [1,2,3,4]>)
  %3 = relu(%2)
  %4 = conv(%3, const<f32[4,4,1,1] [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,2]>, dilations=[1,1], pads=[[0,0],[0,0]], strides=[1,1])
  %5 = add(%4, %3)
  %6 = relu(%5)
}"""
HEADS = """graph heads(%x: f32[n,3,4]) -> (%4) {
  %1 = matmul(%x, const<f32[4,4] [1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,2]>)
  %2 = reshape(%1, shape=[n,3,2,2])
  %3 = transpose(%2, perm=[0,2,1,3])
  %4 = matmul(%3, const<f32[2,2] [1,1,-1,1]>)
}"""


def test_statistics_of_a_product() -> None:
    graph, (row, _) = watch(parse("graph g(%x: f32[n,2]) -> (%1) {\n  %1 = matmul(%x, const<f32[2,2] [1,0,0,1]>)\n}"))
    verify(graph)
    results = evaluate(graph, {"x": np.float32([[1, -3], [0, np.inf]])})
    assert (results[row.low], results[row.high], results[row.exponent]) == (-3, 1, 2)
    counts = results[row.bins]
    assert counts.shape == (BINS,)
    assert {k: n for k, n in enumerate(counts.tolist()) if n} == {1023 - 768: 1, 1024: 1, 1024 + 256: 1}
    assert row.channel_max is not None
    assert results[row.channel_max].tolist() == [1, 3]
    assert row.channel_sum is not None
    assert results[row.channel_sum].tolist() == [1, np.inf]


def test_what_is_only_rearranged_shares_its_histogram() -> None:
    original = prepared(parse(HEADS))
    names = value_names(original)
    _, rows = watch(original)
    places = {names[row.value]: row.bins for row in rows}
    assert places["%3"] == places["%1"]
    assert len(set(places.values())) == 3  # of x, and of both products
    channels = {names[row.value]: row.channel_max for row in rows}
    assert channels["%3"] != channels["%1"]


def test_images_are_watched_as_they_lie() -> None:
    """Channels last, as convolutions compute them: nothing but the input is transposed."""
    graph, _ = watch(prepared(parse(CONVOLUTIONS)))
    assert [n.inputs[0].node.op for n in optimize(graph).nodes if n.op == "transpose"] == ["input"]
