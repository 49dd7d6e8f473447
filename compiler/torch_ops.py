"""ONNX operators as calls of torch, for `onnx_torch`: each takes a node, whose sizes are known, and gives the call that computes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]

from ..ir.errors import UnsupportedOp

Tensor = Any  # torch.Tensor; torch is no dependency, so a type checker need not know it
Call = Callable[..., Any]  # tensors, None for those left out, to a tensor or a tuple of them


@dataclass(frozen=True)
class Node:
    """An ONNX node with the tensors that it has read this time; `fixed` says which of them no other input would change."""

    op: str
    attrs: Mapping[str, Any]
    inputs: tuple[Tensor, ...]  # None for those left out
    fixed: tuple[bool, ...]
    opset: int

    def has(self, k: int) -> bool:
        return k < len(self.inputs) and self.inputs[k] is not None

    def values(self, k: int) -> list[Any]:
        """An operand that has to be known before the run, flat.  Raises UnsupportedOp where it depends on the model's inputs."""
        if not self.fixed[k]:
            raise UnsupportedOp(f"{self.op} with a computed operand {k} has no translation to torch")
        return self.inputs[k].reshape(-1).tolist()

    def listed(self, name: str, k: int = 1) -> list[Any] | None:
        """An attribute that later opsets made operand `k`; None where it is absent from both."""
        return list(self.attrs[name]) if name in self.attrs else self.values(k) if self.has(k) else None

    def shape(self, k: int = 0) -> tuple[int, ...]:
        return tuple(self.inputs[k].shape)


OPS: dict[str, Callable[[Node], Call]] = {}


def _dtype(code: int) -> Any:
    return torch.from_numpy(np.empty(0, onnx.helper.tensor_dtype_to_np_dtype(code))).dtype


def _op(*names: str) -> Callable[[Callable[[Node], Call]], Callable[[Node], Call]]:
    def register(translate: Callable[[Node], Call]) -> Callable[[Node], Call]:
        OPS.update(dict.fromkeys(names, translate))
        return translate

    return register


def _plain(**calls: Call) -> None:
    """Operators without attributes that matter."""
    OPS.update({name: lambda n, call=call: call for name, call in calls.items()})


_plain(Add=torch.add, Sub=torch.sub, Mul=torch.mul, Pow=torch.pow, MatMul=torch.matmul, Where=torch.where)
_plain(And=torch.logical_and, Or=torch.logical_or, Not=torch.logical_not, Equal=torch.eq, Less=torch.lt, Greater=torch.gt)
_plain(
    LessOrEqual=torch.le, GreaterOrEqual=torch.ge, IsNaN=torch.isnan, Neg=torch.neg, Abs=torch.abs, Floor=torch.floor, Ceil=torch.ceil
)
_plain(Relu=F.relu, Sigmoid=torch.sigmoid, Tanh=torch.tanh, Erf=torch.erf, Exp=torch.exp, Log=torch.log, Sqrt=torch.sqrt)
_plain(Sin=torch.sin, Cos=torch.cos, Reciprocal=torch.reciprocal, HardSwish=F.hardswish, Softplus=F.softplus, Identity=lambda x: x)
_plain(Size=lambda x: torch.tensor(x.numel()))
_plain(GlobalAveragePool=lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True))
_plain(GlobalMaxPool=lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True))
_plain(PRelu=lambda x, slope: torch.where(x < 0, x * slope, x))


@_op("Div")
def _div(n: Node) -> Call:
    return torch.div if n.inputs[0].is_floating_point() else lambda a, b: torch.div(a, b, rounding_mode="trunc")


@_op("Max", "Min")
def _extreme(n: Node) -> Call:
    pick = torch.maximum if n.op == "Max" else torch.minimum

    def call(x: Tensor, *others: Tensor) -> Tensor:
        for y in others:
            x = pick(x, y)
        return x

    return call


@_op("LeakyRelu")
def _leaky_relu(n: Node) -> Call:
    slope = n.attrs.get("alpha", 0.01)
    return lambda x: F.leaky_relu(x, slope)


