"""`octavo.quantize`, its command, `compile(quantize=...)`, and what onnxruntime makes of the same models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import octavo
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from octavo.backends.target import runnable
from octavo.compiler.cli import main
from octavo.frontend.onnx import export_model, import_model
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse
from octavo.ir.types import parse_type
from octavo.passes.pipeline import optimize
from octavo.tests.passes.quantize.networks import images, residual_network, rows, separable_network, transformer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "residual.onnx"
    path.write_bytes(export_model(residual_network()).SerializeToString())
    return path


@pytest.fixture(scope="module")
def profile(model: Path) -> Path:
    path = model.with_suffix(".qprof")
    octavo.calibrate(model, images(4)).save(path)
    return path


def onnxruntime_results(data: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]  # type: ignore[return-value]


def quanta_apart(graph: Graph, feed: dict[str, np.ndarray]) -> float:
    """How far the compiled graph and onnxruntime with its export are apart, in hundredths of the largest result."""
    ours = octavo.compile(graph).run(None, feed)[0]
    theirs = onnxruntime_results(export_model(graph).SerializeToString(), feed)
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


# A value that lies between two quanta in exact arithmetic may be rounded to the other one: onnxruntime divides floats by the scale
# where Octavo multiplies integers by a quotient.  The last layer then sees one quantum more of a few of its operands.
ONE_QUANTUM = 1 / 100


def test_onnxruntime_runs_the_export_of_a_convolutional_network_alike() -> None:
    graph = residual_network()
    quantized = octavo.quantize(graph, octavo.calibrate(graph, images(4)))
    assert quanta_apart(quantized, images(1, seed=9)[0]) < ONE_QUANTUM


def test_onnxruntime_runs_the_export_of_a_transformer_alike() -> None:
    graph = transformer()
    quantized = octavo.quantize(graph, octavo.calibrate(graph, rows(4)))
    assert quanta_apart(quantized, rows(1, seed=9)[0]) < ONE_QUANTUM


def test_onnxruntime_runs_the_export_of_equalized_channels_alike() -> None:
    graph = separable_network(4)
    quantized = octavo.quantize(graph, octavo.calibrate(graph, images(4)), equalize=True)
    assert quanta_apart(quantized, images(1, seed=9)[0]) < ONE_QUANTUM


def test_the_export_is_qdq_with_bytes_for_weights() -> None:
    graph = residual_network()
    exported = export_model(octavo.quantize(graph, octavo.calibrate(graph, images(2))))
    ops = {n.op_type for n in exported.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    weights = [t for t in exported.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    constants = [a.t for n in exported.graph.node if n.op_type == "Constant" for a in n.attribute if a.name == "value"]
    weights += [t for t in constants if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    assert len(weights) == 3


def test_an_export_read_again_computes_the_same_bits() -> None:
    graph = residual_network()
    quantized = octavo.quantize(graph, octavo.calibrate(graph, images(2)))
    again = import_model(export_model(quantized).SerializeToString())
    (feed,) = images(1, seed=9)
    np.testing.assert_array_equal(evaluate(optimize(again), feed)[0], evaluate(optimize(quantized), feed)[0])


def test_a_profile_may_be_a_path_or_an_object(model: Path, profile: Path) -> None:
    (feed,) = images(1, seed=9)
    by_path = octavo.compile(octavo.quantize(model, profile)).run(None, feed)[0]
    by_object = octavo.compile(model, quantize=octavo.Profile.load(profile)).run(None, feed)[0]
    np.testing.assert_array_equal(by_path, by_object)


def test_the_sizes_that_were_fixed_for_calibration_are_fixed(model: Path) -> None:
    fixed = octavo.calibrate(model, images(1), dims={"n": 4})
    assert octavo.compile(model, quantize=fixed, dims={"n": 4}).inputs[0].shape == (4, 3, 16, 16)
    with pytest.raises(QuantError, match="with the same fixed dimensions"):
        octavo.quantize(model, fixed)


def test_what_is_no_profile_is_refused(model: Path) -> None:
    with pytest.raises(QuantError, match=r"a profile is what octavo\.calibrate returns, or the path of its file, not a list"):
        octavo.quantize(model, [])  # type: ignore[arg-type]


# --- the command ---


def run(*args: object) -> Result:
    return CliRunner().invoke(main, list(map(str, args)), prog_name="octavo")


def test_the_command_writes_a_model_that_computes_the_same(model: Path, profile: Path, tmp_path: Path) -> None:
    output = tmp_path / "int8.onnx"
    result = run(
        "quantize", model, profile, "-o", output, "--no-time", "--method", "percentile", "--percent", "99.9", "--weights", "mse"
    )
    assert result.exit_code == 0, result.output
    assert "in 8 bits: 3 conv, 1 matmul; in floats: none" in result.stdout
    options = {"method": "percentile", "percent": 99.9, "weights": "mse"}
    (feed,) = images(1, seed=9)
    expected = octavo.compile(octavo.quantize(model, profile, **options)).run(None, feed)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(octavo.compile(output).run(None, feed)[0], expected)


@pytest.mark.parametrize(("options", "equalize"), [((), True), (("--no-equalize",), False)])
def test_the_command_equalizes_channels_unless_told_not_to(options: tuple[str, ...], equalize: bool, tmp_path: Path) -> None:
    path, profile, output = tmp_path / "model.onnx", tmp_path / "model.qprof", tmp_path / "int8.onnx"
    path.write_bytes(export_model(separable_network(4)).SerializeToString())
    octavo.calibrate(path, images(2)).save(profile)
    result = run("quantize", path, profile, "-o", output, "--no-time", *options)
    assert result.exit_code == 0, result.output
    (feed,) = images(1, seed=9)
    found, same, other = (
        octavo.compile(m).run(None, feed)[0]
        for m in (output, *(octavo.quantize(path, profile, equalize=e) for e in (equalize, not equalize)))
    )
    np.testing.assert_array_equal(found, same)
    assert (found != other).any()


def test_the_command_leaves_out_what_it_is_told(model: Path, profile: Path, tmp_path: Path) -> None:
    result = run("quantize", model, profile, "-o", tmp_path / "int8.onnx", "--exclude", "matmul", "--no-time", "--json")
    assert json.loads(result.stdout)["quantized"] == {"conv": 3}
    assert json.loads(result.stdout)["floats"] == {"matmul": 1}


def test_defaults_are_those_of_the_command(model: Path, profile: Path, tmp_path: Path) -> None:
    said = {"method": "percentile", "percent": 99.99, "weights": "max", "correct_bias": True}
    expected = export_model(octavo.quantize(model, profile, **said)).SerializeToString()  # type: ignore[arg-type]
    assert export_model(octavo.quantize(model, profile)).SerializeToString() == expected
    assert run("quantize", model, profile, "-o", tmp_path / "default.onnx", "--no-time").exit_code == 0
    assert (tmp_path / "default.onnx").read_bytes() == expected
    assert run("quantize", model, profile, "-o", tmp_path / "other.onnx", "--no-time", "--no-correct-bias").exit_code == 0
    assert (tmp_path / "other.onnx").read_bytes() != expected


def test_compile_quantizes_by_a_profile(model: Path, profile: Path, tmp_path: Path) -> None:
    artifact = tmp_path / "residual.octavo"
    assert run("compile", model, "-o", artifact, "--int8", profile, "--no-time").exit_code == 0
    (feed,) = images(1, seed=9)
    np.testing.assert_array_equal(octavo.load(artifact).run(None, feed)[0], octavo.compile(model, quantize=profile).run(None, feed)[0])


def test_a_damaged_profile_leaves_no_file(model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.qprof"
    broken.write_text("{}")
    result = run("quantize", model, broken, "-o", tmp_path / "never.onnx")
    assert result.exit_code == 1
    assert "is no profile, or a damaged one" in result.stderr
    assert not (tmp_path / "never.onnx").exists()


@pytest.mark.parametrize(
    ("pattern", "edited", "message"),
    [
        (r'"low": [^,]*', '"low": NaN', "is not finite"),
        (r'"high": [^,]*', '"high": Infinity', "is not finite"),
        (r'"low": [^,]*, "high": [^,]*', '"low": 2.0, "high": -2.0', "is upside down: its least is above its greatest"),
    ],
)
def test_an_edited_profile_is_explained(model: Path, profile: Path, tmp_path: Path, pattern: str, edited: str, message: str) -> None:
    broken = tmp_path / "broken.qprof"
    text, count = re.subn(pattern, edited, profile.read_text(), count=1)
    assert count == 1
    broken.write_text(text)
    refuses(model, broken, tmp_path, message)


def test_a_truncated_profile_and_one_of_random_bytes_are_explained(model: Path, profile: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.qprof"
    for data in (profile.read_bytes()[:-100], np.random.default_rng(0).bytes(1000)):
        broken.write_bytes(data)
        refuses(model, broken, tmp_path, "is no profile, or a damaged one")


def refuses(model: Path, profile: Path, tmp_path: Path, message: str) -> None:
    """Assert that Python and the command refuse the profile, and that the command leaves no file."""
    with pytest.raises(QuantError, match=message):
        octavo.quantize(model, profile)
    result = run("quantize", model, profile, "-o", tmp_path / "out" / "never.onnx")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_an_interruption_while_writing_keeps_the_old_model(
    model: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "int8.onnx"
    output.parent.mkdir()
    output.write_bytes(b"old")
    write = Path.write_bytes

    def interrupted(self: Path, data: bytes) -> None:
        write(self, data[:10])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    assert run("quantize", model, profile, "-o", output, "--no-time").exit_code == 130
    assert [f.name for f in output.parent.iterdir()] == ["int8.onnx"]
    assert output.read_bytes() == b"old"


def test_an_option_of_another_method_is_wrong_usage(model: Path, profile: Path, tmp_path: Path) -> None:
    result = run("quantize", model, profile, "-o", tmp_path / "never.onnx", "--method", "mse", "--percent", "99")
    assert result.exit_code == 2
    assert "--percent is an option of --method percentile" in result.stderr


def test_weights_alone_need_no_profile(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((256, 300)).astype(np.float32)
    x = input_value("x", parse_type("f32[n,256]"))
    source, output = tmp_path / "wide.onnx", tmp_path / "int8.onnx"
    source.write_bytes(export_model(Graph("wide", (x,), (apply("matmul", x, const_value(w)),))).SerializeToString())
    result = run("quantize", source, "-o", output, "--weight-only", "int8")
    assert result.exit_code == 0, result.output
    assert output.stat().st_size < source.stat().st_size / 3
    rows = np.random.default_rng(1).standard_normal((3, 256)).astype(np.float32)
    expected = rows @ w
    np.testing.assert_allclose(octavo.compile(output).run(None, {"x": rows})[0], expected, atol=0.02 * np.abs(expected).max())
    (cast,) = (n for n in optimize(octavo.quantize(source, weight_only="int8")).nodes if n.op == "cast")
    assert cast.inputs[0].dtype.name == "i8"


def test_a_model_without_large_weights_has_none_to_make_smaller(model: Path) -> None:
    with pytest.raises(QuantError, match="nothing can be quantized: no matmul has constant f32 weights of 262144 bytes or more"):
        octavo.quantize(model, weight_only="int8")


def test_the_command_wants_a_profile_or_weights_only(model: Path, profile: Path, tmp_path: Path) -> None:
    for args in ((model,), (model, profile, "--weight-only", "int8")):
        result = run("quantize", *args, "-o", tmp_path / "never.onnx")
        assert result.exit_code == 2
        assert "give the profile that `octavo calibrate` wrote, or --weight-only" in result.stderr


# --- models of others ---

QDQ = """<ir_version: 8, opset_import: ["" : 17]>
g (float[n,2,6,6] x) => (float[n,3,6,6] y)
<float xs = {0.05}, uint8 xz = {128}, int8[3,2,3,3] w = {%s}, float[3] ws = {0.01, 0.02, 0.03}, int8[3] wz = {0, 0, 0},
 int32[3] b = {100, -200, 300}, float[3] bs = {0.0005, 0.001, 0.0015}, int32[3] bz = {0, 0, 0}, float ys = {0.1}, uint8 yz = {3}>
{
  q = QuantizeLinear(x, xs, xz) d = DequantizeLinear(q, xs, xz)
  dw = DequantizeLinear<axis=0>(w, ws, wz) db = DequantizeLinear<axis=0>(b, bs, bz)
  c = Conv<pads=[1,1,1,1]>(d, dw, db) r = Relu(c)
  p = QuantizeLinear(r, ys, yz) y = DequantizeLinear(p, ys, yz)
}"""


def test_a_quantized_model_of_others_computes_what_onnxruntime_computes() -> None:
    rng = np.random.default_rng(0)
    text = QDQ % ", ".join(map(str, rng.integers(-127, 128, 54)))
    data = onnx.parser.parse_model(text).SerializeToString()
    feed = {"x": rng.standard_normal((2, 2, 6, 6)).astype(np.float32) * 3}
    ours, theirs = octavo.compile(data).run(None, feed)[0], onnxruntime_results(data, feed)
    assert np.abs(ours - theirs).max() < 0.101  # one quantum, as above
    assert (ours != theirs).mean() < 0.01


def test_the_kernel_of_a_quantized_convolution_of_others_is_one_of_bytes() -> None:
    data = onnx.parser.parse_model(QDQ % ", ".join(["1"] * 54)).SerializeToString()
    (conv,) = (n for n in optimize(import_model(data)).nodes if n.op == "conv")
    assert [v.dtype.name for v in conv.inputs] == ["u8", "i8"]


def test_a_warning_names_what_stays_floats() -> None:
    graph = parse("""graph g(%x: u8[2,2], %v: u8[2,2]) -> (%y) {
      %d = dequantize(%x, const<f32[] 0.5>, const<u8[] 3>)
      %w = dequantize(%v, const<f32[] 0.5>, const<u8[] 3>)
      %y = matmul(%d, %w)  ; onnx:/attention/MatMul
    }""")
    with pytest.warns(octavo.QuantWarning, match="matmul at onnx:/attention/MatMul is turned back into floats"):
        optimize(graph)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("xs", np.array(0, np.float32), "a scale is 0.0; scales are positive, finite"),
        ("ws", np.array([0.1, np.nan, 0.1], np.float32), "a scale is nan; scales are positive, finite"),
        ("ys", np.array(1e-40, np.float32), "a scale is 1e-40; scales are positive, finite"),
        ("xz", np.array([1, 2], np.uint8), "there are 2 zero points and 1 scales"),
        ("yz", np.array(300, np.int32), "the zero point is of i32"),
    ],
)
def test_the_command_refuses_parameters_that_cannot_be_used(tmp_path: Path, name: str, array: np.ndarray, message: str) -> None:
    proto = onnx.parser.parse_model(QDQ % ", ".join(["1"] * 54))
    (tensor,) = (t for t in proto.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    result = run("compile", path, "-o", tmp_path / "out" / "never.oct")
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.parametrize("level", [t.name for t in runnable()])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_level_and_number_of_threads_gives_the_same_bits(model: Path, profile: Path, level: str, threads: int) -> None:
    (feed,) = images(1, seed=9)
    quantized = octavo.quantize(model, profile)
    expected = evaluate(optimize(quantized), feed)[0]
    np.testing.assert_array_equal(octavo.compile(quantized, target=level, threads=threads).run(None, feed)[0], expected)
