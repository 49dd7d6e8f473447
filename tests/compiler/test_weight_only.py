"""Weight-only quantization from a model to its results: `octavo.quantize(weight_only=...)`, the command, and ONNX in and out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import octavo
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from octavo.compiler.cli import main
from octavo.frontend.onnx import export_model, import_model
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, Node, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.types import parse_type
from octavo.passes.pipeline import optimize
from onnx import TensorProto, helper, numpy_helper

K, N = 256, 300
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal((K, N)).astype(np.float32)


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def network(rows: int | str = "n", depth: int = K) -> Graph:
    """Two large products, and one that is small."""
    x = input_value("x", parse_type(f"f32[{rows},{depth}]"))
    y = apply("matmul", x, const_value(np.resize(WEIGHTS, (depth, N))), loc="first")
    y = apply("matmul", apply("relu", y), const_value(np.resize(WEIGHTS * 0.1, (N, K))), loc="second")
    return Graph("g", (x,), (apply("matmul", y, const_value(WEIGHTS[:, :8]), loc="small"),))


def one(rows: int | str = "n") -> Graph:
    x = input_value("x", parse_type(f"f32[{rows},{K}]"))
    return Graph("g", (x,), (apply("matmul", x, const_value(WEIGHTS), loc="first"),))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "wide.onnx"
    path.write_bytes(export_model(one()).SerializeToString())
    return path


def in_floats(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What onnxruntime computes where it does not quantize activations, as it does by default beside such weights."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def dequantized(graph: Graph) -> list[Node]:
    return [n for n in graph.nodes if n.op == "dequantize"]


@pytest.mark.parametrize(("options", "error"), [({"weight_only": "int8"}, 0.01), ({"weight_only": "int4"}, 0.12), ({"weight_only": "int4", "block": 128}, 0.15)])  # fmt: skip
def test_results_are_those_of_the_model_but_for_rounding(options: dict[str, Any], error: float) -> None:
    graph = octavo.quantize(one(), **options)
    x = RNG.standard_normal((5, K)).astype(np.float32)
    expected, (reference,) = x @ WEIGHTS, evaluate(graph, {"x": x})
    result = octavo.compile(graph)(x)
    np.testing.assert_allclose(result, reference, atol=1e-5 * np.abs(expected).max())
    assert np.sqrt(np.square(result - expected).mean() / np.square(expected).mean()) < error


def test_int4_weights_reach_the_kernel_as_words() -> None:
    graph = octavo.quantize(one(), weight_only="int4")
    (narrow,) = dequantized(optimize(graph))
    assert [str(v.type) for v in narrow.inputs] == [f"i4[8,32,{N}]", f"f32[8,1,{N}]", "i4[]"]


def test_small_weights_and_many_rows_stay_floats() -> None:
    assert len(dequantized(octavo.quantize(network(depth=512), weight_only="int8"))) == 2
    assert len(dequantized(octavo.quantize(network(16, 512), weight_only="int8"))) == 2
    for rows in (17, "17*n"):
        with pytest.raises(
            QuantError, match="no matmul has constant f32 weights of 262144 bytes or more and can have 16 rows or fewer"
        ):
            octavo.quantize(network(rows, 512), weight_only="int8")


def test_what_is_excluded_stays() -> None:
    assert len(dequantized(octavo.quantize(network(depth=512), weight_only="int8", exclude=["second"]))) == 1
    with pytest.raises(QuantError, match="nothing can be quantized"):
        octavo.quantize(one(), weight_only="int4", exclude=["matmul"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "quantize by a profile, which octavo.calibrate returns, or give weight_only='int8' or 'int4', not both"),
        ({"weight_only": "int2"}, "weights are quantized to int8 or int4, not 'int2'"),
        ({"weight_only": "int8", "block": 32}, "int8 weights have one scale for each column; a block is for int4"),
        ({"weight_only": "int4", "block": 24}, "a block has 16, 32, 64, 128 or 256 rows, not 24"),
        ({"weight_only": "int4", "weights": "best"}, "matmul at first: there is no method 'best' for weights; there are: max, mse"),
        ({"weight_only": "int4", "require_speedup": 2.0}, "weights alone are quantized all or not at all"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(QuantError, match=text):
        octavo.quantize(one(), **options)


def test_a_block_has_to_divide_the_rows_of_weights() -> None:
    with pytest.raises(
        QuantError, match="matmul at second: a block of 32 does not divide the 300 rows of weights; none does, or exclude"
    ):
        octavo.quantize(network(depth=512), weight_only="int4")
    with pytest.raises(QuantError, match="a block of 256 does not divide the 640 rows of weights; 16 or 32 or 64 or 128 does"):
        octavo.quantize(network(depth=640), weight_only="int4", block=256, exclude=["second"])


def test_weights_that_are_no_numbers_are_refused() -> None:
    x = input_value("x", parse_type(f"f32[n,{K}]"))
    bad = WEIGHTS.copy()
    bad[3, 4] = np.nan
    with pytest.raises(QuantError, match="the weights hold infinities or NaN"):
        octavo.quantize(Graph("g", (x,), (apply("matmul", x, const_value(bad)),)), weight_only="int4")


# --- ONNX ---


@pytest.mark.parametrize("options", [{"weight_only": "int8"}, {"weight_only": "int4"}, {"weight_only": "int4", "block": 64}])
def test_onnxruntime_computes_the_same_from_an_export(options: dict[str, Any]) -> None:
    graph = octavo.quantize(one(), **options)
    proto = export_model(graph)
    onnx.checker.check_model(proto)
    x = RNG.standard_normal((3, K)).astype(np.float32)
    ours = octavo.compile(graph)(x)
    np.testing.assert_allclose(in_floats(proto, x), ours, atol=2e-5 * np.abs(ours).max())
    again = import_model(proto.SerializeToString())
    np.testing.assert_array_equal(octavo.compile(again)(x), ours)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(("dtype", "zero"), [("int4", False), ("uint4", True), ("int8", True)])
def test_weights_of_others_in_blocks_stay_small(axis: int, dtype: str, zero: bool) -> None:
    kind = {"int4": TensorProto.INT4, "uint4": TensorProto.UINT4, "int8": TensorProto.INT8}[dtype]
    low, high = {"int4": (-8, 8), "uint4": (0, 16), "int8": (-128, 128)}[dtype]
    block, shape = 32, (K, N) if axis == 0 else (N, K)
    counts = (K // block, N) if axis == 0 else (N, K // block)
    q, z = RNG.integers(low, high, shape), RNG.integers(low, high, counts) if zero else np.zeros(counts, np.int64)
    s = RNG.uniform(0.01, 0.02, counts).astype(np.float32)
    initializers = [
        helper.make_tensor("q", kind, shape, q.ravel()),
        numpy_helper.from_array(s, "s"),
        helper.make_tensor("z", kind, counts, z.ravel()),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=axis, block_size=block),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=axis),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, t) for n, t in (("x", [3, K]), ("y", [3, N])))
    proto = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    graph = import_model(proto.SerializeToString())
    (narrow,) = dequantized(optimize(graph))
    assert narrow.inputs[0].shape == (K // block, block, N)
    a = RNG.standard_normal((3, K)).astype(np.float32)
    expected = in_floats(proto, a)
    np.testing.assert_allclose(octavo.compile(graph)(a), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("zero", [False, True])
def test_matmul_n_bits_of_others_stays_small(zero: bool) -> None:
    block = 32
    packed = RNG.integers(0, 256, (N, K // block, block // 2), dtype=np.uint8)
    scales = RNG.uniform(0.01, 0.02, (N, K // block)).astype(np.float32)
    zeros = RNG.integers(0, 256, (N, K // block // 2), dtype=np.uint8)
    arrays = {"w": packed, "s": scales} | ({"z": zeros} if zero else {})
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, t) for n, t in (("x", [3, K]), ("y", [3, N])))
    node = helper.make_node("MatMulNBits", ["x", *arrays], ["y"], domain="com.microsoft", K=K, N=N, bits=4, block_size=block)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    proto = helper.make_model(helper.make_graph([node], "g", [x], [y], initializers), opset_imports=opsets, ir_version=8)
    graph = import_model(proto.SerializeToString())
    (narrow,) = dequantized(optimize(graph))
    assert str(narrow.inputs[0].type) == f"{'u4' if zero else 'i4'}[{K // block},{block},{N}]"
    a = RNG.standard_normal((3, K)).astype(np.float32)
    expected = in_floats(proto, a)
    np.testing.assert_allclose(octavo.compile(graph)(a), expected, atol=1e-4 * np.abs(expected).max())


# --- the command ---


@pytest.mark.parametrize(("args", "share", "said"), [(("int8",), 3.8, "in 8 bits: 1 matmul"), (("int4", "--block", "32"), 6, "in 4 bits: 1 matmul")])  # fmt: skip
def test_the_command_writes_a_smaller_model(source: Path, tmp_path: Path, args: tuple[str, ...], share: float, said: str) -> None:
    output = tmp_path / "small.onnx"
    result = run("quantize", source, "-o", output, "--weight-only", *args)
    assert result.exit_code == 0, result.output
    assert said in result.output
    assert output.stat().st_size < source.stat().st_size / share
    x = RNG.standard_normal((2, K)).astype(np.float32)
    expected = octavo.compile(octavo.quantize(source, weight_only=args[0]))(x)
    np.testing.assert_array_equal(octavo.compile(output)(x), expected)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (("--weight-only", "int2"), 2, "'int2' is not one of 'int8', 'int4'"),
        (("--weight-only", "int4", "--block", "24"), 2, "'24' is not one of '16', '32'"),
        (("--weight-only", "int8", "--block", "32"), 2, "--block is an option of --weight-only int4"),
        (("--weight-only", "int4", "--exclude", "matmul"), 1, "nothing can be quantized"),
    ],
)
def test_the_command_explains_what_it_refuses(source: Path, tmp_path: Path, args: tuple[str, ...], code: int, text: str) -> None:
    output = tmp_path / "never.onnx"
    result = run("quantize", source, "-o", output, *args)
    assert result.exit_code == code, result.output
    assert text in result.stderr
    assert not output.exists()
