"""One runtime in a process of its own, driven line by line by `bench`: load a model, run it for a while, give the times.

The process is pinned to as many cores as it has threads, at real-time priority if asked and permitted.  It reads commands and
writes answers as JSON lines; whatever a library prints goes to stderr.  Loading means from the file to a callable, without the import
of the runtime itself; torch.compile compiles at the first run.  Peers compute in float32 and run at their fastest setting.

    {"do": "load"}                 -> {"version": "1.32.0", "load_ms": 12.1, "first_ms": 3.0, "scheduling": "normal priority, core 0"}
    {"do": "run", "seconds": 0.5}  -> {"ms": [2.1, 2.0, ...]}
    {"do": "end"}                  -> {"peak_rss_mb": 120.5}
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .artifact import load
from .machine import pinned

Feeds = Mapping[str, np.ndarray]
Run = Callable[[Feeds], object]
Opener = Callable[[str], Run]
LEAST_RUNS = 3
SAID = 3  # lines of a peer's error that are told: tracebacks follow


def _octavo(threads: int) -> tuple[str, Opener]:
    def open_model(path: str) -> Run:
        model = load(path)  # the parent set OCTAVO_THREADS
        return lambda feeds: model.run(None, feeds)

    return __version__, open_model


def _onnxruntime(threads: int) -> tuple[str, Opener]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3

    def open_model(path: str) -> Run:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return lambda feeds: session.run(None, feeds)

    return onnxruntime.__version__, open_model


def _openvino(threads: int) -> tuple[str, Opener]:
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0  # else activations are quantized where weights are i8, whatever the hint says

    def open_model(path: str) -> Run:
        request = core.compile_model(path, "CPU", config).create_infer_request()
        return lambda feeds: request.infer(dict(feeds))

    return openvino.__version__.split("-")[0], open_model


def _iree(threads: int) -> tuple[str, Opener]:
    from iree import compiler, runtime  # pyright: ignore[reportMissingImports]
    from iree.compiler.version import VERSION  # pyright: ignore[reportMissingImports]

    driver = "local-sync" if threads == 1 else "local-task"

    def open_model(path: str) -> Run:
        with tempfile.TemporaryDirectory(prefix="octavo-iree-") as folder:
            text = str(Path(folder) / "model.mlir")
            subprocess.run([sys.executable, "-m", "iree.compiler.tools.import_onnx", path, "-o", text], check=True)
            options = ["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"]
            code: Any = compiler.compile_file(text, input_type="onnx", target_backends=["llvm-cpu"], extra_args=options)
        module = runtime.load_vm_flatbuffer(code, driver=driver)
        (name,) = (n for n in module.vm_module.function_names if "$" not in n and not n.startswith("__"))
        return lambda feeds: [np.asarray(y) for y in _as_tuple(module[name](*feeds.values()))]

    return VERSION, open_model


def _torch(threads: int) -> tuple[str, Opener]:
    import torch  # pyright: ignore[reportMissingImports]

    from .onnx_torch import open_compiled

    torch.set_num_threads(threads)
    return torch.__version__.split("+")[0], open_compiled


RUNTIMES: dict[str, Callable[[int], tuple[str, Opener]]] = {
    "octavo": _octavo,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
    "iree": _iree,
}


def _as_tuple(results: Any) -> tuple[Any, ...]:
    return tuple(results) if isinstance(results, tuple | list) else (results,)


def _serve(runtime: str, model: str, feeds_file: str, threads: int, scheduling: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")

    with np.load(feeds_file, allow_pickle=False) as loaded:
        feeds = {name: loaded[name] for name in loaded.files}
    run: Run | None = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if command["do"] == "load":
                version, open_model = RUNTIMES[runtime](threads)
                start = time.perf_counter()
                run = open_model(model)
                loaded_at = time.perf_counter()
                run(feeds)
                first_ms = (time.perf_counter() - loaded_at) * 1e3
                answer(version=version, load_ms=(loaded_at - start) * 1e3, first_ms=first_ms, scheduling=scheduling)
            elif command["do"] == "run":
                assert run is not None, "load comes before run"
                answer(ms=_time(run, feeds, command["seconds"]))
            else:
                answer(peak_rss_mb=_peak_rss_mb())
                return
        except Exception as e:  # whatever a peer raises is its answer
            answer(error=said(e))


def said(e: Exception) -> str:
    """What a peer raised, in one line."""
    return f"{type(e).__name__}: {' '.join(line.strip() for line in str(e).splitlines()[:SAID])}"


def _peak_rss_mb() -> float:
    """The most memory this process had resident; `ru_maxrss` alone would count the process that started it."""
    try:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) / 1024
    except (OSError, KeyError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _time(run: Run, feeds: Feeds, seconds: float) -> list[float]:
    """Milliseconds of each call, for this long and at least `LEAST_RUNS` times."""
    times: list[float] = []
    clock = time.perf_counter
    end = clock() + seconds
    while clock() < end or len(times) < LEAST_RUNS:
        start = clock()
        run(feeds)
        times.append((clock() - start) * 1e3)
    return times


if __name__ == "__main__":
    with pinned(int(sys.argv[4]), sys.argv[5] == "realtime") as how:
        _serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), how)
