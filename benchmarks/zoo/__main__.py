"""`python -m octavo.benchmarks.zoo`: list the zoo, compare it with onnxruntime (`--verify`), write ONNX files (`--export`)."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

from ...compiler.compare import TOLERANCE, relative_error
from ...compiler.driver import compile
from ...frontend.onnx import export_model
from ...ir.errors import OctavoError
from ...ir.parse import parse
from ...ir.text import canonical_text, large_constants, to_text
from . import MODELS, build, feeds

BATCHES = (1, 3)  # two sizes from one compilation; a matmul without a batch ignores them


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m octavo.benchmarks.zoo", description=__doc__)
    parser.add_argument("names", nargs="*", help="models (default: all)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--verify", action="store_true", help="compile each model's ONNX export and compare with onnxruntime")
    action.add_argument("--export", type=Path, metavar="DIR", help="write each model as DIR/NAME.onnx")
    parser.add_argument("--small", action="store_true", help="the reduced models that tests use")
    options = parser.parse_args()
    try:
        wrong = 0
        for name in options.names or MODELS:
            if options.verify:
                wrong += not _verify(name, options.small)
            elif options.export:
                options.export.mkdir(parents=True, exist_ok=True)
                path = options.export / f"{name}.onnx"
                path.write_bytes(export_model(build(name, small=options.small)).SerializeToString())
                print(path)
            else:
                print(f"{name:14} {MODELS[name].summary}" if name in MODELS else build(name))
    except OctavoError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 1 if wrong else 0


def _verify(name: str, small: bool) -> bool:
    """Print one line for the model; True where text, export, compilation and results are right."""
    start = time.perf_counter()
    try:
        error = largest_error(name, small=small)
        verdict = "ok" if error <= TOLERANCE else f"WRONG, more than {TOLERANCE:g}"
        detail = f"error {error:.1e} of the largest value, batches {' and '.join(map(str, BATCHES))}"
    except OctavoError as e:
        verdict, detail = "FAILED", f"{type(e).__name__}: {e}"
    print(f"{name:14} {verdict:6} {time.perf_counter() - start:6.1f} s  {detail}", flush=True)
    return verdict == "ok"


def largest_error(name: str, *, small: bool = False) -> float:
    """The largest error over the largest value of any output, Octavo against onnxruntime on the model's ONNX export.

    Raises OctavoError where the graph does not come back from its text, or cannot be exported or compiled.
    """
    graph = build(name, small=small)
    if canonical_text(parse(to_text(graph), large_constants(graph))) != canonical_text(graph):
        raise OctavoError(f"{name}: the text form gives back another graph")
    data = export_model(graph).SerializeToString()
    del graph
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    model = compile(data)
    worst = 0.0
    for batch in BATCHES:
        inputs = feeds(name, batch, small=small)
        expected, actual = session.run(None, inputs), model.run(None, inputs)
        worst = max(worst, *(relative_error(a, np.asarray(e)) for a, e in zip(actual, expected, strict=True)))
    return worst


if __name__ == "__main__":
    sys.exit(main())
