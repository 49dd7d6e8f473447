"""Attention of the standard: whole as one op where it can be, and always what the standard's reference computes."""

from __future__ import annotations

import numpy as np
import octavo
import onnx.parser
import pytest
from octavo.frontend.onnx import import_model
from onnx.reference import ReferenceEvaluator

QKV = "float[b,4,s,8] q, float[b,2,t,8] k, float[b,2,t,6] v"
SHAPES = [(2, 4, 5, 8), (2, 2, 7, 8), (2, 2, 7, 6)]


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 24]> g {text}')


def agrees(proto: onnx.ModelProto, *shapes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    feeds = {x.name: rng.standard_normal(shape).astype(np.float32) for x, shape in zip(proto.graph.input, shapes, strict=True)}
    for actual, expected in zip(octavo.compile(proto).run(None, feeds), ReferenceEvaluator(proto).run(None, feeds), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def whole(proto: onnx.ModelProto) -> bool:
    return "attention" in {node.op for node in import_model(proto).nodes}


@pytest.mark.parametrize("attrs", ["", "<is_causal=1>", "<scale=0.5, softcap=2.0>"])
def test_four_axes_and_shared_key_heads(attrs: str):
    proto = model(f"({QKV}) => (float[b,h,s,e] y) {{ y = Attention{attrs}(q, k, v) }}")
    assert whole(proto)
    agrees(proto, *SHAPES)


def test_three_axes():
    proto = model(
        """(float[b,s,32] q, float[b,t,16] k, float[b,t,12] v) => (float[b,s,e] y) {
          y = Attention<q_num_heads=4, kv_num_heads=2>(q, k, v)
        }"""
    )
    assert whole(proto)
    agrees(proto, (2, 5, 32), (2, 7, 16), (2, 7, 12))


def test_past_keys_and_values_come_before_and_are_given_back():
    proto = model(
        f"""({QKV}, float[b,2,p,8] pk, float[b,2,p,6] pv) => (float[b,h,s,e] y, float[b,2,u,8] nk, float[b,2,u,6] nv) {{
          y, nk, nv = Attention<is_causal=1>(q, k, v, , pk, pv)
        }}"""
    )
    assert whole(proto)
    agrees(proto, *SHAPES, (2, 2, 3, 8), (2, 2, 3, 6))


def test_rows_that_a_mask_leaves_no_key_are_zero():
    proto = model(
        f"({QKV}, float[s,t] m) => (float[b,h,s,e] y) {{ z = Constant<value_float=0.0>() c = Less(m, z) y = Attention(q, k, v, c) }}"
    )
    assert not whole(proto)
    feeds = dict(zip("qkv", (np.ones(shape, np.float32) for shape in SHAPES), strict=True))
    mask = np.full((5, 7), -1, np.float32)
    mask[2] = 1
    (y,) = octavo.compile(proto).run(None, {**feeds, "m": mask})
    assert not y[:, :, 2].any()
    np.testing.assert_allclose(y[:, :, 3], 1, rtol=1e-6)
