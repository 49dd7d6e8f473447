"""Short ways to write loop IR by hand, for the opaque ops.

A `Load` reads when its statement runs: build it anew wherever memory may have changed, or name its value with `Let`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..dims import Dim, dim_product
from ..loops import Alloc, Buf, Expr, For, Names, Scalar, Stmt, Tensor, Var, as_expr, size_expr
from ..types import DType, i64

STEP_COST = 10  # scalar operations that take as long as a short step of such a loop (see `For`)


def each(
    names: Names, hint: str, extent: Dim | Expr, body: Callable[[Var], Sequence[Stmt]], kind: str = "serial", cost: Dim | None = None
) -> For:
    """A loop of `hint` over 0..extent; see `For` for `cost`."""
    var = names.var(hint)
    count = extent if isinstance(extent, Expr) else size_expr(extent)
    return For(var, count, tuple(body(var)), kind, cost=None if cost is None else size_expr(cost))


def nest(names: Names, hint: str, shape: Sequence[Dim], body: Callable[[tuple[Var, ...]], Sequence[Stmt]]) -> list[Stmt]:
    """Loops over all indices of a shape, in row-major order."""
    variables = tuple(names.var(hint) for _ in shape)
    statements: list[Stmt] = list(body(variables))
    for var, d in reversed(list(zip(variables, shape, strict=True))):
        statements = [For(var, size_expr(d), tuple(statements))]
    return statements


def scratch(names: Names, hint: str, dtype: DType, *shape: Dim) -> tuple[Alloc, Tensor]:
    """Local memory and the statement that allocates it; with no sizes one element, indexed by ()."""
    buf = Buf(names.var(hint).name, dtype, "local", dim_product(shape))
    return Alloc(buf), Tensor(buf, shape)


def fill(names: Names, t: Tensor, value: float) -> For:
    """Every element becomes `value`, in parallel."""
    flat = t.view(dim_product(t.shape))
    return each(names, "f", flat.shape[0], lambda k: [flat.store(k, value)], "parallel", STEP_COST)


def copy(names: Names, target: Tensor, source: Tensor) -> For:
    """All elements of a tensor of the same size, in parallel."""
    size = dim_product(source.shape)
    to, frm = target.view(size), source.view(size)
    return each(names, "c", size, lambda k: [to.store(k, frm[k])], "parallel", STEP_COST)


def add_to(t: Tensor, value: Scalar = 1) -> Stmt:
    """A one-element counter goes up."""
    return t.store((), t[()] + as_expr(value, i64))
