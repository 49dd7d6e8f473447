"""Random networks of 8-bit values in QDQ form: as exporters write them, with any scales, or by `octavo.quantize` of a network of floats.

A network grows layer by layer and is evaluated on the way: scales follow from what values are, times a random factor, so that some
clip and some waste half of the range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from octavo.ir.dims import Dim, symbol
from octavo.ir.errors import QuantError
from octavo.ir.evaluate import evaluate_node, evaluate_roots
from octavo.ir.graph import Graph, Value, const_value, input_value
from octavo.ir.ops.registry import apply
from octavo.ir.text import digest, value_names
from octavo.ir.types import TensorType, f32, i8, u8
from octavo.passes.quantize.profile import BINS, Profile, Stats, observed, prepared
from octavo.passes.quantize.quantize import quantize

from .generate import Case, Feeds

BATCH = symbol("n")
BATCHES = (1, 2, 3, 5, 8, 17)
CHANNELS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 33, 65)
SIZES = (1, 3, 4, 5, 7, 8, 9)
LARGEST = 1 << 13  # elements of a value


def generate_quantized(seed: int, nodes: int = 12) -> Case:
    """The case of that seed, of about `nodes` operations besides quantize and dequantize."""
    rng = np.random.default_rng(seed)
    by_profile = bool(rng.random() < 0.4)
    network = Network(rng, quantizes=not by_profile)
    for _ in range(3 * nodes):
        network.grow()
        if network.count >= nodes:
            break
    case = network.case(seed)
    if not by_profile:
        return case
    try:
        graph = quantize(case.graph, profile_of(case.graph, case.feeds), weights=str(rng.choice(("max", "mse"))))
    except QuantError:  # no contraction by weights has grown
        return case
    return Case(seed, graph, case.feeds)


def profile_of(graph: Graph, feeds: tuple[Feeds, ...]) -> Profile:
    """What calibration would find, by the reference."""
    graph = prepared(graph)
    names, watched = value_names(graph), observed(graph)
    runs = [evaluate_roots(graph, watched, f) for f in feeds]
    seen = {names[v]: np.concatenate([np.ravel(r[k]) for r in runs]) for k, v in enumerate(watched)}
    return Profile(digest(graph), len(feeds), {name: _stats(x) for name, x in seen.items()})


def _stats(x: np.ndarray) -> Stats:
    low, high = float(x.min()), float(x.max())
    exponent = max(int(np.frexp(max(-low, high))[1]), -116)
    bins = np.minimum(np.trunc(np.abs(x) * 2.0 ** (10 - exponent)), BINS // 2 - 1).astype(int)
    counts = np.bincount(np.where(x < 0, BINS // 2 - 1 - bins, BINS // 2 + bins), minlength=BINS)
    return Stats(x.size, low, high, exponent, tuple(counts.tolist()))


@dataclass
class Network:
    """A network while it grows: its f32 values with their arrays, one for each batch."""

    rng: np.random.Generator
    quantizes: bool
    inputs: list[Value] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    known: dict[Value, list[np.ndarray]] = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        self.batches = tuple(int(b) for b in self.rng.choice(BATCHES, 2))
        batch = BATCH if self.chance(0.6) else self.pick((1, 2, 3))
        spatial = self.pick((0, 1, 2, 2, 2, 3))
        if spatial:
            self.fresh((batch, self.pick(CHANNELS), *(self.pick(SIZES if spatial < 3 else SIZES[:4]) for _ in range(spatial))))
        else:
            self.fresh((batch, *((self.pick(SIZES),) if self.chance(0.5) else ()), self.pick(CHANNELS)))
        self.outputs: list[Value] = []

    # --- choices ---

    def pick(self, options: Any) -> Any:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def recent(self) -> Value:
        return self.pool[-1 - min(int(self.rng.exponential(1.0)), len(self.pool) - 1)]

    # --- values ---

    def fresh(self, shape: tuple[Dim, ...]) -> None:
        """An input: f32, or bytes that are dequantized."""
        dtype = self.pick((u8, i8)) if self.quantizes and self.chance(0.25) else f32
        v = input_value(f"x{len(self.inputs)}", TensorType(dtype, shape))
        self.inputs.append(v)
        shapes = [tuple(b if d is BATCH else d for d in shape) for b in self.batches]
        if dtype is f32:
            self.known[v] = [(self.rng.standard_normal(s) * 2).astype(np.float32) for s in shapes]  # type: ignore[arg-type]
        else:
            self.known[v] = [self.rng.integers(dtype.min, dtype.max + 1, s).astype(dtype.np) for s in shapes]  # type: ignore[arg-type]
            zero = const_value(np.asarray(self.rng.integers(dtype.min, dtype.max + 1), dtype.np))
            v = self.apply("dequantize", v, self.scalar(self.rng.uniform(0.004, 0.05)), zero)
        self.pool.append(v)

    def scalar(self, x: float) -> Value:
        return const_value(np.asarray(x, np.float32))

    def apply(self, op: str, *operands: Value, **attrs: Any) -> Value:
        v = apply(op, *operands, **attrs)
        for x in (x for x in operands if x not in self.known):  # constants, some of them dequantized
            self.known[x] = [evaluate_roots(Graph("constant", (), (x,)), (x,), {})[0]] * len(self.batches)
        runs = [evaluate_node(v.node, [self.known[x][k] for x in operands], {"n": b}) for k, b in enumerate(self.batches)]
        self.known[v] = [np.asarray(r[0]) for r in runs]
        return v

    def quantized(self, x: Value) -> Value:
        """dequantize(quantize(x)): the one that x is already, or another."""
        if not self.quantizes or (x.node.op == "dequantize" and self.chance(0.9)):
            return x
        low = min(0.0, *(float(a.min()) for a in self.known[x]))
        high = max(0.0, *(float(a.max()) for a in self.known[x]))
        dtype = self.pick((u8, u8, i8))
        scale = max((high - low) / 255 * self.rng.uniform(0.5, 2), 1e-6)
        fitting = np.rint(-low / scale) + dtype.min
        zero = fitting if self.chance(0.6) else self.pick((dtype.min, 0, int(self.rng.integers(dtype.min, dtype.max + 1)), dtype.max))
        z = const_value(np.asarray(np.clip(zero, dtype.min, dtype.max), dtype.np))
        s = self.scalar(scale)
        q = self.apply("quantize", x, s, z, to=dtype)
        if self.chance(0.1):
            self.outputs.append(q)
        return self.apply("dequantize", q, s, z)

    def weights(self, shape: tuple[int, ...], channel: int) -> Value:
        spread = 1 / np.sqrt(max(np.prod(shape) / shape[channel], 1))
        if not self.quantizes:
            return const_value((self.rng.standard_normal(shape) * spread).astype(np.float32))
        dtype = self.pick((i8, i8, i8, i8, u8))
        lowest = self.pick((dtype.min, dtype.min + 1))
        integers = self.rng.integers(lowest, dtype.max + 1, shape).astype(dtype.np)
        each = self.chance(0.6)
        sizes = tuple(n if k == channel else 1 for k, n in enumerate(shape)) if each else ()
        scales = (self.rng.uniform(0.2, 2, sizes) * spread / 64).astype(np.float32)
        symmetric = 0 if dtype is i8 else 128
        zero = symmetric if self.chance(0.8) else int(self.rng.integers(dtype.min, dtype.max + 1))
        zeros = const_value(np.full(sizes, zero, dtype.np))
        return apply("dequantize", const_value(integers), const_value(scales), zeros)

    def fits(self, v: Value) -> bool:
        return all(0 < a.size <= LARGEST and np.isfinite(a).all() and np.abs(a).max() < 1e4 for a in self.known[v])

    # --- layers ---

    def grow(self) -> None:
        made = self.pick((self.contraction, self.contraction, self.contraction, self.joined, self.pooled, self.moved))()
        if made is None or not self.fits(made):
            return
        self.count += 1
        if self.chance(0.35):
            made = self.activated(made)
        self.pool.append(self.quantized(made) if self.chance(0.8) else made)

    def contraction(self) -> Value | None:
        x = self.recent()
        image = x.type.rank >= 3 and self.chance(0.9)
        last = x.shape[1] if image else x.shape[-1]
        if not isinstance(last, int) or x.type.rank < 2:
            return None
        read = self.quantized(x)
        if image:
            return self.conv(read, last)
        shape = (last, self.pick(CHANNELS))
        if x.type.rank == 3 and isinstance(x.shape[0], int) and self.chance(0.2):
            shape = (x.shape[0], *shape)
        w = self.weights(shape, len(shape) - 1)
        return self.biased(self.apply("matmul", read, w, out=None), read, w, (shape[-1],))

    def conv(self, x: Value, channels: int) -> Value | None:
        spatial = x.type.rank - 2
        groups = self.pick((1, 1, channels, *(g for g in range(1, channels + 1) if channels % g == 0)))
        kernel = tuple(self.pick((1, 2, 3, 3)) for _ in range(spatial))
        dilations = tuple(self.pick((1, 1, 1, 2)) for _ in range(spatial))
        pads = tuple((self.pick((0, 1, 1)), self.pick((0, 1, 1, 2))) for _ in range(spatial))
        sizes = zip(x.shape[2:], kernel, dilations, pads, strict=True)
        if any(not isinstance(d, int) or d + sum(p) < (k - 1) * e + 1 for d, k, e, p in sizes):
            return None
        out = self.pick(CHANNELS) if groups == 1 else groups * self.pick((1, 1, 2, 3))
        w = self.weights((out, channels // groups, *kernel), 0)
        strides = tuple(self.pick((1, 1, 1, 2)) for _ in range(spatial))
        attrs = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups, "layout": "channels_first", "out": None}
        return self.biased(self.apply("conv", x, w, **attrs), x, w, (out, *(1,) * spatial))

    def biased(self, product: Value, x: Value, w: Value, shape: tuple[int, ...]) -> Value:
        """With a bias or none: quantized with the scales of the sums as they are in files, or floats."""
        if self.chance(0.25):
            return product
        if not self.quantizes or x.node.op != "dequantize" or self.chance(0.2):
            return self.apply("add", product, const_value(self.rng.standard_normal(shape).astype(np.float32)))
        scales = x.node.inputs[1].array * w.node.inputs[1].array
        if self.chance(0.15):
            scales = (scales * 1.5).astype(np.float32)  # no longer that of the sums
        if scales.size > 1:
            scales = scales.reshape(shape)
        integers = self.rng.integers(-(2**14), 2**14, shape).astype(np.int32)
        return self.apply(
            "add", product, apply("dequantize", const_value(integers), const_value(scales), const_value(np.zeros((), np.int32)))
        )

    def activated(self, x: Value) -> Value:
        match self.pick(("relu", "relu", "relu", "clip", "leaky_relu", "sigmoid", "silu", "hard_swish")):
            case "clip":
                low, high = self.pick(((0.0, 6.0), (-1.0, 1.0), (0.0, 1.0)))
                return self.apply("clip", x, self.scalar(low), self.scalar(high))
            case "leaky_relu":
                return self.apply("leaky_relu", x, alpha=self.pick((0.1, 0.01)))
            case op:
                return self.apply(op, x)

    def joined(self) -> Value | None:
        """The sum, largest, product with a constant, or concatenation of values."""
        x = self.recent()
        axis = min(1, x.type.rank - 1)
        if self.chance(0.3):
            fitting = [v for v in self.pool if v.type.rank == x.type.rank and self._but(v, axis) == self._but(x, axis)]
            parts = [self.quantized(v) for v in (x, *(self.pick(fitting) for _ in range(self.pick((1, 1, 2)))))]
            return self.apply("concat", *parts, axis=axis)
        if self.chance(0.2):
            shape = self.pick(((), tuple(d if k == axis and isinstance(d, int) else 1 for k, d in enumerate(x.shape))))
            return self.apply("mul", x, const_value(self.rng.uniform(0.3, 1.5, shape).astype(np.float32)))
        others = [v for v in self.pool if v.shape == x.shape and v != x]
        if not others:
            return None
        operands = self.quantized(x), self.quantized(self.pick(others))
        return self.apply(self.pick(("add", "add", "add", "sub", "max")), *operands)

    def _but(self, v: Value, axis: int) -> tuple[Dim, ...]:
        return (*v.shape[:axis], *v.shape[axis + 1 :])

    def pooled(self) -> Value | None:
        x = self.recent()
        spatial = x.type.rank - 2
        sizes = [d for d in x.shape[2:] if isinstance(d, int)]
        if spatial < 1 or len(sizes) < spatial:
            return None
        x = self.quantized(x)
        op = self.pick(("max_pool", "max_pool", "avg_pool", "global_avg_pool", "global_max_pool"))
        if op.startswith("global"):
            return self.apply(op, x)
        kernel = tuple(min(self.pick((2, 3)), d) for d in sizes)
        pads = tuple((self.pick((0, 1)) if k > 1 else 0,) * 2 for k in kernel)
        attrs = {"kernel": kernel, "strides": tuple(self.pick((1, 2)) for _ in kernel), "pads": pads, "dilations": (1,) * spatial}
        return self.apply(op, x, **attrs, **({"count_include_pad": self.chance(0.5)} if op == "avg_pool" else {}))

    def moved(self) -> Value | None:
        x = self.quantized(self.recent()) if self.chance(0.7) else self.recent()
        rank = x.type.rank
        match self.pick(("pad", "transpose", "flatten", "slice")):
            case "pad":
                low, high = (tuple(0 if k < 2 else self.pick((0, 1, 2)) for k in range(rank)) for _ in range(2))
                return self.apply(
                    "pad", x, low=low, high=high, mode=self.pick(("constant", "constant", "edge")), value=self.pick((0.0, 1.5))
                )
            case "transpose" if rank > 2:
                perm = (0, *(int(k) + 1 for k in self.rng.permutation(rank - 1)))
                return self.apply("transpose", x, perm=perm)
            case "flatten" if rank > 2:
                rest = int(np.prod([d for d in x.shape[1:] if isinstance(d, int)]))
                return self.apply("reshape", x, shape=(x.shape[0], rest)) if rest <= 300 else None
            case "slice" if isinstance(d := x.shape[-1], int) and d > 1:
                starts = (*(0,) * (rank - 1), self.pick((0, 1)))
                return self.apply("slice", x, starts=starts, stops=x.shape, steps=(*(1,) * (rank - 1), self.pick((1, 2))))
        return None

    # --- the result ---

    def case(self, seed: int) -> Case:
        used = {operand for v in self.known for operand in v.node.inputs}
        sinks = [v for v in self.pool if v not in used and v.node.inputs] or [self.apply("relu", self.pool[-1])]
        bytes_ = [v.node.inputs[0] if v.node.op == "dequantize" and self.chance(0.7) else v for v in sinks]
        outputs = tuple(dict.fromkeys((*bytes_, *self.outputs)))
        graph = Graph(f"quantized{seed}", tuple(self.inputs), outputs)
        feeds = tuple({v.node.attrs["name"]: self.known[v][k] for v in self.inputs} for k in range(len(self.batches)))
        return Case(seed, graph, feeds)
