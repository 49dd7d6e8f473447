"""The manager: order, fixpoints, sub-graphs, reports, dumps, verification, and errors that say who failed where."""

import functools

import pytest
from octavo.ir.errors import ModelError, PassError, VerifyError
from octavo.ir.graph import Graph, Node, rewrite
from octavo.ir.ops.registry import apply
from octavo.ir.text import parse, to_text
from octavo.passes.manager import Fixpoint, run_passes

TEXT = "graph g(%x: f32[2]) -> (%2) {\n  %1 = exp(%x)  ; first\n  %2 = neg(%1)  ; second\n}"


def replace(old, new):
    def one(graph):
        return rewrite(graph, lambda n, inputs: apply(new, *inputs, loc=n.loc) if n.op == old else None)

    one.__name__ = f"{old}_to_{new}"
    return one


def ops(graph):
    return [n.op for n in graph.nodes]


def test_passes_run_in_order_and_are_reported():
    graph, reports = run_passes(parse(TEXT), [replace("exp", "sin"), replace("sin", "cos"), replace("exp", "tan")])
    assert ops(graph) == ["input", "cos", "neg"]
    assert [(r.name, r.before, r.after, r.changed) for r in reports] == [
        ("exp_to_sin", 3, 3, True),
        ("sin_to_cos", 3, 3, True),
        ("exp_to_tan", 3, 3, False),
    ]


def test_a_graph_that_no_pass_changes_is_the_same_object():
    graph = parse(TEXT)
    assert run_passes(graph, [replace("sin", "cos"), Fixpoint((replace("cos", "sin"),))])[0] is graph


def test_a_fixpoint_repeats_until_nothing_changes():
    group = Fixpoint((replace("sin", "cos"), replace("neg", "sin")))
    graph, reports = run_passes(parse(TEXT), [group])
    assert ops(graph) == ["input", "exp", "cos"]
    assert [r.changed for r in reports] == [False, True, True, False, False, False]


def test_a_fixpoint_stops_at_its_limit():
    _, reports = run_passes(parse(TEXT), [Fixpoint((replace("exp", "sin"), replace("sin", "exp")), limit=3)])
    assert len(reports) == 6


def test_passes_reach_the_bodies_of_nodes():
    body = parse("graph b(%x: f32[2]) -> (%1) {\n%1 = exp(%x)\n}")
    inner = Node("kernel", body.inputs, {"body": body}, body.outputs[0].node.types)
    outer = Graph(
        "outer",
        body.inputs,
        Node("kernel", body.inputs, {"body": Graph("mid", body.inputs, inner.outputs)}, inner.types).outputs,
    )
    graph, _ = run_passes(outer, [replace("exp", "sin")])
    assert ops(graph.outputs[0].node.attrs["body"].outputs[0].node.attrs["body"]) == ["input", "sin"]


def test_what_changed_is_dumped_to_numbered_files(tmp_path):
    steps = [replace("exp", "sin"), replace("exp", "cos"), functools.partial(replace("neg", "abs"))]
    graph, _ = run_passes(parse(TEXT), steps, dump=tmp_path / "new")
    files = sorted((tmp_path / "new").iterdir())
    assert [p.name for p in files] == ["000-input.txt", "001-exp_to_sin.txt", "002-neg_to_abs.txt"]
    assert files[-1].read_text() == to_text(graph)
    run_passes(parse(TEXT), [], dump=tmp_path / "new")
    assert (tmp_path / "new" / "003-input.txt").exists()


def test_the_environment_asks_for_dumps(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTAVO_DUMP", str(tmp_path))
    run_passes(parse(TEXT), [replace("exp", "sin")])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000-input.txt", "001-exp_to_sin.txt"]


def test_progress_is_told_before_each_application():
    told = []
    run_passes(parse(TEXT), [replace("exp", "sin"), Fixpoint((replace("sin", "cos"),))], progress=lambda *a: told.append(a))
    assert told == [("exp_to_sin", 0, 2), ("sin_to_cos", 1, 2), ("sin_to_cos", 1, 2)]


def test_a_failure_names_pass_node_place_and_what_ran_before():
    def broken(graph):
        def rule(node, inputs):
            if node.op == "neg":
                raise ModelError("no")

        return rewrite(graph, rule)

    with pytest.raises(PassError) as e:
        run_passes(parse(TEXT), [replace("exp", "sin"), Fixpoint((replace("sin", "cos"),)), broken])
    message = str(e.value)
    assert "the pass broken failed at <neg : f32[2] at second>" in message
    assert "passes already run: exp_to_sin, sin_to_cos" in message
    assert "ModelError: no" in message
    assert ">   %2 = neg(%1) : f32[2]  ; second" in message
    assert isinstance(e.value.__cause__, ModelError)


def wrong_types(graph):
    def rule(node, inputs):
        return (
            Node("cast", inputs, {"to": node.types[0].dtype}, (node.types[0].with_shape((3,)),), node.loc).outputs
            if node.op == "neg"
            else None
        )

    return rewrite(graph, rule)


def test_a_pass_that_breaks_the_graph_is_found_at_once():
    with pytest.raises(PassError, match=r"the pass wrong_types broke the graph .no pass had run.*at second: has types .f32.3.. where"):
        run_passes(parse(TEXT), [wrong_types, replace("exp", "sin")])


def test_verification_can_be_turned_off(monkeypatch):
    run_passes(parse(TEXT), [wrong_types], verify=False)
    monkeypatch.setenv("OCTAVO_VERIFY", "0")
    run_passes(parse(TEXT), [wrong_types])


def test_a_broken_graph_is_no_fault_of_the_first_pass():
    with pytest.raises(VerifyError):
        run_passes(wrong_types(parse(TEXT)), [replace("exp", "sin")])
