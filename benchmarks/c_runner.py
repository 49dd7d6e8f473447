"""A saved model run by a C program: `c_runner.c`, built against the artifact's own model.h, in a process without Python.

It needs a C compiler (`cc`), which nothing else in Octavo does.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..backends.runtime.abi import DTYPE_CODES
from ..backends.runtime.signature import TensorSpec
from ..compiler.artifact import load
from ..ir.dims import substitute, symbols_of
from ..ir.errors import OctavoError

SOURCE = Path(__file__).with_name("c_runner.c")
FLAGS = ("-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function")


class CRunner:
    """Callable like `Model.run(None, feeds)`.  Raises OctavoError without a C compiler, and when the program fails."""

    def __init__(
        self,
        artifact: Path,
        folder: Path,
        compiler: str = "cc",
        launcher: Sequence[str] = (),
        interface: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]] | None = None,
    ):
        """`folder` takes the program and what is passed to it.

        For another processor: a cross `compiler`, a `launcher` (an emulator and its options), and the inputs and outputs of the
        model, whose artifact cannot be loaded here.
        """
        found = shutil.which(compiler)
        if found is None:
            raise OctavoError(f"there is no C compiler `{compiler}` to build the C program with")
        self.artifact = artifact
        self.folder = folder
        self.command = [*launcher, str(folder / "c_runner")]
        if interface is None:
            model = load(artifact)
            interface = model.inputs, model.outputs
        self.inputs, self.outputs = interface
        _run([found, *FLAGS, f"-I{artifact}", str(SOURCE), "-o", self.command[-1], "-ldl"])

    def __call__(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self._start(feeds)
        return self._read((self.folder / "response").read_bytes())

    def seconds(self, feeds: Mapping[str, np.ndarray], calls: int) -> float:
        """The time of one call, of so many one after another."""
        return float(self._start(feeds, str(calls))) / 1e9

    def _start(self, feeds: Mapping[str, np.ndarray], *options: str) -> str:
        """Run the program; what it prints."""
        arrays = [np.asarray(feeds[spec.name], order="C") for spec in self.inputs]
        sizes: dict[str, int] = {}
        for spec, array in zip(self.inputs, arrays, strict=True):
            for dim, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(dim, str):
                    sizes.setdefault(dim, size)
        request, response = self.folder / "request", self.folder / "response"
        with request.open("wb") as file:
            file.write(struct.pack("=ii", len(self.inputs), len(self.outputs)))
            for spec, array in zip(self.inputs, arrays, strict=True):
                file.write(_head(spec.dtype, array.shape, array.nbytes) + array.tobytes())
            for spec in self.outputs:
                shape = [int(str(substitute(d, sizes))) if not symbols_of(d) - set(sizes) else 0 for d in spec.dims]
                nbytes = 0 if spec.defined else int(np.prod(shape, dtype=np.int64)) * spec.type.itemsize
                file.write(_head(spec.dtype, shape, nbytes))
        files = (self.artifact / "model.so", self.artifact / "weights.bin", request, response)
        return _run([*self.command, *map(str, files), *options])

    def _read(self, data: bytes) -> list[np.ndarray]:
        results, at = [], 0
        for spec in self.outputs:
            _, rank = struct.unpack_from("=ii", data, at)
            *shape, nbytes = struct.unpack_from(f"={rank + 1}q", data, at + 8)
            at += 16 + 8 * rank
            results.append(np.frombuffer(data, spec.np, nbytes // spec.type.itemsize, at).reshape(shape))
            at += nbytes
        return results


def _head(dtype: str, shape: tuple[int, ...] | list[int], nbytes: int) -> bytes:
    return struct.pack(f"=ii{len(shape)}qq", DTYPE_CODES[dtype], len(shape), *shape, nbytes)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OctavoError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout
