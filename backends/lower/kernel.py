"""What every template starts from: a kernel's body with its parameters bound to buffers, and the loops that all templates share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...ir.dims import Dim, symbols_of
from ...ir.graph import Graph, Value
from ...ir.loops import Buf, Const, Expr, For, If, LoopFunction, Names, Stmt, Var, size_expr
from ...ir.ops.registry import op_def
from ...ir.order import sizes_in
from ...ir.types import i64
from .access import Access, in_memory

UNROLL = 4


@dataclass(frozen=True)
class Params:
    """The buffers of a kernel: one for each input and output of its body."""

    inputs: tuple[Buf, ...]
    outputs: tuple[Buf, ...]


def parameters(body: Graph) -> Params:
    """Buffers for the inputs and outputs of a body."""
    return Params(
        tuple(Buf(f"x{k}", v.dtype) for k, v in enumerate(body.inputs)),
        tuple(Buf(f"y{k}", v.dtype) for k, v in enumerate(body.outputs)),
    )


def access(body: Graph, params: Params) -> Access:
    """Reads of the body's inputs go to their buffers."""
    return Access({v: in_memory(b, v.shape) for v, b in zip(body.inputs, params.inputs, strict=True)})


def body_symbols(body: Graph) -> tuple[str, ...]:
    """The size symbols that the body mentions, in order of first appearance."""
    found: dict[str, None] = {}

    for node in body.nodes:
        for d in sizes_in((*(t.shape for t in node.types), *node.attrs.values())):
            found |= dict.fromkeys(sorted(symbols_of(d)))
    return tuple(found)


def function(body: Graph, params: Params, statements: Sequence[Stmt]) -> LoopFunction:
    """The loop function of a body that these statements compute."""
    return LoopFunction(body.name, (*params.inputs, *params.outputs), len(params.inputs), body_symbols(body), tuple(statements))


def const(value: int) -> Const:
    """An index as an expression."""
    return Const(value, i64)


def operations(body: Graph) -> int:
    """A rough count of scalar operations for one element of the result."""
    weights = {"pointwise": 2, "index": 1, "reduction": 2}
    return max(1, sum(weights.get(op_def(n.op).kind, 0) for n in body.nodes))


Element = Callable[[Expr, Var], Sequence[Stmt]]  # (offset of lane 0, lane) -> statements of one vector
Ask = Callable[[Expr, int], Sequence[Stmt]]  # (offset of a group of vectors, its elements) -> prefetches


def spread(names: Names, size: Dim, lanes: int, element: Element, unroll: int = 1, ask: Ask | None = None) -> list[Stmt]:
    """Run `element` over 0..size, a vector at a time: whole vectors (`unroll` at once, after `ask`), then a masked rest."""
    statements: list[Stmt] = []
    extent = size_expr(size)

    def vectors(count: Expr, start: Expr, step: int) -> None:
        if isinstance(count, Const) and count.value == 0:
            return
        outer, inner, lane = names.var("q"), names.var("u"), names.var("v")
        group = start + outer * (lanes * step)
        offset = group + (inner * lanes if step > 1 else 0)
        body: Stmt = For(lane, const(lanes), tuple(element(offset, lane)), "vector")
        if step > 1:
            body = For(inner, const(step), (body,), "unroll")
        statements.append(For(outer, count, (*(ask(group, lanes * step) if ask else ()), body)))

    start: Expr = const(0)
    if unroll > 1:
        count = extent // (lanes * unroll)
        vectors(count, start, unroll)
        start = count * (lanes * unroll)
    vectors((extent - start) // lanes, start, 1)
    statements += remainder(names, extent % lanes, extent - extent % lanes, lanes, element)
    return statements


def spread_block(
    names: Names, size: Dim, block: int, number: Expr, lanes: int, element: Element, unroll: int = 1, ask: Ask | None = None
) -> list[Stmt]:
    """`spread` over the elements of 0..size that block `number` of `block` elements, a multiple of `lanes`, has."""
    start = number * block
    asked: Ask | None = (lambda offset, count: ask(start + offset, count)) if ask else None
    whole = spread(names, block, lanes, lambda offset, lane: element(start + offset, lane), unroll, asked)
    if isinstance(size, int) and size % block == 0:
        return whole
    left = size_expr(size) - start
    q, v = names.var("q"), names.var("v")
    vectors = For(q, left // lanes, (For(v, const(lanes), tuple(element(start + q * lanes, v)), "vector"),))
    rest = remainder(names, left % lanes, left - left % lanes, lanes, lambda offset, lane: element(start + offset, lane))
    return [If(left >= block, tuple(whole), (vectors, *rest))]


def remainder(names: Names, rest: Expr, start: Expr, lanes: int, element: Element) -> list[Stmt]:
    """Run `element` for the first `rest` < lanes lanes at `start`, if there are any."""
    lane = names.var("v")
    masked = For(lane, const(lanes), tuple(element(start, lane)), "vector", limit=rest)
    if isinstance(rest, Const):
        return [masked] if rest.value else []
    return [If(const(0) < rest, (masked,))]


def loops(names: Names, shape: Sequence[Dim], body: Callable[[tuple[Expr, ...]], Sequence[Stmt]], hint: str = "k") -> list[Stmt]:
    """Nested serial loops over a shape."""
    variables = tuple(names.var(hint) for _ in shape)
    statements: Sequence[Stmt] = body(variables)
    for v, d in reversed(list(zip(variables, shape, strict=True))):
        statements = (For(v, size_expr(d), tuple(statements)),)
    return list(statements)


def reaches(body: Graph, op: str, value: Value) -> bool:
    """Whether `value` is computed through an op of that name."""
    stack, seen = [value.node], set()
    while stack:
        node = stack.pop()
        if node.op == op:
            return True
        if node not in seen:
            seen.add(node)
            stack.extend(v.node for v in node.inputs)
    return False
