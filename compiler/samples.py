"""Input arrays made up for a model, where nobody gave any.

Floats are uniform in [-1, 1); integers are 0 or 1, which every embedding table has and every mask means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from ..ir.dims import parse_dim, substitute, symbols_of
from ..ir.errors import ShapeError
from ..ir.types import DType, dtype_of

FIRST_AXIS, OTHER_AXES = 1, 64  # a batch of one; 64 survives the strides of most networks


class Spec(Protocol):
    """What is known of an input: a name, a dtype name and a shape with symbolic dims as text."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int | str, ...]: ...


def random_feeds(inputs: Sequence[Spec], sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """An array for each input; symbols take their `sizes`, else 1 on a first axis and 64 elsewhere.

    Raises ShapeError for a size whose symbol no input has.
    """
    chosen = dict(sizes or {})
    shapes = [tuple(parse_dim(str(d)) for d in spec.shape) for spec in inputs]
    known: dict[str, int] = {}
    for shape in shapes:
        for axis, dim in enumerate(shape):
            for symbol in sorted(symbols_of(dim)):
                known.setdefault(symbol, chosen.get(symbol, OTHER_AXES if axis else FIRST_AXIS))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ShapeError(f"no input has a dimension named {unknown[0]!r}; there are: {', '.join(known) or 'none'}")
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec, shape in zip(inputs, shapes, strict=True):
        concrete = [substitute(d, known) for d in shape]
        feeds[spec.name] = random_array(rng, dtype_of(spec.dtype), tuple(d for d in concrete if isinstance(d, int)))
    return feeds


def random_array(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Values that any model can digest, of this dtype and shape."""
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype.np)
    if dtype.kind == "c":
        return (rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)).astype(dtype.np)
    if dtype.kind == "s":
        return np.full(shape, "a", dtype=object)
    return rng.integers(0, 2, shape).astype(dtype.np)
