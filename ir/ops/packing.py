"""Packed operands of contractions: columns in panels of a fixed width, so that a micro-kernel reads one panel straight through.

Bytes of four neighbouring rows form a word where the micro-kernel sums four products at a time (`dot4`), and 4-bit integers of eight
rows do, so that they take half a byte each.
They are index ops like any other: packing a constant is folding it, and a kernel that reads packed weights says so in its body.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..dims import Dim, ceildiv
from ..errors import ShapeError
from ..types import DType, TensorType, i4, i8, i32, u4
from .registry import Quant, Sample, Types, index


def _infer_pack(types: Types, *, width: int) -> Types:
    (t,) = types
    if t.rank < 2:
        raise ShapeError(f"needs a matrix, got rank {t.rank}")
    *batch, k, n = t.shape
    return (t.with_shape((*batch, ceildiv(n, width), k, width)),)


def _pack_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape in ((5, 37), (2, 3, 32), (7, 16)):
        yield Sample((rng.standard_normal(shape).astype(np.float32),), {"width": 16})


def _pack_reference(x: np.ndarray, width: int) -> np.ndarray:
    *batch, k, n = x.shape
    panels = -(-n // width)
    padded = np.zeros((*batch, k, panels * width), x.dtype)
    padded[..., :n] = x
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*batch, k, panels, width), -2, -3))


@index(infer=_infer_pack, reference=_pack_reference, samples=_pack_samples, quant=Quant.EXACT)
def pack_panels(s: Any, i: Any, x: Any, *, types: Types, out: TensorType, width: int) -> Any:
    """[..., k, n] -> [..., ceil(n / width), k, width], zeros past column n."""
    *batch, panel, row, lane = i
    column = panel * width + lane
    if types[0].shape[-1] == out.shape[-3] * width:
        return x[(*batch, row, column)]
    return x.at((*batch, row, column), where=column < x.shape[-1], other=0)


def _infer_unpack(types: Types, *, columns: Dim) -> Types:
    (t,) = types
    *batch, panels, k, width = t.shape
    if panels != ceildiv(columns, width):
        raise ShapeError(f"{columns} columns do not fill {panels} panels of {width}")
    return (t.with_shape((*batch, k, columns)),)


def _unpack_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape, columns in (((3, 5, 16), 37), ((2, 1, 4, 32), 32)):
        yield Sample((rng.standard_normal(shape).astype(np.float32),), {"columns": columns})


def _unpack_reference(p: np.ndarray, columns: int) -> np.ndarray:
    *batch, panels, k, width = p.shape
    return np.moveaxis(p, -3, -2).reshape(*batch, k, panels * width)[..., :columns]


@index(infer=_infer_unpack, reference=_unpack_reference, samples=_unpack_samples, quant=Quant.EXACT)
def unpack_panels(s: Any, i: Any, p: Any, *, types: Types, out: TensorType, columns: Any) -> Any:
    """The inverse of `pack_panels`: [..., panels, k, width] -> [..., k, columns]."""
    width = types[0].shape[-1]
    *batch, row, column = i
    return p[(*batch, column // width, row, column % width)]


def _infer_pack_dots(types: Types, *, width: int) -> Types:
    (t,) = types
    if t.rank < 2 or t.dtype is not i8:
        raise ShapeError(f"needs a matrix of i8, got {t}")
    *batch, k, n = t.shape
    return (TensorType(i32, (*batch, ceildiv(n, width), ceildiv(k, 4), width)),)


def _pack_dots_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape in ((5, 37), (2, 3, 32), (8, 16)):
        yield Sample((rng.integers(-128, 128, shape).astype(np.int8),), {"width": 16})


def _pack_dots_reference(x: np.ndarray, width: int) -> np.ndarray:
    *batch, k, n = x.shape
    panels, words = -(-n // width), -(-k // 4)
    padded = np.zeros((*batch, words * 4, panels * width), x.dtype)
    padded[..., :k, :n] = x
    parts = padded.reshape(*batch, words, 4, panels, width)
    return np.ascontiguousarray(np.moveaxis(parts, (-2, -3), (-4, -1))).view("<i4")[..., 0]


@index(infer=_infer_pack_dots, reference=_pack_dots_reference, samples=_pack_dots_samples, quant=Quant.EXACT)
def pack_dots(s: Any, i: Any, x: Any, *, types: Types, out: TensorType, width: int) -> Any:
    """i8 [..., k, n] -> i32 [..., ceil(n / width), ceil(k / 4), width]: byte q of word j is row 4 * j + q, zero where there is none."""
    *batch, panel, word, lane = i
    column = panel * width + lane
    total = None
    for q in range(4):
        row = word * 4 + q
        byte = s.cast(x.at((*batch, row, column), where=(row < x.shape[-2]) & (column < x.shape[-1]), other=0), i32) & 255
        total = byte if total is None else total | (byte << 8 * q)
    return total


def _infer_unpack_dots(types: Types, *, rows: Dim, columns: Dim) -> Types:
    (t,) = types
    if t.dtype is not i32:
        raise ShapeError(f"needs words of i32, got {t}")
    *batch, panels, words, width = t.shape
    if panels != ceildiv(columns, width) or words != ceildiv(rows, 4):
        raise ShapeError(f"{rows} rows and {columns} columns do not fill {panels} panels of {words} words and {width} columns")
    return (TensorType(i8, (*batch, rows, columns)),)


def _unpack_dots_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape, rows, columns in (((3, 2, 16), 5, 37), ((2, 1, 1, 32), 4, 32)):
        yield Sample((rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32),), {"rows": rows, "columns": columns})


def _unpack_dots_reference(p: np.ndarray, rows: int, columns: int) -> np.ndarray:
    *batch, panels, words, width = p.shape
    parts = np.ascontiguousarray(p, "<i4")[..., None].view(np.int8)  # [..., panels, words, width, 4]
    return np.moveaxis(parts, (-4, -1), (-2, -3)).reshape(*batch, words * 4, panels * width)[..., :rows, :columns]


@index(infer=_infer_unpack_dots, reference=_unpack_dots_reference, samples=_unpack_dots_samples, quant=Quant.EXACT)
def unpack_dots(s: Any, i: Any, p: Any, *, types: Types, out: TensorType, rows: Any, columns: Any) -> Any:
    """The inverse of `pack_dots`: i32 [..., panels, words, width] -> i8 [..., rows, columns]."""
    width = types[0].shape[-1]
    *batch, row, column = i
    word = p[(*batch, column // width, row // 4, column % width)]
    return s.cast(word >> s.cast(row % 4 * 8, i32), i8)


def _infer_pack_nibbles(types: Types, *, width: int) -> Types:
    (t,) = types
    if t.rank < 2 or t.dtype not in (i4, u4):
        raise ShapeError(f"needs a matrix of 4-bit integers, got {t}")
    *batch, k, n = t.shape
    return (TensorType(i32, (*batch, ceildiv(n, width), ceildiv(k, 8), width)),)


def _pack_nibbles_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype, shape in ((i4, (5, 37)), (u4, (2, 9, 32)), (i4, (16, 16))):
        yield Sample((rng.integers(dtype.min, dtype.max + 1, shape).astype(dtype.np),), {"width": 16})


def _pack_nibbles_reference(x: np.ndarray, width: int) -> np.ndarray:
    *batch, k, n = x.shape
    panels, words = -(-n // width), -(-k // 8)
    padded = np.zeros((*batch, words * 8, panels * width), np.uint8)
    padded[..., :k, :n] = x.view(np.uint8) & 15
    parts = padded.reshape(*batch, words, 4, 2, panels, width)
    packed = parts[..., 0, :, :] | parts[..., 1, :, :] << 4  # [..., words, 4, panels, width]
    return np.ascontiguousarray(np.moveaxis(packed, (-2, -3), (-4, -1))).view("<i4")[..., 0]


@index(infer=_infer_pack_nibbles, reference=_pack_nibbles_reference, samples=_pack_nibbles_samples, quant=Quant.EXACT)
def pack_nibbles(s: Any, i: Any, x: Any, *, types: Types, out: TensorType, width: int) -> Any:
    """i4 or u4 [..., k, n] -> i32 [..., ceil(n / width), ceil(k / 8), width]: nibble q of word j, from the lowest, is row 8 * j + q,
    zero where there is none.
    """
    *batch, panel, word, lane = i
    column = panel * width + lane
    total = None
    for q in range(8):
        row = word * 8 + q
        nibble = s.cast(x.at((*batch, row, column), where=(row < x.shape[-2]) & (column < x.shape[-1]), other=0), i32) & 15
        total = nibble if total is None else total | (nibble << 4 * q)
    return total


def _infer_unpack_nibbles(types: Types, *, to: DType, rows: Dim, columns: Dim) -> Types:
    (t,) = types
    if t.dtype is not i32 or to not in (i4, u4):
        raise ShapeError(f"makes i4 or u4 of words of i32, not {to} of {t}")
    *batch, panels, words, width = t.shape
    if panels != ceildiv(columns, width) or words != ceildiv(rows, 8):
        raise ShapeError(f"{rows} rows and {columns} columns do not fill {panels} panels of {words} words and {width} columns")
    return (TensorType(to, (*batch, rows, columns)),)


def _unpack_nibbles_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for to, shape, rows, columns in ((i4, (3, 2, 16), 13, 37), (u4, (2, 1, 1, 32), 8, 32)):
        yield Sample((rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32),), {"to": to, "rows": rows, "columns": columns})


def _unpack_nibbles_reference(p: np.ndarray, to: DType, rows: int, columns: int) -> np.ndarray:
    *batch, panels, words, width = p.shape
    packed = np.ascontiguousarray(p, "<i4")[..., None].view(np.uint8)  # [..., panels, words, width, 4]
    parts = np.stack((packed & 15, packed >> 4), -1)
    matrix = np.moveaxis(parts.reshape(*batch, panels, words, width, 8), (-4, -1), (-2, -3)).reshape(*batch, words * 8, panels * width)
    whole = matrix[..., :rows, :columns]
    return (((whole ^ 8).astype(np.int8) - 8) if to is i4 else whole).astype(to.np)


@index(infer=_infer_unpack_nibbles, reference=_unpack_nibbles_reference, samples=_unpack_nibbles_samples, quant=Quant.EXACT)
def unpack_nibbles(s: Any, i: Any, p: Any, *, types: Types, out: TensorType, to: DType, rows: Any, columns: Any) -> Any:
    """The inverse of `pack_nibbles`: i32 [..., panels, words, width] -> i4 or u4 (`to`) [..., rows, columns]."""
    width = types[0].shape[-1]
    *batch, row, column = i
    word = p[(*batch, column // width, row // 8, column % width)]
    return s.cast(word >> s.cast(row % 8 * 4, i32), to)


def _infer_pack_taps(types: Types) -> Types:
    (t,) = types
    if t.rank < 3 or t.shape[1] != 1:
        raise ShapeError(f"needs weights [channels, 1, *kernel], got {t}")
    return (t.with_shape((*t.shape[2:], t.shape[0])),)


def _pack_taps_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape in ((5, 1, 3), (7, 1, 3, 2)):
        yield Sample((rng.standard_normal(shape).astype(np.float32),))


@index(infer=_infer_pack_taps, reference=lambda x: np.moveaxis(x[:, 0], 0, -1), samples=_pack_taps_samples, quant=Quant.EXACT)
def pack_taps(s: Any, i: Any, x: Any, *, types: Types, out: TensorType) -> Any:
    """Depthwise weights [channels, 1, *kernel] -> [*kernel, channels]."""
    *taps, channel = i
    return x[(channel, 0, *taps)]


def _infer_unpack_taps(types: Types) -> Types:
    (t,) = types
    return (t.with_shape((t.shape[-1], 1, *t.shape[:-1])),)


def _unpack_taps_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape in ((3, 5), (3, 2, 7)):
        yield Sample((rng.standard_normal(shape).astype(np.float32),))


@index(
    infer=_infer_unpack_taps,
    reference=lambda p: np.moveaxis(p, -1, 0)[:, None],
    samples=_unpack_taps_samples,
    quant=Quant.EXACT,
)
def unpack_taps(s: Any, i: Any, p: Any, *, types: Types, out: TensorType) -> Any:
    """The inverse of `pack_taps`."""
    channel, _, *taps = i
    return p[(*taps, channel)]


def _infer_pack_windows(types: Types, *, windows: int, results: int, step: int) -> Types:
    (t,) = types
    if t.rank < 3 or t.shape[1] != 1 or t.dtype is not i8:
        raise ShapeError(f"needs weights of i8 [channels, 1, *kernel], got {t}")
    if isinstance(t.shape[-1], int) and t.shape[-1] > 4 * windows:
        raise ShapeError(f"{t.shape[-1]} taps do not fit {windows} windows of 4")
    return (TensorType(i32, (*t.shape[2:-1], windows, results, t.shape[0])),)


def _pack_windows_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape, windows, results, step in (((5, 1, 3), 1, 2, 1), ((7, 1, 2, 5), 2, 4, 1), ((6, 1, 3, 3), 1, 1, 2)):
        attrs = {"windows": windows, "results": results, "step": step}
        yield Sample((rng.integers(-128, 128, shape).astype(np.int8),), attrs)


def _pack_windows_reference(x: np.ndarray, windows: int, results: int, step: int) -> np.ndarray:
    channels, _, *lines, taps = x.shape
    places = np.zeros((*lines, results, windows * 4, channels), np.int8)
    for r in range(results):
        places[..., r, r * step : r * step + taps, :] = np.moveaxis(x[:, 0], 0, -1)[..., : windows * 4 - r * step, :]
    parts = places.reshape(*lines, results, windows, 4, channels)
    return np.ascontiguousarray(np.moveaxis(parts, (-4, -2), (-3, -1))).view("<i4")[..., 0]


@index(infer=_infer_pack_windows, reference=_pack_windows_reference, samples=_pack_windows_samples, quant=Quant.EXACT)
def pack_windows(s: Any, i: Any, x: Any, *, types: Types, out: TensorType, windows: int, results: int, step: int) -> Any:
    """Depthwise weights i8 [channels, 1, *kernel] -> i32 [*kernel but its last axis, windows, results, channels].

    Byte q of word w of result r is tap 4 * w + q - r * step: what pixel 4 * w + q adds to the r-th result from the first pixel on.
    """
    *line, window, result, channel = i
    total = None
    for q in range(4):
        tap = window * 4 + q - result * step
        byte = s.cast(x.at((channel, 0, *line, tap), where=(tap >= 0) & (tap < x.shape[-1]), other=0), i32) & 255
        total = byte if total is None else total | (byte << 8 * q)
    return total


def _infer_unpack_windows(types: Types, *, taps: int) -> Types:
    (t,) = types
    *line, windows, _, channels = t.shape
    if t.dtype is not i32 or (isinstance(windows, int) and taps > 4 * windows):
        raise ShapeError(f"needs words of i32 in windows for {taps} taps, got {t}")
    return (TensorType(i8, (channels, 1, *line, taps)),)


def _unpack_windows_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for shape, taps in (((1, 2, 5), 3), ((2, 2, 4, 7), 5)):
        yield Sample((rng.integers(-(1 << 31), 1 << 31, shape).astype(np.int32),), {"taps": taps})


def _unpack_windows_reference(p: np.ndarray, taps: int) -> np.ndarray:
    first = np.ascontiguousarray(p[..., 0, :], "<i4")[..., None].view(np.int8)  # [*line, windows, channels, 4]
    *line, windows, channels, _ = first.shape
    return np.moveaxis(np.swapaxes(first, -1, -2).reshape(*line, windows * 4, channels)[..., :taps, :], -1, 0)[:, None]


@index(infer=_infer_unpack_windows, reference=_unpack_windows_reference, samples=_unpack_windows_samples, quant=Quant.EXACT)
def unpack_windows(s: Any, i: Any, p: Any, *, types: Types, out: TensorType, taps: int) -> Any:
    """The inverse of `pack_windows`: i32 [*line, windows, results, channels] -> i8 [channels, 1, *line, taps], of the first result."""
    channel, _, *line, tap = i
    return s.cast(p[(*line, tap // 4, 0, channel)] >> s.cast(tap % 4 * 8, i32), i8)
