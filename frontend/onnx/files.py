"""Reading ONNX files and their tensors, none of which is trusted.

External data stays inside the model's folder: a plain relative path without `..`, each component opened without following a
symbolic link, a regular file with one name only (no hard link).  Every size is checked against the bytes that are there, with
Python's exact integers, before anything is allocated.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto

from ...ir.errors import ModelError, UnsupportedOp
from ...ir.types import DTYPES, DType

ELEMENT_TYPES: dict[int, DType] = {
    TensorProto.DOUBLE: DTYPES["f64"], TensorProto.FLOAT: DTYPES["f32"], TensorProto.FLOAT16: DTYPES["f16"],
    TensorProto.BFLOAT16: DTYPES["bf16"], TensorProto.FLOAT8E4M3FN: DTYPES["f8e4m3"], TensorProto.FLOAT8E5M2: DTYPES["f8e5m2"],
    TensorProto.INT64: DTYPES["i64"], TensorProto.INT32: DTYPES["i32"], TensorProto.INT16: DTYPES["i16"],
    TensorProto.INT8: DTYPES["i8"], TensorProto.INT4: DTYPES["i4"], TensorProto.UINT64: DTYPES["u64"],
    TensorProto.UINT32: DTYPES["u32"], TensorProto.UINT16: DTYPES["u16"], TensorProto.UINT8: DTYPES["u8"],
    TensorProto.UINT4: DTYPES["u4"], TensorProto.BOOL: DTYPES["bool"], TensorProto.COMPLEX64: DTYPES["c64"],
    TensorProto.COMPLEX128: DTYPES["c128"],
}  # fmt: skip
ONNX_TYPES = {dtype: number for number, dtype in ELEMENT_TYPES.items()}

MAX_DENSE_BYTES = 1 << 30  # a sparse tensor is made dense only up to here


def element_type(number: int, where: str) -> DType:
    """The dtype of an ONNX element type.  Raises UnsupportedOp for those that Octavo lacks, ModelError for unknown numbers."""
    if number in ELEMENT_TYPES:
        return ELEMENT_TYPES[number]
    try:
        name = TensorProto.DataType.Name(number)  # type: ignore[arg-type]
    except ValueError:
        raise ModelError(f"{where}: element type {number} does not exist") from None
    if name == "UNDEFINED":
        raise ModelError(f"{where}: the element type is missing")
    raise UnsupportedOp(f"{where}: element type {name} is not supported")


def read_model(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    """The model and the folder that its external data must lie in (None for a model without a file).  Raises ModelError."""
    if isinstance(model, onnx.ModelProto):
        return model, None
    folder: Path | None = None
    if isinstance(model, bytes):
        data, where = model, "the model"
    else:
        path = Path(model)
        where, folder = str(path), path.parent
        try:
            data = path.read_bytes()
        except OSError as e:
            raise ModelError(f"cannot read {where}: {e.strerror or e}") from None
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, ValueError, RuntimeError) as e:
        raise ModelError(f"{where} is not an ONNX model, or is truncated: {e}") from None
    if not proto.HasField("graph"):
        raise ModelError(f"{where} is not an ONNX model: it holds no graph")
    _check_text(proto, where)
    return proto, folder


def _check_text(proto: Message, where: str) -> None:
    """Raises ModelError where a name is not UTF-8: protobuf hands such strings out as bytes."""
    for message in _messages(proto):
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and any(
                isinstance(s, bytes) for s in ((value,) if isinstance(value, str | bytes) else value)
            ):
                raise ModelError(f"{where} is not an ONNX model, or is damaged: a text in it ({field.name}) is not UTF-8")


def has_external_data(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> bool:
    """Whether some tensor of a model lies in another file.  Raises ModelError."""
    proto, _ = read_model(model)
    return any(isinstance(m, TensorProto) and m.data_location == TensorProto.EXTERNAL for m in _messages(proto))


def _messages(proto: Message) -> Iterator[Message]:
    """A message and all messages in it."""
    stack = [proto]
    while stack:
        message = stack.pop()
        yield message
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                stack += (value,) if isinstance(value, Message) else value


def open_inside(folder: Path, location: str, where: str) -> int:
    """A file descriptor of `folder/location`, which must be a regular file really inside the folder.  Raises ModelError."""
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        raise ModelError(f"{where}: external data at {location[:200]!r} is outside the model's folder")
    parts = [p for p in parts if p not in ("", ".")]
    if not parts:
        raise ModelError(f"{where}: external data location {location[:200]!r} names no file")
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for k, part in enumerate(parts):
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_DIRECTORY if k < len(parts) - 1 else 0)
            try:
                inner = os.open(part, flags, dir_fd=at)
            finally:
                os.close(at)
            at = inner
    except OSError as e:
        raise ModelError(
            f"{where}: cannot open external data {location[:200]!r} inside the model's folder "
            f"({e.strerror}; symbolic links are not followed)"
        ) from None
    status = os.fstat(at)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(at)
        raise ModelError(f"{where}: external data {location[:200]!r} must be a regular file without hard links")
    return at


def _external(tensor: TensorProto, nbytes: int, folder: Path | None, where: str) -> bytes:
    entries = {e.key: e.value for e in tensor.external_data}
    if folder is None:
        raise ModelError(f"{where}: its data is in an external file; import the model from its path, not from memory")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes)
    except ValueError:
        raise ModelError(f"{where}: offset and length of external data must be integers") from None
    if length != nbytes or offset < 0:
        raise ModelError(f"{where}: external data of {length} bytes at {offset} does not hold the {nbytes} bytes of the tensor")
    fd = open_inside(folder, entries.get("location", ""), where)
    try:
        have = os.fstat(fd).st_size
        if offset + length > have:
            raise ModelError(f"{where}: external data ends at byte {offset + length}, but the file has {have}")
        with os.fdopen(os.dup(fd), "rb") as f:
            f.seek(offset)
            data = f.read(length)
    finally:
        os.close(fd)
    if len(data) != length:
        raise ModelError(f"{where}: external data changed while it was read")
    return data


def _packed_bytes(dtype: DType, count: int) -> int:
    return (count * dtype.bits + 7) // 8 if dtype.kind != "b" else count


def _typed_field(tensor: TensorProto, dtype: DType) -> tuple[int, int]:
    """How many entries the typed field of the tensor holds, and how many it should hold for one element."""
    kind = tensor.data_type
    if kind == TensorProto.FLOAT:
        return len(tensor.float_data), 1
    if kind == TensorProto.DOUBLE:
        return len(tensor.double_data), 1
    if kind == TensorProto.COMPLEX64:
        return len(tensor.float_data), 2
    if kind == TensorProto.COMPLEX128:
        return len(tensor.double_data), 2
    if kind == TensorProto.INT64:
        return len(tensor.int64_data), 1
    if kind in (TensorProto.UINT32, TensorProto.UINT64):
        return len(tensor.uint64_data), 1
    return len(tensor.int32_data), 1


def tensor_shape(tensor: TensorProto, where: str) -> tuple[int, ...]:
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape) or len(shape) > 64:
        raise ModelError(f"{where}: the tensor's shape {list(shape)[:8]} is not valid")
    return shape


def to_array(tensor: TensorProto, folder: Path | None, where: str) -> np.ndarray:
    """The contents of a tensor.  Raises ModelError when the bytes are not those of its shape and type."""
    shape = tensor_shape(tensor, where)
    count = math.prod(shape)
    if tensor.data_type == TensorProto.STRING:
        if len(tensor.string_data) != count:
            raise ModelError(f"{where}: {len(tensor.string_data)} strings for the shape {list(shape)}")
        strings = [s.decode("utf-8", "surrogateescape") for s in tensor.string_data]
        return np.array(strings, dtype=object).reshape(shape)
    dtype = element_type(tensor.data_type, where)
    nbytes = _packed_bytes(dtype, count)
    if tensor.data_location == TensorProto.EXTERNAL:
        data: bytes | None = _external(tensor, nbytes, folder, where)
    else:
        data = tensor.raw_data if tensor.HasField("raw_data") else None
    if data is None:
        have, per_element = _typed_field(tensor, dtype)
        expected = (count + 1) // 2 if dtype.bits == 4 else count * per_element
        if have != expected:
            raise ModelError(f"{where}: {have} numbers for the shape {list(shape)}, which needs {expected}")
        return onnx.numpy_helper.to_array(tensor).reshape(shape).astype(dtype.np, copy=False)
    if len(data) != nbytes:
        raise ModelError(f"{where}: {len(data)} bytes of data for the shape {list(shape)}, which needs {nbytes}")
    if dtype.bits == 4:
        packed = np.frombuffer(data, np.uint8)
        pairs = np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:count]
        if dtype.kind == "i":
            pairs = (pairs.astype(np.int8) ^ 8) - 8
        return pairs.astype(dtype.np).reshape(shape)
    return np.frombuffer(data, dtype.np).reshape(shape)


def sparse_to_array(tensor: onnx.SparseTensorProto, folder: Path | None, where: str) -> np.ndarray:
    """A sparse tensor made dense.  Raises ModelError."""
    shape = tuple(tensor.dims)
    values = to_array(tensor.values, folder, where)
    indices = to_array(tensor.indices, folder, where)
    if any(d < 0 for d in shape) or math.prod(shape) * values.dtype.itemsize > MAX_DENSE_BYTES:
        raise ModelError(f"{where}: the sparse tensor's shape {list(shape)[:8]} is not valid or too large to make dense")
    count = math.prod(shape)
    if values.ndim != 1 or indices.shape not in ((len(values),), (len(values), len(shape))):
        raise ModelError(f"{where}: the sparse tensor's indices do not fit its values")
    if indices.ndim == 2:
        if ((indices < 0) | (indices >= np.asarray(shape))).any():
            raise ModelError(f"{where}: a sparse index is out of range")
        indices = np.asarray(np.ravel_multi_index(tuple(indices.T), shape))
    if len(indices) and not 0 <= indices.min() <= indices.max() < count:
        raise ModelError(f"{where}: a sparse index is out of range")
    dense = np.zeros(count, values.dtype)
    dense[indices] = values
    return dense.reshape(shape)


def message_name(message: Message, fallback: str) -> str:
    """A message's name for error texts: shortened, and never empty."""
    name = getattr(message, "name", "") or fallback
    return name if len(name) <= 200 else name[:200] + "..."
