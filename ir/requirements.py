"""What must hold of the sizes that only a run will tell, so that no kernel reads outside its operands.

Type inference takes a size that it does not know to fit: `[n] + [m]` has the type `[max(m,n)]`, which is right where n equals m or one
of them is 1.  These conditions, each a dim that must be 0, go into the signature; a run whose inputs break one is refused.

>>> requirements(graph)                 # of add(x: f32[n], y: f32[m])
{m*n-m-n*max(m,n)+max(m,n): 'add(f32[n], f32[m]) at onnx:sum', ...}

Sizes that the run defines and what a branch of `if_` does are not covered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..ir.dims import Dim, DimExpr, dim_max, dim_product, symbols_of
from ..ir.graph import Graph, Node
from ..ir.ops.registry import OPS
from .expand import expand


def requirements(graph: Graph) -> dict[DimExpr, str]:
    """Each dim over the symbols of the inputs that must be 0, and the node that needs it."""
    known = set(graph.symbols)
    found: dict[DimExpr, str] = {}
    if not known:
        return found
    graphs = [expand(graph)]
    while graphs:
        for node in graphs.pop().nodes:
            graphs += [expand(a) for a in node.attrs.values() if isinstance(a, Graph) and node.op != "if_"]
            for dim in _zeros(node):
                if isinstance(dim, DimExpr) and dim not in found and symbols_of(dim) <= known:
                    operands = ", ".join(str(v.type) for v in node.inputs)
                    found[dim] = f"{node.op}({operands})" + (f" at {node.loc}" if node.loc else "")
    return found


def _above(a: Dim, b: Dim) -> Dim:
    """By how much a is more than b; 0 where it is not."""
    return dim_max(a - b, 0)


def _broadcast(shapes: Iterable[tuple[Dim, ...]], result: tuple[Dim, ...]) -> Iterator[Dim]:
    """Every dim is the result's, or 1."""
    for shape in shapes:
        yield from ((d - 1) * (d - r) for d, r in zip(reversed(shape), reversed(result), strict=False) if d not in (r, 1))


def _zeros(n: Node) -> Iterator[Dim]:
    """What must be 0 for the node to be computed as its type says."""
    for t in n.types:
        yield from (_above(0, d) for d in t.shape if isinstance(d, DimExpr) and len(d.terms) > 1)
    result, shapes = n.types[0].shape, [v.shape for v in n.inputs]
    match n.op:
        case "broadcast_to":
            yield from _broadcast(shapes, result)
        case _ if OPS[n.op].kind == "pointwise":
            yield from _broadcast(shapes, result)
        case "matmul":
            yield from _broadcast([shape[:-2] for shape in shapes], result[:-2])
            yield shapes[0][-1] - shapes[1][-2]
        case "reshape":
            yield dim_product(shapes[0]) - dim_product(result)
        case "conv":
            x, w = shapes
            last = n.attrs.get("layout", "channels_first") == "channels_last"
            yield x[-1 if last else 1] - w[1] * n.attrs.get("groups", 1)
        case "concat":
            axis = n.attrs["axis"]
            yield from (d - r for shape in shapes for k, (d, r) in enumerate(zip(shape, result, strict=True)) if k != axis)
        case "slice":
            for size, start, stop, step in zip(shapes[0], n.attrs["starts"], n.attrs["stops"], n.attrs["steps"], strict=True):
                yield _above(0, start) if step > 0 else _above(-1, stop)
                yield _above(stop, size) if step > 0 else _above(start, size - 1)
        case "pad" if n.attrs.get("mode", "constant") == "reflect":
            for size, low, high in zip(shapes[0], n.attrs["low"], n.attrs["high"], strict=True):
                yield from (_above(amount, size - 1) for amount in (low, high) if amount != 0)
        case "gather" | "gather_elements":
            yield _above(1, shapes[0][n.attrs["axis"]]) * dim_product(shapes[1])  # from nothing, nothing can be read
        case "topk":
            yield _above(n.attrs["k"], shapes[0][n.attrs["axis"]])
        case "scan":
            states, captures = n.attrs["states"], n.attrs.get("captures", 0)
            yield from (shape[0] - n.attrs["length"] for shape in shapes[states : len(shapes) - captures])
