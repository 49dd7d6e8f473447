"""Ops that bring their own loops."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.errors import CodegenError, UnsupportedOp
from ...ir.graph import Graph
from ...ir.loops import Alloc, For, LoopFunction, Names, Stmt, Tensor
from ...ir.ops.registry import op_def
from .access import as_scalars
from .grid import on_grid
from .kernel import const, function, parameters


def lower_opaque(body: Graph, grid: bool = False) -> LoopFunction:
    """The loops that the body's one op defines; on a grid its parallel iterations are threads, and all else is one thread's.

    Raises UnsupportedOp where it has none.
    """
    nodes = [n for n in body.nodes if op_def(n.op).kind != "leaf"]
    if len(nodes) != 1:
        raise CodegenError(f"kernel {body.name} holds {len(nodes)} ops, one of which has loops of its own")
    (node,) = nodes
    definition = op_def(node.op)
    if definition.loops is None:
        raise UnsupportedOp(f"{node!r}: op {node.op!r} has no native code yet")
    params = parameters(body)
    by_value = dict(zip(body.inputs, params.inputs, strict=True))
    ins = [Tensor(by_value[v], v.shape) for v in node.inputs]
    outs = [Tensor(b, t.shape) for b, t in zip(params.outputs, node.types, strict=True)]
    attrs = {k: as_scalars(a) for k, a in node.attrs.items()}
    names = Names()
    statements = _sharing_memory(names, definition.loops(names, ins, outs, **attrs))
    return function(body, params, on_grid(names, statements) if grid else statements)


def _sharing_memory(names: Names, statements: Sequence[Stmt]) -> list[Stmt]:
    """A kernel's statements become functions of their own: those from the first `Alloc` on stay together."""
    at = next((k for k, s in enumerate(statements) if isinstance(s, Alloc)), len(statements))
    together = [For(names.var("once"), const(1), tuple(statements[at:]))] if at < len(statements) else []
    return [*statements[:at], *together]
