"""Composites that rearrange, select and contract by name: depth and space, one-hot, triangles, einsum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..dims import Dim, dim_product, floordiv
from ..errors import ShapeError
from ..graph import Value
from ..scalar import compute_dtype
from ..types import i64
from .nn import FLOATS, float_cases, normal
from .operators import build, cast, positions, reshape, size, transpose
from .registry import Sample, apply, broadcast_dim, composite

_BLOCKS = ((((2, 12, 3, 5),), {"block": 2}), (((1, 18, 2, 1),), {"block": 3, "mode": "CRD"}))


@composite(samples=float_cases(*_BLOCKS))
def depth_to_space(x: Value, *, block: int, mode: str = "DCR") -> Value:
    """[n, c, h, w] -> [n, c / block**2, h * block, w * block]; the channels begin (DCR) or end (CRD) with the block."""
    n, c, h, w = x.shape
    inner = floordiv(c, block * block)
    if mode == "DCR":
        parts = transpose(reshape(x, (n, block, block, inner, h, w)), (0, 3, 4, 1, 5, 2))
    else:
        parts = transpose(reshape(x, (n, inner, block, block, h, w)), (0, 1, 4, 2, 5, 3))
    return reshape(parts, (n, inner, h * block, w * block))


@composite(samples=float_cases((((2, 3, 4, 6),), {"block": 2}), (((1, 2, 3, 9),), {"block": 3})))
def space_to_depth(x: Value, *, block: int) -> Value:
    """[n, c, h, w] -> [n, block**2 * c, h / block, w / block], the place in the block becoming the channels' first part."""
    n, c, h, w = x.shape
    rows, columns = floordiv(h, block), floordiv(w, block)
    parts = transpose(reshape(x, (n, c, rows, block, columns, block)), (0, 3, 5, 1, 2, 4))
    return reshape(parts, (n, c * block * block, rows, columns))


def _one_hot_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in (*FLOATS, np.int32):
        values = np.array([-1, 3], dtype)
        yield Sample((rng.integers(-7, 9, (2, 5)), values), {"depth": 7, "axis": 2})
        yield Sample((rng.integers(0, 5, (3, 4)).astype(np.int32), values), {"depth": 5, "axis": 0})


