"""The compiled model as users hold it: call it with arrays, ask what it takes, save it, send it to another process.

>>> model = octavo.load("mnist.octavo")
>>> y = model(x)                                  # or model(x=x), or model.run(None, {"x": x})
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.runtime.executable import Executable
from ..backends.runtime.signature import TensorSpec
from ..ir.errors import ModelError, ShapeError


@dataclass(frozen=True)
class Saved:
    """An artifact on disk: `load(path, digest)` makes the model again and refuses files that are no longer the same."""

    path: Path
    digest: str
    load: Callable[[str, str], Model]


class Model:
    """A model ready to run, from `octavo.compile` or `octavo.load`.  Calls may come from any number of threads."""

    def __init__(self, executable: Executable, saver: Callable[[Path], Saved], saved: Saved | None = None):
        """`saver` writes the artifact to a path; `saved` is where it already lies, if it does."""
        self._executable = executable
        self._saver = saver
        self._saved = saved
        self._positions = {spec.name: k for k, spec in enumerate(executable.signature.inputs)}
        self._output_positions = {spec.name: k for k, spec in enumerate(executable.signature.outputs)}

    @property
    def name(self) -> str:
        return self._executable.signature.name

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each input; sizes that a call decides are symbols such as `"batch"`."""
        return self._executable.signature.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, dtype and shape of each output."""
        return self._executable.signature.outputs

    @property
    def threads(self) -> int:
        """How many threads a call may use, the calling one included."""
        return self._executable.threads

    @property
    def executable(self) -> Executable:
        """The machine code below this model."""
        return self._executable

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """The output for these inputs, given in order or by name; a tuple where the model has several outputs."""
        results = self._executable.run(self._ordered(arrays, named) if named else arrays)
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[np.ndarray]:
        """The named outputs, or all of them, for inputs given by name: the call that users of onnxruntime know."""
        results = self._executable.run(self._ordered((), feeds))
        if output_names is None:
            return results
        for name in output_names:
            if name not in self._output_positions:
                raise ModelError(f"model {self.name!r} has no output {name!r}; it has {', '.join(self._output_positions)}")
        return [results[self._output_positions[name]] for name in output_names]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an artifact, a folder by convention called *.octavo, that `octavo.load` and C programs run."""
        self._saved = self._saver(Path(path))

    def workspace_bytes(self, *shapes: tuple[int, ...]) -> int:
        """The scratch memory of one call with inputs of these shapes."""
        return self._executable.workspace_bytes(shapes)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as path and digest: the receiver maps the same files.  A model never saved goes to a temporary folder."""
        saved = self._saved
        if saved is None:
            saved = self._saved = self._saver(Path(tempfile.mkdtemp(prefix="octavo-")) / f"{os.getpid()}.octavo")
        return saved.load, (str(saved.path), saved.digest)

    def __repr__(self) -> str:
        given = ", ".join(map(repr, self.inputs))
        results = ", ".join(map(repr, self.outputs))
        return f"Model({self.name}({given}) -> ({results}), threads={self.threads})"

    def _ordered(self, arrays: tuple[Any, ...], named: Mapping[str, Any]) -> list[Any]:
        """Inputs in the signature's order.  Raises ShapeError naming what is missing, unknown or given twice."""
        inputs = self.inputs
        if len(arrays) > len(inputs):
            raise ShapeError(f"model {self.name!r} takes {len(inputs)} inputs and was given {len(arrays)} in order")
        given: dict[int, Any] = dict(enumerate(arrays))
        for name, value in named.items():
            position = self._positions.get(name)
            if position is None:
                known = ", ".join(repr(spec.name) for spec in inputs) or "none"
                raise ShapeError(f"model {self.name!r} has no input {name!r}; it has {known}")
            if position in given:
                raise ShapeError(f"input {name!r} of model {self.name!r} is given twice, in order and by name")
            given[position] = value
        missing = [repr(spec) for k, spec in enumerate(inputs) if k not in given]
        if missing:
            raise ShapeError(f"model {self.name!r} was called without {', '.join(missing)}")
        return [given[k] for k in range(len(inputs))]