@_op("HardSigmoid")
def _hard_sigmoid(n: Node) -> Call:
    alpha, beta = n.attrs.get("alpha", 0.2), n.attrs.get("beta", 0.5)
    return lambda x: torch.clamp(x * alpha + beta, 0, 1)


@_op("Gelu")
def _gelu(n: Node) -> Call:
    approximate = n.attrs.get("approximate", "none")
    return lambda x: F.gelu(x, approximate=approximate)


@_op("Clip")
def _clip(n: Node) -> Call:
    low = n.attrs.get("min", n.values(1)[0] if n.has(1) else None)
    high = n.attrs.get("max", n.values(2)[0] if n.has(2) else None)
    return lambda x, *_: torch.clamp(x, low, high)


@_op("Cast")
def _cast(n: Node) -> Call:
    dtype = _dtype(n.attrs["to"])
    return lambda x: x.to(dtype)


@_op("Softmax", "LogSoftmax")
def _softmax(n: Node) -> Call:
    function = F.softmax if n.op == "Softmax" else F.log_softmax
    if n.opset >= 13:
        axis = n.attrs.get("axis", -1)
        return lambda x: function(x, axis)
    shape, axis = n.shape(), n.attrs.get("axis", 1)  # over everything from the axis on
    flat = (*shape[:axis], math.prod(shape[axis:]))
    return lambda x: function(x.reshape(flat), -1).reshape(shape)


# Shapes and indices.


@_op("Shape")
def _shape(n: Node) -> Call:
    start, stop = n.attrs.get("start", 0), n.attrs.get("end")
    return lambda x: torch.tensor(x.shape[start:stop], dtype=torch.int64)


@_op("Reshape")
def _reshape(n: Node) -> Call:
    keep = not n.attrs.get("allowzero", 0)
    shape = [n.shape()[k] if d == 0 and keep else d for k, d in enumerate(n.listed("shape") or [])]
    return lambda x, *_: x.reshape(shape)


@_op("Flatten")
def _flatten(n: Node) -> Call:
    axis = n.attrs.get("axis", 1)
    rows = math.prod(n.shape()[:axis])
    return lambda x: x.reshape(rows, -1)


@_op("Transpose")
def _transpose(n: Node) -> Call:
    perm = n.attrs.get("perm", list(range(len(n.shape())))[::-1])
    return lambda x: x.permute(perm)


@_op("Squeeze")
def _squeeze(n: Node) -> Call:
    axes = n.listed("axes")
    return lambda x, *_: x.squeeze() if axes is None else x.squeeze(axes)


@_op("Unsqueeze")
def _unsqueeze(n: Node) -> Call:
    axes = n.listed("axes") or []
    rank = len(n.shape()) + len(axes)
    at = sorted(a % rank for a in axes)

    def call(x: Tensor, *_: Tensor) -> Tensor:
        for axis in at:
            x = x.unsqueeze(axis)
        return x

    return call


@_op("Expand")
def _expand(n: Node) -> Call:
    shape = np.broadcast_shapes(n.shape(), tuple(n.values(1)))
    return lambda x, *_: x.expand(shape)


@_op("Concat")
def _concat(n: Node) -> Call:
    axis = n.attrs["axis"]
    return lambda *parts: torch.cat(parts, axis)


