"""What `compile` takes, what it makes of it, and what it refuses, by the words that users read."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import octavo
import onnx
import pytest
from octavo import ops
from octavo.backends.target import TARGETS, runnable
from octavo.compiler.driver import compile_native, graph_of
from octavo.ir.errors import ModelError, ShapeError, TargetError, UnsupportedOp
from octavo.ir.evaluate import evaluate
from octavo.ir.graph import Graph
from octavo.ir.text import parse

RELU = "graph g(%x: f32[n]) -> (%y) {\n%y = relu(%x)\n}"
X = np.float32([-1, 2, 3])


def onnx_model() -> onnx.ModelProto:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


# --- models ---------------------------------------------------------------------------------------------------------------------


def as_path(folder: Path) -> Path:
    onnx.save(onnx_model(), folder / "relu.onnx")
    return folder / "relu.onnx"


MODELS = {
    "a path": as_path,
    "a path as text": lambda folder: str(as_path(folder)),
    "the bytes of a file": lambda folder: as_path(folder).read_bytes(),
    "a ModelProto": lambda folder: onnx_model(),
    "a graph": lambda folder: parse(RELU),
    "a traced function": lambda folder: octavo.trace(lambda x: ops.relu(x), octavo.spec("f32", ("n",))),
}


@pytest.mark.parametrize("kind", MODELS)
def test_it_compiles(kind: str, tmp_path: Path):
    for dims, shape in ((None, "n"), ({"n": 3}, 3)):
        model = octavo.compile(MODELS[kind](tmp_path), dims=dims)
        assert [(spec.dtype, spec.shape) for spec in (*model.inputs, *model.outputs)] == [("f32", (shape,))] * 2
        np.testing.assert_array_equal(model(X), [0, 2, 3])


@pytest.mark.parametrize("model", [None, 7, X, [1], lambda x: x, {"graph": 1}, object()], ids=lambda m: type(m).__name__)
def test_what_is_no_model_is_refused(model: Any):
    with pytest.raises(ModelError, match=f"cannot compile a {type(model).__name__}; give a path, bytes, a ModelProto"):
        octavo.compile(model)


@pytest.mark.parametrize(("model", "text"), [("nothing.onnx", "nothing.onnx"), (b"rubbish", "ONNX"), (b"", "ONNX")])
def test_files_that_hold_no_model_are_refused(model: Any, text: str):
    with pytest.raises(ModelError, match=text):
        octavo.compile(model)


# --- options --------------------------------------------------------------------------------------------------------------------

TARGET_ERRORS = [
    ("x86-64-v9", "there is no target 'x86-64-v9'; known: native, x86-64-v3"),
    ("", "there is no target ''"),
    (("native", "pentium"), "there is no target 'pentium'"),
    ((7,), "there is no target 7"),
    ((), r"target=\(\) names no target; give a name such as 'native'"),
    (None, "target=None names no target"),
    (7, "target=7 names no target"),
    (("sm_80",), "target 'sm_80' gives no artifact; octavo.compile runs it in process"),
]


@pytest.mark.parametrize(("target", "text"), TARGET_ERRORS, ids=[repr(t) for t, _ in TARGET_ERRORS])
def test_unknown_targets_are_refused(target: Any, text: str):
    with pytest.raises(TargetError, match=text):
        octavo.compile(parse(RELU), target=target)


def test_a_target_that_this_machine_cannot_run_compiles_but_does_not_load():
    other = next(t.name for t in TARGETS.values() if t.kind == "cpu" and t not in runnable())
    assert len(compile_native(parse(RELU), target=other).native.variants) == 1
    with pytest.raises(TargetError, match=r"was compiled for \w+ with .*, which this CPU cannot run; compile it with target='native'"):
        octavo.compile(parse(RELU), target=other)


def test_of_several_targets_the_best_stands_first_and_equal_constants_are_shared():
    names = tuple(t.name for t in runnable())
    text = "graph g(%x: f32[2]) -> (%y) {\n%y = add(%x, const<f32[2] [1.0,2.0]>)\n}"
    native = compile_native(parse(text), target=names).native
    counts = [len(v.features) for v in native.variants]
    assert counts == sorted(counts, reverse=True)
    assert {v.weights_offset for v in native.variants} == {0}
    assert len({v.prefix for v in native.variants}) == len(names)
    np.testing.assert_array_equal(octavo.compile(parse(text), target=names)(X[:2]), [0, 4])


DIMS_ERRORS = [
    ({"m": 3}, "'m'.*: n|'m'; the symbols are n"),
    ({"n": -1}, "the dimension n cannot be -1; give an integer that is not negative"),
    ({"n": 2.0}, "the dimension n cannot be 2.0"),
    ({"n": "3"}, "the dimension n cannot be '3'"),
    ({"n": True}, "the dimension n cannot be True"),
]


@pytest.mark.parametrize(("dims", "text"), DIMS_ERRORS, ids=[str(d[0]) for d in DIMS_ERRORS])
@pytest.mark.parametrize("model", [lambda: parse(RELU), onnx_model], ids=["graph", "onnx"])
def test_wrong_dims_are_refused(model: Any, dims: Any, text: str):
    with pytest.raises(ModelError, match=text):
        octavo.compile(model(), dims=dims)


def test_a_pinned_dim_is_the_only_one_accepted():
    model = octavo.compile(parse(RELU), dims={"n": 4})
    with pytest.raises(ShapeError, match=r"input 'x' of model 'g': given f32\[3\], accepted f32\[4\]"):
        model(X)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_a_number_of_threads_is_a_positive_integer(threads: Any):
    with pytest.raises(TargetError, match=f"threads={threads!r} is not a number of threads; give an integer of 1 or more"):
        octavo.compile(parse(RELU), threads=threads)


def test_threads_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch):
    assert octavo.compile(parse(RELU), threads=1).threads == 1
    monkeypatch.setenv("OCTAVO_THREADS", "2")
    assert octavo.compile(parse(RELU)).threads == 2
    assert octavo.compile(parse(RELU), threads=1).threads == 1


def test_progress_is_told_of_every_stage(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OCTAVO_CACHE", "0")
    told: list[str] = []
    octavo.compile(parse(RELU), progress=lambda stage, done, total: told.append(stage))
    assert told[:2] == ["import", "optimize"]


# --- results --------------------------------------------------------------------------------------------------------------------

EDGES = {
    "an input is an output": "graph g(%x: f32[n]) -> (%x) {\n}",
    "one value is two outputs": "graph g(%x: f32[n]) -> (a: %y, b: %y) {\n%y = neg(%x)\n}",
    "a constant is an output": "graph g(%x: f32[n]) -> (%c) {\n%c = add(const<f32[2] [1.0,2.0]>, const<f32[] 1.0>)\n}",
    "an input that nothing reads": "graph g(%x: f32[n], %unused: f32[n]) -> (%y) {\n%y = neg(%x)\n}",
    "no outputs": "graph g(%x: f32[n]) -> () {\n}",
    "a scalar": "graph g(%x: f32[]) -> (%y) {\n%y = exp(%x)\n}",
    "a scalar reduced over no axis": "graph g(%x: f32[]) -> (%y) {\n%y = reduce_sum(%x, axes=[], keepdims=false)\n}",
    "nothing at all": "graph g(%x: f32[0,3]) -> (%y) {\n%y = softmax(%x, axis=1)\n}",
    "a sum over nothing": "graph g(%x: f32[0,3]) -> (%y) {\n%y = reduce_sum(%x, axes=[0], keepdims=false)\n}",
    "a product over nothing": "graph g(%x: f32[2,0], %z: f32[0,3]) -> (%y) {\n%y = matmul(%x, %z)\n}",
    "sizes of the run": "graph g(%x: f32[n,2]) -> (%y) {\n%y = sizes(dims=[n,2*n+1])\n}",
    "division by a literal zero": "graph g(%x: i32[n]) -> (%y) {\n%z = div(%x, const<i32[] 0>)\n%y = sub(%z, %z)\n}",
    "one rounding from f64 to f16": "graph g(%x: f64[n]) -> (%y) {\n%z = add(%x, const<f64[] 1e-9>)\n%y = cast(%z, to=f16)\n}",
    "pads over the image's size": """graph g(%x: f32[1,3,h,5]) -> (%y) {
      %w = broadcast_to(const<f32[1,1,1,1] [2.0]>, shape=[3,1,3,3])
      %y = conv(%x, %w, strides=[2,2], pads=[[h-(h-1)//2*2,1],[1,h-(h-1)//2*2]], dilations=[1,1], groups=3)
    }""",
}


@pytest.mark.parametrize("name", EDGES)
def test_edge_cases_compute_what_they_mean(name: str):
    graph = parse(EDGES[name])
    rng = np.random.default_rng(0)
    feeds = {}
    for v, key in zip(graph.inputs, graph.input_names, strict=True):
        shape = [d if isinstance(d, int) else 3 for d in v.shape]
        feeds[key] = (rng.standard_normal(shape) * 10).astype(v.dtype.np)
    for got, want in zip(octavo.compile(graph).run(None, feeds), evaluate(graph, feeds), strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-5)


UNSUPPORTED = {
    "dtype string cannot be compiled": "graph g(%x: string[2]) -> (%x) {\n}",
    "cast : c64.*not compute with values of dtype c64": "graph g(%x: f32[2]) -> (%y) {\n%c = cast(%x, to=c64)\n%y = cast(%c, to=f32)\n}",
}


@pytest.mark.parametrize("text", UNSUPPORTED)
def test_what_has_no_code_is_refused_with_its_name(text: str):
    with pytest.raises(UnsupportedOp, match=text):
        octavo.compile(parse(UNSUPPORTED[text]))


def test_an_unsupported_operator_is_named():
    model = onnx_model()
    model.graph.node[0].op_type = "Reluctant"
    with pytest.raises(UnsupportedOp, match="Reluctant"):
        octavo.compile(model)


def test_every_stage_can_be_looked_at():
    c = compile_native(parse("graph g(%x: f32[n,2]) -> (%y) {\n%y = softmax(%x, axis=1)\n}"), dims={"n": 4})
    assert [n.op for n in c.graph.nodes] == ["input", "softmax"]
    assert [n.op for n in c.fused.nodes] == ["input", "kernel"]
    assert c.graph.inputs[0].shape == (4, 2)
    assert len(c.program.kernels()) == len(c.built[0].calls) == 1
    assert c.native.signature.symbols == ()
    assert "softmax" in c.native.graph_text


def test_a_graph_is_itself():
    graph = parse(RELU)
    assert graph_of(graph) is graph
    assert isinstance(graph_of(onnx_model()), Graph)


@pytest.mark.parametrize("on", [True, False])
def test_the_collector_rests_while_compiling_and_is_then_as_it_was(on: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []

    def tell(stage: str, done: int, total: int) -> None:
        seen.append(gc.isenabled())
        if stage == "optimize":
            raise KeyboardInterrupt

    monkeypatch.setenv("OCTAVO_CACHE", "0")
    (gc.enable if on else gc.disable)()
    try:
        with pytest.raises(KeyboardInterrupt):
            octavo.compile(parse(RELU), progress=tell)
        assert (seen, gc.isenabled()) == ([False, False], on)
    finally:
        gc.enable()
