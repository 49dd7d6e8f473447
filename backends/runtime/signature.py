"""What a compiled model takes and gives: names, dtypes and shapes, in a form that JSON can hold.

A dim is an int or the text of an expression (`"2*seq+1"`, see `ir/dims.py`).  `symbols` are the sizes that the inputs
determine, each standing alone as a dim of some input; `defined` are the sizes that only a run finds out (how many elements
are non-zero).  An output whose shape holds one of those is marked `defined`: the machine code does not fill a buffer of the
caller but reports where in the workspace the result lies.  `requirements` are what else must hold of the sizes.

>>> x = TensorSpec("x", "f32", ("batch", 784))
>>> Signature("mlp", (x,), (TensorSpec("y", "f32", ("batch", 10)),), symbols=("batch",)).inputs
(x: f32[batch,784],)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dims import Dim, parse_dim, symbol, symbols_of
from ...ir.errors import ModelError
from ...ir.types import DTYPES, DType

MAX_TENSORS = 65_536
MAX_RANK = 64


@dataclass(frozen=True)
class TensorSpec:
    """One input or output."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    defined: bool = False

    @property
    def type(self) -> DType:
        return DTYPES[self.dtype]

    @property
    def np(self) -> np.dtype:
        """The NumPy dtype of the arrays."""
        return self.type.np

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape with its texts parsed."""
        return tuple(d if isinstance(d, int) else parse_dim(d) for d in self.shape)

    @property
    def text(self) -> str:
        """`f32[batch,784]`."""
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"

    def __repr__(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(frozen=True)
class Requirement:
    """A condition on the sizes: the dim is 0.  `where` says which node needs it."""

    zero: str
    where: str

    @property
    def dim(self) -> Dim:
        return parse_dim(self.zero)


@dataclass(frozen=True)
class Signature:
    """The interface of a model; made valid or not at all (ModelError)."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[str, ...] = ()
    defined: tuple[str, ...] = ()
    requirements: tuple[Requirement, ...] = ()

    def __post_init__(self) -> None:
        for what, specs in (("input", self.inputs), ("output", self.outputs)):
            for spec in specs:
                _check_spec(what, spec)
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                twice = next(n for n in names if names.count(n) > 1)
                raise ModelError(f"two {what}s of model {self.name!r} are called {twice!r}; names must differ")
        for name in (*self.symbols, *self.defined):
            symbol(name)
        alone = {d for spec in self.inputs for d in spec.shape}
        for name in self.symbols:
            if name not in alone:
                raise ModelError(f"no input of model {self.name!r} has {name!r} alone as a dimension, so its size is unknown; pin it")
        known = set(self.symbols)
        for spec in self.inputs:
            _check_symbols(self.name, spec, known)
        for spec in self.outputs:
            _check_symbols(self.name, spec, known | set(self.defined) if spec.defined else known)
        for requirement in self.requirements:
            unknown = symbols_of(requirement.dim) - known
            if unknown:
                raise ModelError(f"model {self.name!r} has a condition on {', '.join(sorted(unknown))}, which no input gives")

    def to_json(self) -> dict[str, Any]:
        """A dict for `json.dumps`; `from_json` reads it back."""
        return {
            "name": self.name,
            "inputs": [_spec_json(s) for s in self.inputs],
            "outputs": [_spec_json(s) for s in self.outputs],
            "symbols": list(self.symbols),
            "defined": list(self.defined),
            "requirements": [{"zero": r.zero, "where": r.where} for r in self.requirements],
        }

    @staticmethod
    def from_json(data: object) -> Signature:
        """The signature that `to_json` wrote.  The data is not trusted: anything else raises ModelError."""
        fields = _object(data, "signature")
        return Signature(
            _text(fields, "name"),
            tuple(_spec_from_json(s) for s in _list(fields, "inputs")),
            tuple(_spec_from_json(s) for s in _list(fields, "outputs")),
            tuple(_string(s, "symbols") for s in _list(fields, "symbols")),
            tuple(_string(s, "defined") for s in _list(fields, "defined")),
            tuple(_requirement_from_json(r) for r in _list(fields, "requirements")),
        )


def _check_spec(what: str, spec: TensorSpec) -> None:
    if spec.dtype not in DTYPES or spec.type.kind == "s":
        raise ModelError(f"{what} {spec.name!r} has dtype {spec.dtype!r}, which no compiled model takes")
    if len(spec.shape) > MAX_RANK:
        raise ModelError(f"{what} {spec.name!r} has {len(spec.shape)} dimensions; at most {MAX_RANK} can be compiled")
    for dim in spec.shape:
        if isinstance(dim, int) and not 0 <= dim < 1 << 62:
            raise ModelError(f"{what} {spec.name!r} has dimension {dim}; it must be between 0 and 2**62")


def _check_symbols(model: str, spec: TensorSpec, known: set[str]) -> None:
    for dim in spec.dims:
        unknown = symbols_of(dim) - known
        if unknown:
            raise ModelError(f"the shape {spec.text} of {spec.name!r} in model {model!r} needs {', '.join(sorted(unknown))}, unknown")


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    data: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape)}
    return {**data, "defined": True} if spec.defined else data


def _spec_from_json(data: object) -> TensorSpec:
    fields = _object(data, "tensor")
    shape = _list(fields, "shape")
    if not all(isinstance(d, str) or type(d) is int for d in shape):
        raise ModelError(f"the shape {str(shape)[:80]} holds something other than numbers and texts")
    return TensorSpec(_text(fields, "name"), _text(fields, "dtype"), tuple(shape), fields.get("defined") is True)


def _requirement_from_json(data: object) -> Requirement:
    fields = _object(data, "requirement")
    return Requirement(_text(fields, "zero"), _text(fields, "where"))


def _object(data: object, what: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ModelError(f"the {what} is {type(data).__name__}, not an object")
    return data


def _list(fields: Mapping[str, Any], key: str) -> list[Any]:
    value = fields.get(key)
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise ModelError(f"{key!r} is missing, too long or not a list")
    return value


def _text(fields: Mapping[str, Any], key: str) -> str:
    return _string(fields.get(key), key)


def _string(value: object, key: str) -> str:
    if not isinstance(value, str):
        raise ModelError(f"{key!r} is missing or not a text")
    return value
