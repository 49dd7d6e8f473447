"""The profile of a model: what calibration saw of each value, kept as readable text, without the data.

Everything is said of the *prepared* graph, the model after all passes that leave its layout alone, and of its values by their
stable names.  A profile knows the graph by its digest.  Histograms have one grid for all profiles: 2048 equal bins around zero whose
range is a power of two, so that doubling the range joins pairs of bins and profiles of parts of the data merge into exactly the
profile of the whole.

    {"octavo profile": 1,
     "graph": "5a0d7b1f6f7e2f0c9b2d3e4f5a6b7c8d",
     "samples": 2,
     "values": {
      "x": {"count": 6, "low": -1.0, "high": 1.5, "exponent": 1, "bins": [[512, 1], [1024, 3, 1], [1792, 1]]},
      "%3": {"count": 4, "low": 0.0, "high": 0.25, "exponent": -1, "bins": [[1024, 4]], "channel_max": [0.25, 0.0]}
    }}

`bins` are runs of bins that are not empty, each with the number of its first bin.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import QuantError
from ...ir.files import replacing
from ...ir.graph import Graph, Node, Value
from ...ir.ops.registry import OPS, op_def
from ...ir.text import digest, value_names
from ...ir.types import f32
from ..layout import layout
from ..manager import run_passes
from ..pipeline import PIPELINE
from .ranges import BINS, DEFAULT, find_range

__all__ = ["BINS", "Profile", "Stats", "channel_axis", "observed", "prepared", "value_names"]

VERSION = 1
LEAST_EXPONENT, GREATEST_EXPONENT = -116, 128  # of histograms: a bin of the least is 2**-126, the least normal number
UNIT = 2.0**-149  # the least f32 above zero: every f32 is a whole number of these
PREPARATION = PIPELINE[: PIPELINE.index(layout)]
ROUNDS = 10  # of preparation: what the last passes recognise, the first may simplify further
CONTRACTIONS = ("conv", "matmul")


def prepared(graph: Graph) -> Graph:
    """The graph on which calibration and quantization work: simplified, channels first, the same object if it is prepared already."""
    for _ in range(ROUNDS):
        result, _ = run_passes(graph, PREPARATION)
        if result is graph:
            break
        graph = result
    return graph


def observed(graph: Graph) -> list[Value]:
    """The f32 values of a prepared graph that calibration watches, in the order of computation; none without conv and matmul.

    These are the operands and results of every conv and matmul, and all others that might be stored.  Left out is what stays in
    registers because its only reader is a pointwise op without another operand to wait for, and what holds elements of one value only.
    """
    if not any(n.op in CONTRACTIONS for n in graph.nodes):
        return []
    outputs = set(graph.roots)
    return [
        v
        for n in graph.nodes
        if n.op not in ("const", "variable")
        for v in n.outputs
        if v.dtype is f32 and (v in outputs or n.op in CONTRACTIONS or _might_be_stored(n, graph.users[n]))
    ]


def _might_be_stored(node: Node, users: Sequence[Node]) -> bool:
    if any(user.op in CONTRACTIONS for user in users):
        return True
    if _operands(node) == 1 and op_def(node.op).kind == "index":
        return False
    return len(users) > 1 or any(op_def(user.op).kind != "pointwise" or _operands(user) > 1 for user in users)


def _operands(node: Node) -> int:
    return sum(not v.is_const for v in node.inputs)


def channel_axis(graph: Graph, v: Value) -> int | None:
    """The axis of a value's channels, where their number is known: 1 for a convolution's operand or result, the last for a matmul's,
    and 1 again for what pools alone read.

    A matmul's second operand has none.
    """
    axis = None
    readers = graph.users[v.node]
    if v.node.op == "conv" or any(n.op == "conv" and n.inputs[0] == v for n in readers):
        axis = 1
    elif v.node.op == "matmul" or any(n.op == "matmul" and n.inputs[0] == v for n in readers):
        axis = v.type.rank - 1
    elif v.type.rank > 2 and any(n.op == "window" or (n.op in OPS and OPS[n.op].kind == "reduction") for n in readers):
        axis = 1
    return axis if axis is not None and isinstance(v.shape[axis], int) else None


@dataclass(frozen=True)
class Stats:
    """What was seen of one value over all samples.  Raises QuantError for numbers that no value can have.

    count: elements, infinite ones left out (masks have them); low, high: the least and greatest of them, 0 where count is 0.
    exponent, bins: numbers of elements in 2048 equal bins over (-2**exponent, 2**exponent), positive ones from bin 1024 on; a bin
    holds its end nearer to zero, and zero is in bin 1024.
    channel_max: the largest |x| for each index of the channel axis (see `channel_axis`), empty where there is none.
    channel_sum: the sum for each of these channels in units of 2**-149, whole numbers so that order cannot matter.
    """

    count: int
    low: float
    high: float
    exponent: int
    bins: tuple[int, ...]
    channel_max: tuple[float, ...] = ()
    channel_sum: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise QuantError(f"the range {self.low} to {self.high} is not finite")
        if self.low > self.high:
            raise QuantError(f"the range {self.low} to {self.high} is upside down: its least is above its greatest")
        if not LEAST_EXPONENT <= self.exponent <= GREATEST_EXPONENT or max(-self.low, self.high) >= 2.0**self.exponent:
            raise QuantError(f"the range {self.low} to {self.high} does not fit a histogram up to 2**{self.exponent}")
        if len(self.bins) != BINS or min(self.bins) < 0 or sum(self.bins) != self.count:
            raise QuantError(f"the histogram must have {BINS} counts of 0 or more that add up to {self.count}")
        if not all(0 <= m < 2.0**self.exponent for m in self.channel_max):
            raise QuantError("the largest magnitudes by channel must be from 0 to the largest of the value")

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """The mean for each channel, rounded once; empty where there is none."""
        each = self.count // max(len(self.channel_sum), 1)
        return tuple(total / (each << 149) if each else 0.0 for total in self.channel_sum)

    def merge(self, other: Stats) -> Stats:
        """What one calibration with both parts of the data would have seen, exactly.  Raises QuantError for other channels."""
        if not self.count or not other.count:
            return self if self.count else other
        if len(self.channel_max) != len(other.channel_max) or len(self.channel_sum) != len(other.channel_sum):
            raise QuantError("the parts have different numbers of channels")
        exponent = max(self.exponent, other.exponent)
        bins = widen(np.array(self.bins), exponent - self.exponent) + widen(np.array(other.bins), exponent - other.exponent)
        return Stats(
            self.count + other.count,
            min(self.low, other.low),
            max(self.high, other.high),
            exponent,
            tuple(bins.tolist()),
            tuple(map(max, self.channel_max, other.channel_max)),
            tuple(a + b for a, b in zip(self.channel_sum, other.channel_sum, strict=True)),
        )


def widen(bins: np.ndarray, doublings: int) -> np.ndarray:
    """A histogram's counts over a range that is 2**doublings times as wide."""
    if doublings == 0:
        return bins
    result = np.zeros_like(bins)
    magnitude = np.arange(BINS // 2) >> min(doublings, 62)
    np.add.at(result, BINS // 2 + magnitude, bins[BINS // 2 :])
    np.add.at(result, BINS // 2 - 1 - magnitude, bins[BINS // 2 - 1 :: -1])
    return result


@dataclass(frozen=True)
class Profile:
    """What calibration saw of a model's values: digest of the prepared graph, number of samples, name -> `Stats`."""

    graph: str
    samples: int
    values: Mapping[str, Stats] = field(repr=False)

    def check(self, graph: Graph) -> None:
        """Raises QuantError unless this profile is of that prepared graph."""
        if digest(graph) != self.graph:
            raise QuantError(
                f"the profile is of another graph ({self.graph}) than this model prepared ({digest(graph)}); "
                "calibrate this very model, with the same fixed dimensions"
            )

    def merge(self, other: Profile) -> Profile:
        """The profile of both parts of the data together.  Raises QuantError for profiles of different graphs."""
        if self.graph != other.graph or self.values.keys() != other.values.keys():
            raise QuantError(
                f"profiles of different graphs ({self.graph} and {other.graph}) cannot be merged; calibrate one model for both"
            )
        values = {name: _named(name, lambda a=a, n=name: a.merge(other.values[n])) for name, a in self.values.items()}
        return Profile(self.graph, self.samples + other.samples, values)

    def range(self, name: str, method: str = DEFAULT, **options: Any) -> tuple[float, float]:
        """The range to quantize a value with, by a method of `ranges.METHODS`; it always contains 0, which stays exact.

        options: percent=99.99 of "percentile", levels of "entropy" and "mse".  Raises QuantError for a value that was not observed, a
        method that does not exist and options that it does not take.
        """
        stats = self.values.get(name)
        if stats is None:
            raise QuantError(f"the profile has no value {name!r}; calibration watches operands and results of conv and matmul")
        return find_range(stats.low, stats.high, stats.exponent, np.array(stats.bins), method, **options)

    def save(self, path: str | Path) -> None:
        """Write the profile as text; the file appears whole or not at all."""
        with replacing(path) as temporary:
            temporary.write_text("".join(_lines(self)), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Profile:
        """Read what `save` wrote.  Raises QuantError for another or a damaged file, OSError for one that is not there."""
        try:
            data = json.loads(Path(path).read_bytes())
            if not isinstance(data, dict) or "octavo profile" not in data:
                raise ValueError("it does not say 'octavo profile'")
            if data["octavo profile"] != VERSION:
                raise ValueError(f"it is of version {data['octavo profile']}, not {VERSION}")
            if not isinstance(data["graph"], str) or type(data["samples"]) is not int or data["samples"] < 1:
                raise ValueError("its graph must be a digest and its samples a number above 0")
            values = {name: _named(name, lambda e=entry: _stats(e)) for name, entry in data["values"].items()}
            return Profile(data["graph"], data["samples"], values)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, QuantError) as e:
            what = f"it has no {e}" if isinstance(e, KeyError) else str(e)
            raise QuantError(f"{path} is no profile, or a damaged one: {what}; calibrate again") from None


def _named(name: str, make: Any) -> Stats:
    try:
        return make()
    except (QuantError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        what = f"no {e}" if isinstance(e, KeyError) else str(e)
        raise QuantError(f"value {name!r}: {what}") from None


def _lines(profile: Profile) -> Iterator[str]:
    """The profile as JSON, a value on each line."""
    yield f'{{"octavo profile": {VERSION},\n "graph": {json.dumps(profile.graph)},\n "samples": {profile.samples},\n "values": {{'
    for k, (name, s) in enumerate(profile.values.items()):
        facts = [f'"count": {s.count}, "low": {_number(s.low)}, "high": {_number(s.high)}, "exponent": {s.exponent}']
        facts.append(f'"bins": {json.dumps(list(_runs(s.bins)))}')
        if s.channel_max:
            facts.append(f'"channel_max": [{", ".join(map(_number, s.channel_max))}]')
        if s.channel_sum:
            shift = min(149, *((n & -n).bit_length() - 1 for n in s.channel_sum if n), 149)
            facts.append(f'"channel_sum": {json.dumps({"exponent": shift - 149, "sums": [n >> shift for n in s.channel_sum]})}')
        yield f"{',' if k else ''}\n  {json.dumps(name)}: {{{', '.join(facts)}}}"
    yield "\n}}\n"


def _number(x: float) -> str:
    """The shortest text that is this f32 again."""
    return repr(float(str(np.float32(x))))


def _runs(bins: Sequence[int]) -> Iterator[list[int]]:
    """Runs of counts that are not 0, each after the number of its first bin."""
    run: list[int] = []
    for k, n in enumerate(bins):
        if n and not run:
            run = [k]
        if n:
            run.append(n)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _stats(entry: Any) -> Stats:
    bins = [0] * BINS
    for first, *counts in entry["bins"]:
        if not all(type(n) is int for n in (first, *counts)) or not 0 <= first <= BINS - len(counts):
            raise ValueError(f"its histogram has no bins {first} to {first + len(counts) - 1}")
        bins[first : first + len(counts)] = counts
    sums = entry.get("channel_sum", {"exponent": 0, "sums": []})
    whole = all(type(n) is int for n in (entry["count"], entry["exponent"], sums["exponent"], *sums["sums"]))
    if not whole or not -149 <= sums["exponent"] <= GREATEST_EXPONENT:
        raise ValueError("its count, exponents and sums must be whole numbers")
    return Stats(
        entry["count"],
        _single(entry["low"]),
        _single(entry["high"]),
        entry["exponent"],
        tuple(bins),
        tuple(map(_single, entry.get("channel_max", ()))),
        tuple(n << (sums["exponent"] + 149) for n in sums["sums"]),
    )


def _single(x: Any) -> float:
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise ValueError(f"{x!r} is no number")
    return float(np.float32(x))
