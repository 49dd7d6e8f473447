"""A network of convolutions keeps transposes at its inputs and outputs only."""

import collections

import pytest
from octavo.ir.text import parse
from octavo.passes.layout import layout
from octavo.passes.pipeline import optimize

from .check import becomes, same_values


def test_a_convolution_stands_between_transposes():
    becomes(
        """graph g(%x: f32[n,2,5]) -> (%y) {
          %y = conv(%x, const<f32[1,2,2] [1.0,2.0,3.0,4.0]>, strides=[1], pads=[[1,0]], dilations=[2], groups=1)  ; here
        }""",
        layout,
        """graph g(%x: f32[n,2,5]) -> (%y) {
          %1 = transpose(%x, perm=[0,2,1])  ; here
          %2 = conv(%1, const<f32[1,2,2] [1.0,2.0,3.0,4.0]>, strides=[1], pads=[[1,0]], dilations=[2], groups=1,
                    layout="channels_last")  ; here
          %y = transpose(%2, perm=[0,2,1])  ; here
        }""",
    )


def weights(*shape):
    size = 1
    for d in shape:
        size *= d
    return f"const<f32[{','.join(map(str, shape))}] [{','.join(str((k * 7 % 11 - 5) / 8) for k in range(size))}]>"


PLAIN = "strides=[1,1], dilations=[1,1]"
CNN = f"""graph cnn(%x: f32[n,3,h,w]) -> (%y) {{
  %1 = conv(%x, {weights(4, 3, 3, 3)}, strides=[2,2], dilations=[1,1], pads=[[1,1],[1,1]])
  %2 = batch_norm(%1, {weights(4)}, {weights(4)}, {weights(4)}, const<f32[4] [1.0,2.0,0.5,4.0]>, epsilon=0.001)
  %3 = relu(%2)
  %4 = conv(%3, {weights(4, 1, 3, 3)}, {PLAIN}, pads=[[1,1],[1,1]], groups=4)
  %5 = add(%4, {weights(4, 1, 1)})
  %6 = hard_swish(%5)
  %7 = add(%3, %6)
  %8 = max_pool(%7, kernel=[2,2], strides=[2,2], pads=[[0,0],[0,0]], dilations=[1,1])
  %9 = reduce_sum(%8, axes=[2,3], keepdims=true)
  %10 = conv(%9, {weights(4, 4, 1, 1)}, {PLAIN}, pads=[[0,0],[0,0]])
  %11 = sigmoid(%10)
  %12 = mul(%8, %11)
  %13 = concat(%12, %8, axis=1)
  %14 = avg_pool(%13, kernel=[3,3], strides=[1,1], pads=[[1,1],[1,1]], dilations=[1,1], count_include_pad=false)
  %15 = conv(%14, {weights(5, 8, 1, 1)}, {PLAIN}, pads=[[0,0],[0,0]])
  %16 = reduce_max(%15, axes=[2,3], keepdims=true)
  %17 = reshape(%16, shape=[n,5])
  %y = matmul(%17, {weights(5, 2)})
}}"""


def test_a_classifier_transposes_its_image_only():
    before = parse(CNN)
    after = optimize(before)
    counts = collections.Counter(n.op for n in after.nodes)
    assert counts["transpose"] == 1
    assert {n.attrs["layout"] for n in after.nodes if n.op == "conv"} == {"channels_last"}
    same_values(before, after, sizes={"n": 2, "h": 16, "w": 20}, tolerance=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_chains_of_any_rank_transpose_once_on_each_side(rank):
    one, pads = ",".join(["1"] * rank), ",".join(["[1,1]"] * rank)
    kernel = (3,) * rank
    attrs = f"strides=[{one}], dilations=[{one}], pads=[{pads}]"
    before = parse(f"""graph g(%x: f32[n,2,{",".join(["6"] * rank)}]) -> (%y) {{
      %1 = conv(%x, {weights(3, 2, *kernel)}, {attrs})
      %2 = gelu(%1)
      %3 = conv(%2, {weights(3, 1, *kernel)}, {attrs}, groups=3)
      %y = leaky_relu(%3, alpha=0.1)
    }}""")
    after = optimize(before)
    assert sum(n.op == "transpose" for n in after.nodes) == 2
    same_values(before, after, tolerance=1e-4)
