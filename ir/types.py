"""What a value is: element types and tensor types.

A `TensorType` is plain: a dtype and a shape whose dims are ints or symbolic expressions (`ir/dims.py`).
Scales and zero points are never part of a type.

>>> TensorType(f32, (symbol("batch"), 784))
f32[batch,784]
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from .dims import Dim, DimExpr, dim_product, parse_dim
from .errors import ModelError


@dataclass(frozen=True)
class DType:
    """An element type: `name`, `kind` ('f' float, 'i' signed, 'u' unsigned, 'b' bool, 'c' complex, 's' string), `bits`."""

    name: str
    kind: str
    bits: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory; sub-byte types are stored one to a byte."""
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_int(self) -> bool:
        return self.kind in "iu"

    @property
    def np(self) -> np.dtype:
        """The NumPy dtype that holds it (bf16, fp8 and 4-bit types come from ml_dtypes)."""
        return _numpy_dtype(self.name)

    @property
    def min(self) -> int:
        """The least value of an integer type."""
        return -(1 << (self.bits - 1)) if self.kind == "i" else 0

    @property
    def max(self) -> int:
        """The greatest value of an integer or bool type."""
        return (1 << (self.bits - 1)) - 1 if self.kind == "i" else (1 << self.bits) - 1 if self.kind == "u" else 1

    def __repr__(self) -> str:
        return self.name


f64, f32, f16 = DType("f64", "f", 64), DType("f32", "f", 32), DType("f16", "f", 16)
bf16, f8e4m3, f8e5m2 = DType("bf16", "f", 16), DType("f8e4m3", "f", 8), DType("f8e5m2", "f", 8)
i64, i32, i16, i8, i4 = (DType(f"i{b}", "i", b) for b in (64, 32, 16, 8, 4))
u64, u32, u16, u8, u4 = (DType(f"u{b}", "u", b) for b in (64, 32, 16, 8, 4))
bool_ = DType("bool", "b", 8)
c64, c128 = DType("c64", "c", 64), DType("c128", "c", 128)
string = DType("string", "s", 64)

DTYPES: dict[str, DType] = {
    d.name: d for d in (f64, f32, f16, bf16, f8e4m3, f8e5m2, i64, i32, i16, i8, i4, u64, u32, u16, u8, u4, bool_, c64, c128, string)
}

_NUMPY_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "bool", "c64": "complex64",
    "c128": "complex128", "string": "object",
}  # fmt: skip
_ML_DTYPES = {"bf16": "bfloat16", "f8e4m3": "float8_e4m3fn", "f8e5m2": "float8_e5m2", "i4": "int4", "u4": "uint4"}


@functools.cache
def _numpy_dtype(name: str) -> np.dtype:
    if name in _NUMPY_NAMES:
        return np.dtype(_NUMPY_NAMES[name])
    import ml_dtypes  # optional: an artifact of common dtypes loads with NumPy alone

    return np.dtype(getattr(ml_dtypes, _ML_DTYPES[name]))


@functools.cache
def dtype_of(dtype: object) -> DType:
    """The `DType` of a name ("f32"), a `DType` or anything that `numpy.dtype` takes.

    Raises ModelError if there is none.
    """
    if isinstance(dtype, DType):
        return dtype
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    try:
        name = np.dtype(dtype).name  # type: ignore[call-overload]
    except TypeError:
        name = str(dtype)
    for table in (_NUMPY_NAMES, _ML_DTYPES):
        for ours, theirs in table.items():
            if theirs == name:
                return DTYPES[ours]
    if name.startswith("str"):
        return string
    raise ModelError(f"there is no dtype {dtype!r}; known: {', '.join(DTYPES)}")


@dataclass(frozen=True)
class TensorType:
    """dtype and shape of a value; dims are ints >= 0 or `DimExpr`."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return dim_product(self.shape)

    @property
    def nbytes(self) -> Dim:
        return self.size * self.dtype.itemsize

    @property
    def is_static(self) -> bool:
        return not any(isinstance(d, DimExpr) for d in self.shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, shape)

    def __repr__(self) -> str:
        return f"{self.dtype.name}[{','.join(str(d) for d in self.shape)}]"


def parse_type(text: str) -> TensorType:
    """`"f32[batch,784]"` -> TensorType.  Raises ModelError on anything else."""
    name, bracket, rest = text.strip().partition("[")
    if name not in DTYPES or not bracket or not rest.endswith("]"):
        raise ModelError(f"{text!r} is not a tensor type; write for example f32[batch,784]")
    return TensorType(DTYPES[name], tuple(parse_dim(d) for d in split_dims(rest[:-1])))


def split_dims(text: str) -> list[str]:
    """Split at commas that stand outside parentheses: `"a,max(b,c)"` -> `["a", "max(b,c)"]`."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:])
    return [p for p in (part.strip() for part in parts) if p]
