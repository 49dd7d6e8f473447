"""Profiles: every kernel accounted for, shares that add up, a trace that browsers read."""

from __future__ import annotations

import json
import os

import numpy as np
import octavo
import pytest
from octavo import ops
from octavo.compiler.driver import compile_native
from octavo.compiler.machine import pinned
from octavo.compiler.profile import Profile, profile
from octavo.ir.graph import Value, const_value


def profiled(feeds: dict[str, np.ndarray]) -> Profile:
    w = np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8)

    def two(x: Value) -> Value:
        return ops.softmax(x @ w, axis=1)

    return profile(compile_native(octavo.trace(two, octavo.spec("f32", ("n", 8)))), feeds, seconds=0.01, rounds=2)


@pytest.fixture(scope="module")
def found() -> Profile:
    return profiled({"x": np.ones((16, 8), np.float32)})


def test_kernels_come_with_work_and_shares(found: Profile) -> None:
    assert [k.template for k in found.kernels] == ["contract", "row"]
    assert sum(k.share for k in found.kernels) == pytest.approx(1)
    matmul = found.kernels[0]
    assert matmul.flops == 2 * 16 * 8 * 8
    assert matmul.calls == 1
    assert matmul.gflops == pytest.approx(matmul.flops / matmul.us / 1e3)
    assert matmul.flop_share == pytest.approx(matmul.gflops / found.peak_gflops)
    assert matmul.byte_share == pytest.approx(matmul.gbytes / found.bandwidth_gbytes)
    assert {k.bound for k in found.kernels} <= {"compute", "memory"}
    assert "test_profile.py" in matmul.loc
    assert found.kernel_us <= found.run_us * 2


def test_products_of_bytes_are_measured_beside_products_of_bytes() -> None:
    w = const_value(np.ones((64, 16), np.int8))
    graph = octavo.trace(lambda x: x @ w, octavo.spec("u8", ("n", 64)))
    found = profile(compile_native(graph), {"x": np.ones((16, 64), np.uint8)}, seconds=0.01, rounds=2)
    (matmul,) = found.kernels
    assert matmul.flop_share == pytest.approx(matmul.gflops / found.peak_gops)
    assert found.peak_gops > 0


def test_the_trace_has_an_event_for_each_call(found: Profile) -> None:
    events = json.loads(json.dumps(found.as_trace()))["traceEvents"]
    complete = [e for e in events if e["ph"] == "X"]
    assert [e["args"]["kernel"] for e in complete] == [0, 1]
    assert complete[0]["ts"] == 0
    assert complete[0]["dur"] > 0
    assert complete[0]["ts"] + complete[0]["dur"] <= complete[1]["ts"]


def test_data_for_json_leaves_the_events_to_the_trace(found: Profile) -> None:
    data = json.loads(json.dumps(found.as_data()))
    assert "events" not in data
    assert len(data["kernels"]) == 2


def test_sizes_that_the_run_finds_out_count() -> None:
    def twice(x: Value) -> Value:
        padded, count = ops.nonzero(x)
        return ops.bind_size(padded, count, axis=1, symbol="found") * 2

    compiled = compile_native(octavo.trace(twice, octavo.spec("f32", (9,))))

    def moved(x: np.ndarray) -> int:
        return profile(compiled, {"x": x}, seconds=0.01, rounds=1).kernels[-1].nbytes

    assert moved(np.eye(9, dtype=np.float32)[0]) == 2 * 8
    assert moved(np.ones(9, np.float32)) == 2 * 8 * 9


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(octavo.ModelError, match="a profile of model 'two' needs inputs x, not y"):
        profiled({"y": np.ones((1, 8), np.float32)})


def test_pinning_ends_with_its_block() -> None:
    before = os.sched_getaffinity(0), os.sched_getscheduler(0)
    with pinned(1, realtime=True) as how:
        assert len(os.sched_getaffinity(0)) == 1
        assert "priority" in how
    assert (os.sched_getaffinity(0), os.sched_getscheduler(0)) == before
