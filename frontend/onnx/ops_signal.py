"""Fourier transforms, as products with matrices of cosines and sines made from positions: exact angles for any length."""

from __future__ import annotations

import math

import numpy as np

from ...ir.dims import Dim, floordiv
from ...ir.errors import ModelError, UnsupportedOp
from ...ir.graph import Value
from ...ir.types import DType
from .registry import Operand, Site, Tensor, onnx_op


def waves(n: Site, length: int, bins: int, dtype: DType, inverse: bool) -> tuple[Value, Value]:
    """cos and sin [length, bins] of 2 pi k j / length, negated for the forward transform's exp(-i...)."""
    product = np.outer(np.arange(length), np.arange(bins)) % max(length, 1)
    angle = product * (2 * math.pi / max(length, 1)) * (1 if inverse else -1)
    return n.const(np.cos(angle).astype(dtype.np)), n.const(np.sin(angle).astype(dtype.np))


def transform(n: Site, x: Value, length: int, *, inverse: bool, onesided: bool) -> Value:
    """The transform of [..., length, 1 or 2] along its last but one axis: [..., bins, 2]."""
    bins = length // 2 + 1 if onesided else length
    cos, sin = waves(n, length, bins, x.dtype, inverse)
    parts = x.shape[-1]
    if parts not in (1, 2):
        raise ModelError("the last axis must hold one real or two complex parts")
    real = n.reshape(n.slice_axis(x, x.type.rank - 1, 0, 1), x.shape[:-1])
    lead = tuple(real.shape[:-1])
    real = n.reshape(real, (*lead, 1, length))
    re, im = n.apply("matmul", real, cos), n.apply("matmul", real, sin)
    if parts == 2:
        imaginary = n.reshape(n.slice_axis(x, x.type.rank - 1, 1, 2), (*lead, 1, length))
        re = n.apply("sub", re, n.apply("matmul", imaginary, sin))
        im = n.apply("add", im, n.apply("matmul", imaginary, cos))
    if inverse:
        factor = n.scalar(1 / max(length, 1), re)
        re, im = n.apply("mul", re, factor), n.apply("mul", im, factor)
    return n.concat([n.reshape(v, (*lead, bins, 1)) for v in (re, im)], len(lead) + 1)


def resized(n: Site, x: Value, axis: int, length: int) -> Value:
    """x cut or padded with zeros to this length along the axis."""
    size = x.shape[axis]
    if not isinstance(size, int):
        raise UnsupportedOp("the length of the transform must be static")
    if size > length:
        return n.slice_axis(x, axis, 0, length)
    high = tuple(length - size if k == axis else 0 for k in range(x.type.rank))
    return n.apply("pad", x, low=(0,) * x.type.rank, high=high, mode="constant", value=0.0) if size < length else x


def fourier(n: Site, x: Tensor, length: Operand, axis: int) -> Value:
    if n.integer("inverse") and n.integer("onesided"):
        raise UnsupportedOp("the inverse of a one-sided transform is not supported")
    size: Dim = x.shape[axis]
    if length is not None:
        size = int(n.known(length, "dft_length").reshape(-1)[0])
    if not isinstance(size, int):
        raise UnsupportedOp("the length of the transform must be static")
    order = [*(k for k in range(x.rank - 1) if k != axis), axis, x.rank - 1]
    moved = n.transpose(resized(n, x.value, axis, size), order)
    y = transform(n, moved, size, inverse=bool(n.integer("inverse")), onesided=bool(n.integer("onesided")))
    return n.transpose(y, [order.index(k) for k in range(x.rank)])


@onnx_op("DFT", since=20)
def dft(n: Site, x: Tensor, length: Operand = None, axis: Operand = None) -> Value:
    (k,) = n.axes(n.known_ints(axis, "axis") if axis is not None else (-2,), x.rank)
    return fourier(n, x, length, k)


@onnx_op("DFT", since=17)
def dft_by_attribute(n: Site, x: Tensor, length: Operand = None) -> Value:
    return fourier(n, x, length, n.axis(x.rank, 1))


@onnx_op("STFT")
def stft(n: Site, signal: Tensor, step: Tensor, window: Operand = None, length: Operand = None) -> Value:
    """Frames of the signal, times the window, each transformed."""
    (hop,) = n.known_ints(step, "frame_step")
    if length is not None:
        (size,) = n.known_ints(length, "frame_length")
    elif window is not None and isinstance(window.shape[0], int):
        size = window.shape[0]
    else:
        raise ModelError("it needs a window or a frame_length")
    if hop < 1 or size < 1:
        raise ModelError("frame_step and frame_length must be positive")
    batch = signal.shape[0]
    value = signal.value if signal.rank == 3 else n.reshape(signal, (*signal.shape, 1))
    frames = n.apply(
        "window", value, axes=(1,), kernel=(size,), strides=(hop,), dilations=(1,), low=(0,), high=(0,), fill=0.0
    )  # fmt: skip
    count = floordiv(value.shape[1] - size, hop) + 1
    frames = n.reshape(n.transpose(frames, (0, 1, 3, 2)), (batch, count, size, value.shape[2]))
    if window is not None:
        padded = n.reshape(window, (1, 1, size, 1)) if window.shape[0] == size else None
        if padded is None:
            raise UnsupportedOp("a window shorter than the frame is not supported")
        frames = n.apply("mul", frames, padded)
    return transform(n, frames, size, inverse=False, onesided=bool(n.integer("onesided", 1)))
