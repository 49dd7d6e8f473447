"""Input arrays made up for a model, where nobody gave any.

Floats are uniform in [-1, 1); integers are 0 or 1, which every embedding table has and every mask means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..backends.runtime.signature import TensorSpec
from ..ir.dims import substitute, symbols_of
from ..ir.errors import ShapeError
from ..ir.types import DType

FIRST_AXIS, OTHER_AXES = 1, 64  # a batch of one; 64 survives the strides of most networks


def random_feeds(inputs: Sequence[TensorSpec], sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """An array for each input; symbols take their `sizes`, else 1 on a first axis and 64 elsewhere.

    Raises ShapeError for a size whose symbol no input has.
    """
    chosen = dict(sizes or {})
    known: dict[str, int] = {}
    for spec in inputs:
        for axis, dim in enumerate(spec.dims):
            for symbol in sorted(symbols_of(dim)):
                known.setdefault(symbol, chosen.get(symbol, OTHER_AXES if axis else FIRST_AXIS))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise ShapeError(f"no input has a dimension named {unknown[0]!r}; there are: {', '.join(known) or 'none'}")
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        shape = [substitute(d, known) for d in spec.dims]
        feeds[spec.name] = random_array(rng, spec.type, tuple(d for d in shape if isinstance(d, int)))
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
