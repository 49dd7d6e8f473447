"""The onnx package's backend test suite, run in this process over any backend module."""

from __future__ import annotations

import re
import tomllib
import unittest
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from octavo.frontend.onnx import import_model, shape_inputs
from octavo.ir.errors import UnsupportedOp
from octavo.ir.evaluate import evaluate

EXPECTED = tomllib.loads((Path(__file__).parent / "declined.toml").read_text())


class Reference:
    """A backend by the reference evaluator."""

    def __init__(self, model: onnx.ModelProto):
        self.model = model
        held = {t.name for t in model.graph.initializer}
        self.names = [i.name for i in model.graph.input if i.name not in held]

    def run(self, inputs: Any, **options: Any) -> tuple[np.ndarray, ...]:
        feeds = dict(zip(self.names, inputs, strict=True))
        constants: dict[str, np.ndarray] = {}
        while wanted := shape_inputs(self.model, constants) - set(constants):
            constants.update({name: np.asarray(feeds[name]) for name in wanted})
        graph = import_model(self.model, constants=constants)
        return tuple(evaluate(graph, {name: np.asarray(feeds[name]) for name in graph.input_names}))


def run_suite(prepare: Callable[[onnx.ModelProto], Any]) -> dict[str, str]:
    """Test name -> "passed", "declined: reason" or "failed: reason", for every CPU test."""

    class Backend:
        @staticmethod
        def prepare(model: onnx.ModelProto, device: str = "CPU", **options: Any) -> Any:
            return prepare(model)

        @staticmethod
        def supports_device(device: str) -> bool:
            return device == "CPU"

    results: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = onnx.backend.test.BackendTest(Backend, "suite")._test_items  # type: ignore[arg-type]
        for tests in items.values():
            for name, item in tests.items():
                if name.endswith("_cpu"):
                    results[name.removeprefix("test_").removesuffix("_cpu")] = outcome(item.func)
    return results


def outcome(test: Callable[[Any], None]) -> str:
    try:
        test(None)
    except (UnsupportedOp, unittest.SkipTest) as e:
        return f"declined: {' '.join(str(e).split())[:200]}"
    except Exception as e:
        return f"failed: {type(e).__name__}: {' '.join(str(e).split())[:200]}"
    return "passed"


def surprises(results: dict[str, str]) -> list[str]:
    """What declined.toml does not say: tests that decline or fail unlisted, and listed ones that pass."""
    found = []
    for name, result in results.items():
        listed = {kind: any(re.fullmatch(p, name) for p in EXPECTED[kind]) for kind in ("declined", "differing")}
        kind = {"declined": "declined", "failed": "differing"}.get(result.partition(":")[0])
        if (kind and not listed[kind]) or (not kind and any(listed.values())):
            found.append(f"{name}: {result}")
    return found
