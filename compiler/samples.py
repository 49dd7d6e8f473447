"""Input arrays made up for a model, where nobody gave any.

Floats are uniform in [-1, 1); integers are 0 or 1, which every embedding table has and every mask means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..backends.runtime.signature import TensorSpec
from ..ir.dims import Dim, evaluate_dim, symbols_of
from ..ir.errors import ShapeError
from ..ir.types import DType

FIRST_AXIS, OTHER_AXES = 1, 64  # a batch of one; 64 survives the strides of most networks


def choose_sizes(shapes: Iterable[tuple[Dim, ...]], sizes: Mapping[str, int] | None = None) -> dict[str, int]:
    """A size for every symbol of these input shapes: the one given, else 1 where it first stands on a first axis, 64 elsewhere.

    Raises ShapeError for a size whose symbol no shape has.
    """
    given = dict(sizes or {})
    chosen: dict[str, int] = {}
    for shape in shapes:
        for axis, dim in enumerate(shape):
            for symbol in sorted(symbols_of(dim)):
                chosen.setdefault(symbol, given.get(symbol, OTHER_AXES if axis else FIRST_AXIS))
    unknown = sorted(set(given) - set(chosen))
    if unknown:
        raise ShapeError(f"no input has a dimension named {unknown[0]!r}; there are: {', '.join(chosen) or 'none'}")
    return chosen


def random_feeds(inputs: Sequence[TensorSpec], sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """An array for each input, of the sizes that `choose_sizes` gives.  Raises ShapeError as that does."""
    chosen = choose_sizes((spec.dims for spec in inputs), sizes)
    rng = np.random.default_rng(seed)
    return {spec.name: random_array(rng, spec.type, tuple(evaluate_dim(d, chosen) for d in spec.dims)) for spec in inputs}


def random_array(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Values that any model can digest, of this dtype and shape."""
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype.np)
    if dtype.kind == "c":
        return (rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape)).astype(dtype.np)
    if dtype.kind == "s":
        return np.full(shape, "a", dtype=object)
    return rng.integers(0, 2, shape).astype(dtype.np)