@_op("Split")
def _split(n: Node) -> Call:
    axis, sizes = n.attrs.get("axis", 0), n.listed("split")
    if sizes is None:
        parts = n.attrs["num_outputs"]
        size = -(-n.shape()[axis] // parts)
        return lambda x, *_: x.split(size, axis)
    return lambda x, *_: x.split(sizes, axis)


@_op("Slice")
def _slice(n: Node) -> Call:
    starts, stops = n.listed("starts", 1) or [], n.listed("ends", 2) or []
    axes = n.listed("axes", 3) or list(range(len(starts)))
    steps = n.values(4) if n.has(4) else [1] * len(starts)
    flips, index = [], [slice(None)] * len(n.shape())
    for start, stop, axis, step in zip(starts, stops, axes, steps):
        size = n.shape()[axis]
        begin, end, step = slice(start, stop if stop > -(2**31) else None, step).indices(size)
        if step < 0:  # torch has no negative steps
            flips.append(axis)
            begin, end, step = size - 1 - begin, size - 1 - end, -step
        index[axis] = slice(begin, end, step)
    at = tuple(index)
    return lambda x, *_: (x.flip(flips) if flips else x)[at]


@_op("Pad")
def _pad(n: Node) -> Call:
    pads, mode = n.listed("pads") or [], n.attrs.get("mode", "constant")
    if n.has(3):
        raise UnsupportedOp("Pad with axes has no translation to torch")
    fill = n.attrs.get("value", n.values(2)[0] if n.has(2) else 0)
    rank = len(n.shape())
    pairs = [(pads[k], pads[k + rank]) for k in range(rank)]
    if mode == "constant":
        flat = [p for pair in reversed(pairs) for p in pair]
        return lambda x, *_: F.pad(x, flat, value=fill)
    padded = [k for k in range(rank) if any(pairs[k])]
    if not padded or padded[0] == 0 or rank > 3 or mode != "reflect":
        raise UnsupportedOp(f"Pad with mode {mode} of {rank} axes has no translation to torch")
    flat = [p for k in range(rank - 1, padded[0] - 1, -1) for p in pairs[k]]
    return lambda x, *_: F.pad(x, flat, mode="reflect")


@_op("Gather")
def _gather(n: Node) -> Call:
    axis = n.attrs.get("axis", 0) % len(n.shape())
    front, size = (slice(None),) * axis, n.shape()[axis]
    if n.fixed[1] and not len(n.shape(1)):
        at = n.values(1)[0]
        return lambda x, _: x.select(axis, at)
    return lambda x, i: x[(*front, torch.where(i < 0, i + size, i))]


@_op("GatherElements")
def _gather_elements(n: Node) -> Call:
    axis = n.attrs.get("axis", 0)
    size = n.shape()[axis]
    return lambda x, i: torch.gather(x, axis, torch.where(i < 0, i + size, i))


@_op("GatherND")
def _gather_nd(n: Node) -> Call:
    if n.attrs.get("batch_dims", 0):
        raise UnsupportedOp("GatherND with batch_dims has no translation to torch")
    return lambda x, i: x[i.unbind(-1)]


@_op("ScatterElements")
def _scatter_elements(n: Node) -> Call:
    axis, reduction = n.attrs.get("axis", 0), n.attrs.get("reduction", "none")
    size = n.shape()[axis]
    if reduction == "none":
        return lambda x, i, updates: x.scatter(axis, torch.where(i < 0, i + size, i), updates)
    if reduction == "add":
        return lambda x, i, updates: x.scatter_add(axis, torch.where(i < 0, i + size, i), updates)
    raise UnsupportedOp(f"ScatterElements with reduction {reduction} has no translation to torch")


@_op("Constant")
def _constant(n: Node) -> Call:
    (name,) = n.attrs
    value = n.attrs[name] if name == "value" else torch.tensor(n.attrs[name])
    return lambda: value


@_op("ConstantOfShape")
def _constant_of_shape(n: Node) -> Call:
    shape, value = n.values(0), n.attrs.get("value", torch.zeros(1))
    return lambda _: value.reshape(()).expand(shape).clone()


@_op("Range")
def _range(n: Node) -> Call:
    start, stop, step = (n.values(k)[0] for k in range(3))
    dtype = n.inputs[0].dtype
    return lambda *_: torch.arange(start, stop, step, dtype=dtype)


# Reductions and norms.


@_op("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin")
def _reduce(n: Node) -> Call:
    function = {"ReduceMean": torch.mean, "ReduceSum": torch.sum, "ReduceMax": torch.amax, "ReduceMin": torch.amin}[n.op]
    keep, axes = bool(n.attrs.get("keepdims", 1)), n.listed("axes")
    if not axes and n.attrs.get("noop_with_empty_axes", 0):
        return lambda x, *_: x
    axes = axes or list(range(len(n.shape())))
    return lambda x, *_: function(x, dim=axes, keepdim=keep)


@_op("ArgMax")
def _argmax(n: Node) -> Call:
    axis, keep = n.attrs.get("axis", 0), bool(n.attrs.get("keepdims", 1))
    return lambda x: torch.argmax(x, axis, keepdim=keep)


@_op("LayerNormalization")
def _layer_norm(n: Node) -> Call:
    shape, epsilon = n.shape(), n.attrs.get("epsilon", 1e-5)
    normalized = shape[n.attrs.get("axis", -1) :]
    return lambda x, scale, bias=None: F.layer_norm(x, normalized, scale, bias, epsilon)


@_op("BatchNormalization")
def _batch_norm(n: Node) -> Call:
    epsilon = n.attrs.get("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


@_op("Scaler")
def _scaler(n: Node) -> Call:
    offset, scale = torch.tensor(n.attrs["offset"]), torch.tensor(n.attrs["scale"])
    return lambda x: (x - offset) * scale


# Contractions and windows.


@_op("Gemm")
def _gemm(n: Node) -> Call:
    alpha, beta = n.attrs.get("alpha", 1.0), n.attrs.get("beta", 1.0)
    left, right = n.attrs.get("transA", 0), n.attrs.get("transB", 0)
    if alpha == beta == 1 and not left and n.has(2) and len(n.shape(2)) == 1:
        return lambda a, b, c: F.linear(a, b if right else b.t(), c)

    def call(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.t() if left else a) @ (b.t() if right else b) * alpha
        return product if c is None else product + beta * c

    return call


@dataclass(frozen=True)
class _Window:
    """How a window moves; `begin` and `end` are the padding of each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def even(self) -> bool:
        return self.begin == self.end

    def pad(self, x: Tensor, fill: float) -> Tensor:
        pairs = list(zip(self.begin, self.end))
        return F.pad(x, [p for pair in reversed(pairs) for p in pair], value=fill)


def _window(n: Node, kernel: Sequence[int]) -> _Window:
    axes = len(kernel)
    stride = tuple(n.attrs.get("strides", [1] * axes))
    dilation = tuple(n.attrs.get("dilations", [1] * axes))
    auto = n.attrs.get("auto_pad", "NOTSET")
    pads = tuple(n.attrs.get("pads", [0] * 2 * axes))
    begin, end = pads[:axes], pads[axes:]
    if auto.startswith("SAME"):
        sizes = n.shape()[2:]
        total = [max((-(-i // s) - 1) * s + (k - 1) * d + 1 - i, 0) for i, k, s, d in zip(sizes, kernel, stride, dilation)]
        less = tuple(t // 2 for t in total)
        more = tuple(t - l for t, l in zip(total, less))
        begin, end = (less, more) if auto == "SAME_UPPER" else (more, less)
    return _Window(tuple(kernel), stride, dilation, begin, end)


@_op("Conv")
def _conv(n: Node) -> Call:
    window, groups = _window(n, n.shape(1)[2:]), n.attrs.get("group", 1)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(window.kernel)]
    if window.even:
        return lambda x, w, b=None: function(x, w, b, window.stride, window.begin, window.dilation, groups)
    return lambda x, w, b=None: function(window.pad(x, 0), w, b, window.stride, 0, window.dilation, groups)


@_op("ConvTranspose")
def _conv_transpose(n: Node) -> Call:
    window, groups = _window(n, n.shape(1)[2:]), n.attrs.get("group", 1)
    if not window.even or n.attrs.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in n.attrs:
        raise UnsupportedOp("ConvTranspose with uneven or computed padding has no translation to torch")
    more = tuple(n.attrs.get("output_padding", [0] * len(window.kernel)))
    function = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}[len(window.kernel)]
    return lambda x, w, b=None: function(x, w, b, window.stride, window.begin, more, groups, window.dilation)


@_op("MaxPool")
def _max_pool(n: Node) -> Call:
    window, ceil = _window(n, n.attrs["kernel_shape"]), bool(n.attrs.get("ceil_mode", 0))
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(window.kernel)]
    if window.even:
        return lambda x: function(x, window.kernel, window.stride, window.begin, window.dilation, ceil)
    return lambda x: function(window.pad(x, -math.inf), window.kernel, window.stride, 0, window.dilation, ceil)


@_op("AveragePool")
def _average_pool(n: Node) -> Call:
    window, ceil = _window(n, n.attrs["kernel_shape"]), bool(n.attrs.get("ceil_mode", 0))
    if not window.even:
        raise UnsupportedOp("AveragePool with uneven padding has no translation to torch")
    function = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(window.kernel)]
    counted = bool(n.attrs.get("count_include_pad", 0))
    return lambda x: function(x, window.kernel, window.stride, window.begin, ceil, counted)


@_op("Resize", "Upsample")
def _resize(n: Node) -> Call:
    mode, where = n.attrs.get("mode", "nearest"), n.attrs.get("coordinate_transformation_mode", "half_pixel")
    shape = n.shape()
    sizes = n.values(3) if n.has(3) else [int(s * f) for s, f in zip(shape, n.values(len(n.inputs) - 1))]
    size, whole = sizes[2:], all(b % a == 0 for a, b in zip(shape, sizes))
    rounding = n.attrs.get("nearest_mode", "round_prefer_floor")
    repeats = rounding == "floor" if where == "asymmetric" else where.endswith("half_pixel") and rounding.startswith("round")
    if tuple(sizes[:2]) == shape[:2] and len(size) == 2:
        if mode == "nearest" and whole and repeats:
            return lambda x, *_: F.interpolate(x, size, mode="nearest")
        if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
            corners = where == "align_corners"
            return lambda x, *_: F.interpolate(x, size, mode="bilinear", align_corners=corners)
    raise UnsupportedOp(f"Resize from {shape} to {tuple(sizes)} with mode {mode} and {where} has no translation to torch")


# Recurrent layers: ONNX's gates are in another order, and its results have the directions on an axis of their own.

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}  # where torch's gates are among ONNX's


@_op("LSTM", "GRU")
def _recurrent(n: Node) -> Call:
    hidden, gates = n.attrs["hidden_size"], GATES[n.op]
    directions = n.shape(1)[0]
    plain = n.attrs.get("direction", "forward") != "reverse" and not n.attrs.get("layout", 0) and not n.has(4) and not n.has(7)
    if not plain or "activations" in n.attrs or "clip" in n.attrs or (n.op == "GRU" and not n.attrs.get("linear_before_reset", 0)):
        raise UnsupportedOp(f"{n.op} of this kind has no translation to torch")
    if not all(n.fixed[1:4]):
        raise UnsupportedOp(f"{n.op} with computed weights has no translation to torch")

    def reorder(rows: Tensor) -> Tensor:
        return torch.cat([rows.split(hidden)[g] for g in gates]).clone()

    weights: list[Tensor] = []
    for d in range(directions):
        both = n.inputs[3][d].split(len(gates) * hidden) if n.has(3) else ()
        weights += [reorder(n.inputs[1][d]), reorder(n.inputs[2][d]), *map(reorder, both)]
    states, biased, bidirectional = len(GATES) - (n.op == "GRU"), n.has(3), directions == 2

    def layer(x: Tensor, initial: list[Tensor]) -> Any:
        if n.op == "LSTM":
            return torch.lstm(x, initial, weights, biased, 1, 0.0, False, bidirectional, False)
        return torch.gru(x, initial[0], weights, biased, 1, 0.0, False, bidirectional, False)

    whole: Any = torch.compiler.disable(layer)  # inductor unrolls the steps; the layer of the library is faster

    def call(x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, _: None = None, *initial: Tensor | None) -> tuple[Tensor, ...]:
        steps, batch, _size = x.shape
        given = [s for s in initial if s is not None] or [x.new_zeros(directions, batch, hidden)] * states
        y, *last = whole(x, given)
        return y.reshape(steps, batch, directions, hidden).transpose(1, 2), *last

    return call
