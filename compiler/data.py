"""Samples of data from files, or from Python code, for commands that run a model on many.

* a folder: a sample in each .npz file (arrays by the names of inputs) or, for a model of one input, each .npy file, in order of name;
* an .npz file: arrays by the names of inputs, each with a first axis more than the input has, along which the samples lie;
* module:name: an iterable of samples {input name: array} that a Python module holds, or a function without arguments that gives one.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..ir.errors import OctavoError, QuantError, ShapeError
from .model import Model

Sample = dict[str, np.ndarray]
UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)  # what NumPy raises for a damaged file, or one of objects


@dataclass(frozen=True)
class Samples:
    """Samples that are read one at a time; their number is known unless `total` is 0."""

    total: int
    read: Callable[[], Iterable[Sample]]

    def __len__(self) -> int:
        return self.total

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.read())


def read_samples(source: str, inputs: Sequence[str], limit: int | None = None) -> Samples:
    """The samples of a folder, an .npz file or module:name (see above), at most the first `limit`.

    inputs: the names of the model's inputs.  Raises QuantError for a source that is none of these, and while reading for a file that
    holds no arrays or a reader that fails.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))[:limit]
        if not files:
            raise QuantError(
                f"the folder {source} has no .npz and no .npy files; put a sample into each: np.savez(file, name=array, ...)"
            )
        return Samples(len(files), lambda: (_sample(file, inputs) for file in files))
    if path.suffix == ".npz":
        arrays = _arrays(path)
        counts = {a.shape[:1] for a in arrays.values()}
        if len(counts) != 1 or () in counts:
            found = ", ".join(f"{name} {a.shape}" for name, a in arrays.items()) or "no arrays"
            raise QuantError(f"{source} must hold arrays with one number of samples along a first axis of their own; it holds {found}")
        ((count,),) = counts
        count = count if limit is None else min(limit, count)
        return Samples(count, lambda: ({name: a[k] for name, a in arrays.items()} for k in range(count)))
    try:
        module, name = _module_and_name(source)
    except QuantError:
        raise QuantError(f"{source!r} is no folder, no .npz file and no module:reader") from None
    return Samples(0, lambda: itertools.islice(_from_module(source, module, name), limit))


def each_sample(data: Any) -> Iterable[Any]:
    """The samples that a caller gave.  Raises QuantError for what is no iterable of them."""
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise QuantError(
            f"data must be an iterable of samples {{input name: array}}, not a {type(data).__name__}; for one sample give [it]"
        )
    return data


def run_sample(model: Model, sample: Any, number: int) -> list[np.ndarray]:
    """A model's outputs for the `number`-th sample.  Raises QuantError where it is none, is not finite, or the model refuses it."""
    if not isinstance(sample, Mapping):
        raise QuantError(f"sample {number} is a {type(sample).__name__}, not {{input name: array}}")
    for name, array in sample.items():
        values = np.asarray(array)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0].tolist()
            raise QuantError(f"sample {number}: input {name!r} holds {values[tuple(place)]} at {place}; give finite numbers")
    try:
        return model.run(None, sample)
    except ShapeError as e:
        raise QuantError(f"sample {number}: {e}") from None


def read_function(source: str) -> Callable[..., Any]:
    """The function of a Python module that module:name means.  Raises QuantError where there is none."""
    module, name = _module_and_name(source)
    try:
        found = _imported(module, name)
    except Exception as e:
        raise QuantError(f"{source} cannot be imported: {type(e).__name__}: {e}") from e
    if not callable(found):
        raise QuantError(f"{source} is a {type(found).__name__}, not a function")
    return found


def _module_and_name(source: str) -> tuple[str, str]:
    module, colon, name = source.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), name)):
        raise QuantError(f"{source!r} is not module:name, such as my_dataset:batches")
    return module, name


def _imported(module: str, name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, as `python -m` has it
    return getattr(importlib.import_module(module), name)


def _sample(file: Path, inputs: Sequence[str]) -> Sample:
    if file.suffix == ".npz":
        return _arrays(file)
    if len(inputs) != 1:
        raise QuantError(f"{file} holds one array, but the model has the inputs {', '.join(inputs)}; use .npz files of named arrays")
    return {inputs[0]: _load(file)}


def _arrays(file: Path) -> Sample:
    loaded = _load(file)
    if isinstance(loaded, np.ndarray):
        raise QuantError(f"{file} holds one array without a name; write it by np.savez(file, name=array)")
    with loaded:
        try:
            return {name: loaded[name] for name in loaded.files}
        except UNREADABLE as e:
            raise QuantError(f"{file} cannot be read as a NumPy file: {e}") from None


def _load(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except UNREADABLE as e:
        raise QuantError(f"{file} cannot be read as a NumPy file: {e}") from None


def _from_module(source: str, module: str, name: str) -> Iterator[Sample]:
    """What a module's iterable or function gives; whatever goes wrong in it is the reader's, and said to be."""
    try:
        reader = _imported(module, name)
        yield from cast(Iterable[Sample], reader() if callable(reader) else reader)
    except OctavoError:
        raise
    except Exception as e:
        raise QuantError(f"the reader {source} failed: {type(e).__name__}: {e}") from e
