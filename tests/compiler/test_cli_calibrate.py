"""`octavo calibrate`: where samples come from, what it writes, and what it says about data that does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import octavo
import pytest
from click.testing import CliRunner, Result
from octavo.compiler.cli import main
from octavo.compiler.data import read_samples
from octavo.frontend.onnx import export_model
from octavo.ir.errors import QuantError
from octavo.ir.text import parse

NETWORK = parse("""graph net(%x: f32[n,2]) -> (y: %2) {
  %1 = matmul(%x, const<f32[2,3] [1,0,-1,2,1,-2]>)
  %2 = relu(%1)
}""")
TWO = parse("""graph two(%a: f32[n,2], %b: f32[n,2]) -> (y: %2) {
  %1 = add(%a, %b)
  %2 = matmul(%1, const<f32[2,3] [1,0,-1,2,1,-2]>)
}""")
X = np.arange(12, dtype=np.float32).reshape(3, 2, 2) - 5  # three samples of two rows
SAMPLES = [{"x": x} for x in X]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(export_model(NETWORK).SerializeToString())
    return path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, args)], prog_name="octavo")


def calibrated(model: Path, data: object, *options: object) -> octavo.Profile:
    """The profile that the command writes."""
    output = model.with_name("net.qprof")
    result = run(model, "--data", data, "-o", output, *options)
    assert result.exit_code == 0, result.output
    return octavo.Profile.load(output)


def error(*args: object) -> str:
    """What the command says when it fails with exit code 1, and leaves no profile."""
    result = run(*args, "-o", "never.qprof")
    assert result.exit_code == 1, result.output
    assert not Path("never.qprof").exists()
    return result.stderr


def test_a_folder_has_a_sample_in_each_file(model: Path, tmp_path: Path) -> None:
    named, plain = tmp_path / "named", tmp_path / "plain"
    named.mkdir()
    plain.mkdir()
    for k, x in enumerate(X):
        np.savez(named / f"{k}.npz", x=x)
        np.save(plain / f"{k}.npy", x)
    expected = octavo.calibrate(model, SAMPLES)
    assert expected.samples == 3
    assert calibrated(model, named) == calibrated(model, plain) == expected


def test_an_npz_file_has_its_samples_along_a_first_axis(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=X)
    assert calibrated(model, tmp_path / "all.npz") == octavo.calibrate(model, SAMPLES)


@pytest.mark.parametrize("name", ["FEEDS", "generate"])
def test_a_module_gives_samples(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module = f"reader_{name.lower()}"
    code = "import numpy as np\nX = np.arange(12, dtype=np.float32).reshape(3, 2, 2) - 5\nFEEDS = [{'x': x} for x in X]\n"
    (tmp_path / f"{module}.py").write_text(code + "def generate():\n    yield from FEEDS\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert calibrated(model, f"{module}:{name}") == octavo.calibrate(model, SAMPLES)


def test_the_number_of_samples_can_be_limited(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=X)
    assert calibrated(model, tmp_path / "all.npz", "--samples", 2) == octavo.calibrate(model, SAMPLES[:2])


def test_the_result_is_told_as_json(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "all.npz", x=X)
    facts = json.loads(run(model, "--data", tmp_path / "all.npz", "-o", tmp_path / "p.qprof", "--json").stdout)
    assert facts["samples"] == 3
    assert facts["values"]["x"] == {"count": 12, "low": -5.0, "high": 6.0}


def test_wide_ranges_of_few_elements_are_shown(model: Path, tmp_path: Path) -> None:
    x = np.full((1, 50000, 2), 0.5, np.float32)
    x[0, 7, 0] = 100
    np.savez(tmp_path / "all.npz", x=x)
    text = run(model, "--data", tmp_path / "all.npz", "-o", tmp_path / "p.qprof").stdout
    assert "3 values on 1 samples" in text
    assert "ranges that few elements make wide" in text


def test_profiles_of_parts_are_merged(model: Path, tmp_path: Path) -> None:
    octavo.calibrate(model, SAMPLES[:1]).save(tmp_path / "a.qprof")
    octavo.calibrate(model, SAMPLES[1:]).save(tmp_path / "b.qprof")
    result = run("--merge", tmp_path / "a.qprof", tmp_path / "b.qprof", "-o", tmp_path / "all.qprof")
    assert result.exit_code == 0, result.output
    octavo.calibrate(model, SAMPLES).save(tmp_path / "whole.qprof")
    assert (tmp_path / "all.qprof").read_bytes() == (tmp_path / "whole.qprof").read_bytes()


def test_an_interruption_leaves_no_partial_file(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import numpy as np\ndef read():\n    yield {'x': np.zeros((1, 2), np.float32)}\n    raise KeyboardInterrupt\n"
    (tmp_path / "interrupted.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "out").mkdir()
    result = run(model, "--data", "interrupted:read", "-o", tmp_path / "out" / "net.qprof")
    assert result.exit_code == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_an_interruption_while_writing_keeps_the_old_profile(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "all.npz", x=X)
    output = tmp_path / "out" / "net.qprof"
    octavo.calibrate(model, SAMPLES[:1]).save(output)
    before = output.read_bytes()

    def interrupted(self: Path, *args: object, **kwargs: object) -> None:
        self.write_bytes(b'{"octavo profile"')
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    assert run(model, "--data", tmp_path / "all.npz", "-o", output).exit_code == 130
    assert [f.name for f in output.parent.iterdir()] == ["net.qprof"]
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    "args",
    [
        ["m", "-o", "p"],
        ["m", "m", "--data", "d", "-o", "p"],
        ["m", "--merge", "--data", "d", "-o", "p"],
        ["m", "--merge", "--samples", "2", "-o", "p"],
    ],
)
def test_wrong_usage_is_explained(model: Path, args: list[str]) -> None:
    result = run(*(model if a == "m" else a for a in args))
    assert result.exit_code == 2
    assert "give one model and --data, or --merge and the profiles to join" in result.stderr


def test_what_holds_no_samples_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no .npz and no .npy files; put a sample into each" in error(model, "--data", tmp_path / "empty")
    assert "'nowhere' is no folder, no .npz file and no module:reader" in error(model, "--data", "nowhere")
    assert "nowhere.npz cannot be read as a NumPy file" in error(model, "--data", tmp_path / "nowhere.npz")
    np.savez(tmp_path / "none.npz", x=X[:0])
    assert "there are no samples to calibrate with" in error(model, "--data", tmp_path / "none.npz")


def test_damaged_and_pickled_files_are_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "0.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(QuantError, match="cannot be read as a NumPy file"):
        list(read_samples(str(tmp_path / "bad"), ["x"]))
    np.savez(tmp_path / "pickled.npz", x=np.array([object()]))
    assert "pickled.npz cannot be read as a NumPy file" in error(model, "--data", tmp_path / "pickled.npz")


def test_arrays_of_an_npz_file_need_one_number_of_samples(model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "ragged.npz", a=np.zeros((3, 1, 2)), b=np.zeros((4, 1, 2)))
    message = "must hold arrays with one number of samples along a first axis of their own; it holds a (3, 1, 2), b (4, 1, 2)"
    assert message in error(model, "--data", tmp_path / "ragged.npz")


def test_an_unnamed_array_needs_a_model_of_one_input(tmp_path: Path) -> None:
    (tmp_path / "two.onnx").write_bytes(export_model(TWO).SerializeToString())
    np.save(tmp_path / "0.npy", X[0])
    message = "0.npy holds one array, but the model has the inputs a, b; use .npz files of named arrays"
    assert message in error(tmp_path / "two.onnx", "--data", tmp_path)


def test_a_failing_reader_is_named(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text("def read():\n    yield 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "the reader failing:read failed: ZeroDivisionError" in error(model, "--data", "failing:read")
    assert "the reader failing:missing failed: AttributeError" in error(model, "--data", "failing:missing")
    assert "the reader not_there:x failed: ModuleNotFoundError" in error(model, "--data", "not_there:x")