@composite(samples=_one_hot_samples)
def one_hot(indices: Value, values: Value, *, depth: Dim, axis: int) -> Value:
    """values[1] where the new axis of size `depth` is at the index, else values[0]; negative indices count from the end."""
    k = cast(indices, i64)
    k = build("where", build("lt", k, 0), build("add", k, size(depth, i64)), k)
    k = reshape(k, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    classes = reshape(positions(depth), (depth, *(1,) * (indices.type.rank - axis)))
    off, on = (apply("gather", values, scalar_index, axis=0) for scalar_index in (size(0, i64), size(1, i64)))
    return build("where", apply("eq", k, classes), on, off)


@composite(samples=float_cases((((5, 7),), {}), (((2, 5, 4),), {"k": -1, "upper": False}), (((3, 3),), {"k": 2})))
def trilu(x: Value, *, k: int = 0, upper: bool = True) -> Value:
    """The upper or lower triangle of the last two axes, up to the k-th diagonal; 0 elsewhere."""
    rows, columns = reshape(positions(x.shape[-2]), (x.shape[-2], 1)), positions(x.shape[-1])
    kept = apply("ge" if upper else "le", columns, build("add", rows, k))
    return build("where", kept, x, 0)


# --- einsum -----------------------------------------------------------------------------------------------------------------

_EQUATIONS: tuple[tuple[str, tuple[tuple[int, ...], ...]], ...] = (
    ("ij,jk->ik", ((5, 17), (17, 3))),
    ("bij, bjk -> bik", ((2, 5, 7), (2, 7, 3))),
    ("bhqd,bhkd->bhqk", ((2, 3, 5, 8), (2, 3, 7, 8))),
    ("...ij,...jk", ((2, 1, 3, 4), (5, 4, 2))),
    ("ij->ji", ((3, 5),)),
    ("ij->", ((3, 5),)),
    ("ii->i", ((4, 4),)),
    ("ii", ((4, 4),)),
    ("i,j->ij", ((3,), (5,))),
    ("i,i", ((7,), (7,))),
    ("ij,jk,kl->il", ((2, 3), (3, 4), (4, 5))),
    ("bnd,d->bn", ((2, 3, 5), (5,))),
    ("...i->...", ((2, 3, 4),)),
)


def _einsum_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for equation, shapes in _EQUATIONS:
        yield Sample(normal(rng, np.float32, *shapes), {"equation": equation})
    yield Sample(normal(rng, np.float64, (3, 4), (4, 5)), {"equation": "ij,jk->ki"})


Labels = tuple[str, ...]


@composite(samples=_einsum_samples)
def einsum(*xs: Value, equation: str) -> Value:
    """Sums of products by Einstein's convention, as in NumPy, `...` included; operands of one dtype.

    Contracts from left to right, each pair as one matmul.
    """
    operands, result = _parse(equation, [x.type.rank for x in xs])
    terms = [_distinct(x, labels) for x, labels in zip(xs, operands, strict=True)]
    total, labels = terms[0]
    for k, (x, x_labels) in enumerate(terms[1:], 1):
        needed = set(result).union(*(later for _, later in terms[k + 1 :]))
        total, labels = _contract(total, labels, x, x_labels, needed)
    total, labels = _sum_out(total, labels, set(result))
    return transpose(total, tuple(labels.index(a) for a in result))


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[Labels], Labels]:
    """The labels of each operand's axes and of the result's; the axes of `...` are labelled 0, 1, ... from the right."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    operands = []
    for term, rank in zip(left.split(","), ranks, strict=False):
        before, dots, after = term.partition("...")
        hidden = rank - len(before) - len(after)
        if hidden < 0 or (hidden and not dots):
            raise ShapeError(f"{term!r} in {equation!r} does not label {rank} axes")
        operands.append((*before, *(str(k) for k in reversed(range(hidden))), *after))
    if len(operands) != len(ranks) or len(left.split(",")) != len(ranks):
        raise ShapeError(f"{equation!r} does not name {len(ranks)} operands")
    used = [a for labels in operands for a in labels]
    ellipsis = tuple(sorted({a for a in used if a.isdigit()}, key=int, reverse=True))
    if arrow:
        before, dots, after = right.partition("...")
        result: Labels = (*before, *(ellipsis if dots else ()), *after)
    else:
        result = (*ellipsis, *sorted({a for a in used if used.count(a) == 1 and not a.isdigit()}))
    if len(set(result)) != len(result) or not set(result) <= set(used):
        raise ShapeError(f"the result of {equation!r} repeats a label or names an unknown one")
    return operands, result


def _distinct(x: Value, labels: Labels) -> tuple[Value, Labels]:
    """x with only the diagonal kept where two of its axes have one label."""
    for at, label in enumerate(labels):
        first = labels.index(label)
        if first != at:
            marks = [
                apply("iota", shape=tuple(x.shape[at] if k == a else 1 for k in range(x.type.rank)), axis=a, dtype=i64)
                for a in (first, at)
            ]
            x = apply("reduce_sum", build("where", apply("eq", *marks), x, 0), axes=(at,), keepdims=False)
            return _distinct(x, labels[:at] + labels[at + 1 :])
    return x, labels


def _sum_out(x: Value, labels: Labels, needed: set[str]) -> tuple[Value, Labels]:
    axes = tuple(k for k, a in enumerate(labels) if a not in needed)
    if axes:
        x = apply("reduce_sum", x, axes=axes, keepdims=False)
    return x, tuple(a for a in labels if a in needed)


def _contract(a: Value, a_labels: Labels, b: Value, b_labels: Labels, needed: set[str]) -> tuple[Value, Labels]:
    """Two operands as one batched matmul [*batch, m, k] @ [*batch, k, n]."""
    a, a_labels = _sum_out(a, a_labels, needed | set(b_labels))
    b, b_labels = _sum_out(b, b_labels, needed | set(a_labels))
    batch = [x for x in a_labels if x in b_labels and x in needed]
    inner = [x for x in a_labels if x in b_labels and x not in needed]
    rows = [x for x in a_labels if x not in b_labels]
    columns = [x for x in b_labels if x not in a_labels]
    a_sizes, b_sizes = dict(zip(a_labels, a.shape, strict=True)), dict(zip(b_labels, b.shape, strict=True))

    def grouped(x: Value, labels: Labels, *groups: list[str]) -> Value:
        sizes = dict(zip(labels, x.shape, strict=True))
        x = transpose(x, tuple(labels.index(n) for g in (batch, *groups) for n in g))
        return reshape(x, (*(sizes[n] for n in batch), *(dim_product(sizes[n] for n in g) for g in groups)))

    product = apply("matmul", grouped(a, a_labels, rows, inner), grouped(b, b_labels, inner, columns))
    shape = [broadcast_dim(a_sizes[n], b_sizes[n]) for n in batch]
    shape += [a_sizes[n] for n in rows] + [b_sizes[n] for n in columns]
    return reshape(product, tuple(shape)), (*batch, *rows, *columns)


# --- attention --------------------------------------------------------------------------------------------------------------


def _attention_samples(rng: np.random.Generator) -> Iterable[Sample]:
    for dtype in FLOATS:
        q, k, v = normal(rng, dtype, (2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 9))
        yield Sample((q, k, v), {})
        yield Sample((q, k, v, rng.standard_normal((5, 7)).astype(dtype)), {"scale": 0.5})
        yield Sample((q, k[:, :2], v[:, :2]), {"causal": True, "offset": 2})
    mask = np.tril(np.ones((5, 7), bool), 1)
    yield Sample((*normal(rng, np.float32, (1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 8)), mask), {"softcap": 2.0})


@composite(samples=_attention_samples)
def attention(
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
    offset: Dim = 0,
    softcap: float = 0.0,
) -> Value:
    """softmax(q @ k^T * scale + mask) @ v for q[b, h, s, d], k[b, h / g, t, d] and v[b, h / g, t, e].

    `scale` is 1 / sqrt(d) if None.  A bool mask says which keys a query sees, a float one is added; it broadcasts to
    [b, h, s, t].  `causal`: query i sees the keys up to i + offset.  `softcap` c limits scores to c * tanh(score / c).
    """
    if not q.type.rank == k.type.rank == v.type.rank == 4:
        raise ShapeError("query, key and value need four axes: batch, heads, sequence, features")
    b, heads, s, d = q.shape
    shared, t = k.shape[1], k.shape[2]
    if scale is None:
        if not isinstance(d, int):
            raise ShapeError(f"the scale must be given where the number of features ({d}) is symbolic")
        scale = 1 / math.sqrt(d)
    grouped = shared != heads
    if grouped:  # several query heads read one key head: they become rows of one matmul
        q = reshape(q, (b, shared, floordiv(heads, shared) * s, d))
    # scores of narrow floats stay in f32 until the softmax has bounded them
    scores = apply("matmul", build("mul", q, scale), transpose(k, (0, 1, 3, 2)), out=compute_dtype(q.dtype))
    scores = reshape(scores, (b, heads, s, t))
    if softcap:
        scores = build("mul", apply("tanh", build("mul", scores, 1 / softcap)), softcap)
    if mask is not None and mask.dtype.kind == "b":
        scores = build("where", mask, scores, -math.inf)
    elif mask is not None:
        scores = build("add", scores, cast(mask, scores.dtype))
    if causal:
        last = build("add", reshape(positions(s), (s, 1)), size(offset, i64))
        scores = build("where", apply("le", positions(t), last), scores, -math.inf)
    weights = cast(apply("softmax", scores, axis=3), v.dtype)
    if grouped:
        weights = reshape(weights, (b, shared, floordiv(heads, shared) * s, t))
    return reshape(apply("matmul", weights, v), (b, heads, s, v.shape[3]))
