"""`octavo.op`: what it takes to add an op of one's own, which then passes through everything as Octavo's own ops do.

Each decorator registers one definition under the function's name; `octavo.ops.NAME(*values, **attrs)` builds nodes of it.  What the
function is differs by kind (`ir/ops/registry.py` says it exactly):

* `pointwise`: scalars to a scalar, over a namespace `s` (its functions: `ir/scalar.py`); operands broadcast.
* `index`: which operand element the result has at index `i`.
* `reduction`: a `Reduction`, the monoid that is folded over axes; called, not a decorator.
* `composite`: an expansion over other ops, written with `octavo.ops`.
* `opaque`: a NumPy reference, with loops of its own written with `each`, `nest`, `scratch`, `fill`, `copy`, `If`, `Let` and `While`.

`index` and `opaque` also give the types of their results, `infer(types, **attrs)`, and raise `octavo.ShapeError` for operands that do
not fit.

>>> @octavo.op.pointwise()
... def squared_relu(s, x):
...     return s.max(x, 0) * s.max(x, 0)
>>> octavo.ops.squared_relu(x)
"""

from ..loops import If, Let, Names, Tensor, While
from ..types import DType, TensorType, dtype_of
from .looping import add_to, copy, each, fill, nest, scratch
from .registry import Quant, Reduction, Sample, Types, broadcast_shape, composite, index, opaque, pointwise, reduction, same_dtype

__all__ = [
    "DType",
    "If",
    "Let",
    "Names",
    "Quant",
    "Reduction",
    "Sample",
    "Tensor",
    "TensorType",
    "Types",
    "While",
    "add_to",
    "broadcast_shape",
    "composite",
    "copy",
    "dtype_of",
    "each",
    "fill",
    "index",
    "nest",
    "opaque",
    "pointwise",
    "reduction",
    "same_dtype",
    "scratch",
]
