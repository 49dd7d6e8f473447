"""What must hold of the sizes that only a run will tell, so that no kernel reads or writes outside its operands.

Type inference takes a size that it does not know to fit: `[n] + [m]` has the type `[max(m,n)]`, which is right where n equals m or one
of them is 1.  `needs` gives these conditions of a node, each a dim that must be 0.  Those over the inputs' sizes go into the signature
(`requirements`): a run whose inputs break one is refused.  The others, over sizes that the run defines or of nodes that only one branch
of an `if_` runs, become steps of the program, before the node that needs them.

>>> requirements(graph)                 # of add(x: f32[n], y: f32[m])
{m*n-m-n*max(m,n)+max(m,n): 'add(f32[n], f32[m]) at onnx:sum', ...}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .dims import Dim, DimExpr, dim_max, dim_product, divisors, never_negative, symbols_of
from .graph import Graph, Node
from .ops.registry import expand, op_def
from .order import sizes_in


def requirements(graph: Graph) -> dict[DimExpr, str]:
    """Each dim over the symbols of the inputs that must be 0 in every run, and the node that needs it."""
    known = set(graph.symbols)
    found: dict[DimExpr, str] = {}
    graphs = [graph] if known else []
    while graphs:
        for node in graphs.pop().nodes:
            graphs += [a for a in node.attrs.values() if isinstance(a, Graph) and node.op != "if_"]
            for dim, where in needs(node):
                if symbols_of(dim) <= known:
                    found.setdefault(dim, where)
    return found


def needs(node: Node, loc: str = "") -> Iterator[tuple[DimExpr, str]]:
    """Each dim that must be 0 for the node to be computed as its type says, and a text that names the node.

    loc: what to name where the node itself does not know, as those of a composite's expansion.
    """
    loc = node.loc or loc
    if op_def(node.op).kind == "composite":
        for inner in expand(node.op, tuple(v.type for v in node.inputs), node.attrs).nodes:
            yield from needs(inner, loc)
        return
    for dim in _zeros(node):
        if isinstance(dim, DimExpr):
            yield dim, f"{node.op}({', '.join(str(v.type) for v in node.inputs)})" + (f" at {loc}" if loc else "")


def _above(a: Dim, b: Dim) -> Dim:
    """By how much a is more than b; 0 where it is not."""
    return dim_max(a - b, 0)


def _broadcast(shapes: Iterable[tuple[Dim, ...]], result: tuple[Dim, ...]) -> Iterator[Dim]:
    """Every dim is the result's, or 1."""
    for shape in shapes:
        yield from ((d - 1) * (d - r) for d, r in zip(reversed(shape), reversed(result), strict=False) if d not in (r, 1))


def _equal(shape: tuple[Dim, ...], other: tuple[Dim, ...]) -> Iterator[Dim]:
    yield from (a - b for a, b in zip(shape, other, strict=True))


def _zeros(n: Node) -> Iterator[Dim]:
    """What must be 0 for the node to be computed as its type says."""
    dims = [d for t in n.types for d in t.shape]
    for d in (*dims, *sizes_in(tuple(n.attrs.values()))):
        yield from (_above(1, divisor) for divisor in divisors(d))
    yield from (_above(0, d) for d in dims if not never_negative(d))
    if not n.inputs:
        return
    result, shapes = n.types[0].shape, [v.shape for v in n.inputs]
    match n.op:
        case "broadcast_to":
            yield from _broadcast(shapes, result)
        case _ if op_def(n.op).kind == "pointwise":
            yield from _broadcast(shapes, result)
        case "matmul":
            yield from _broadcast([shape[:-2] for shape in shapes], result[:-2])
            yield shapes[0][-1] - shapes[1][-2]
        case "reshape":
            yield dim_product(shapes[0]) - dim_product(result)
        case "conv":
            (x, w), groups = shapes, n.attrs.get("groups", 1)
            last = n.attrs.get("layout", "channels_first") == "channels_last"
            yield x[-1 if last else 1] - w[1] * groups
            yield w[0] % groups
        case "concat":
            axis = n.attrs["axis"]
            yield from (d - r for shape in shapes for k, (d, r) in enumerate(zip(shape, result, strict=True)) if k != axis)
        case "slice":
            for size, start, stop, step in zip(shapes[0], n.attrs["starts"], n.attrs["stops"], n.attrs["steps"], strict=True):
                yield _above(0, start) if step > 0 else _above(-1, stop)
                yield _above(stop, size) if step > 0 else _above(start, size - 1)
        case "pad":
            for size, low, high in zip(shapes[0], n.attrs["low"], n.attrs["high"], strict=True):
                yield from (_above(0, amount) for amount in (low, high))
                if n.attrs.get("mode", "constant") != "constant":  # of nothing, nothing can be repeated
                    yield _above(1, size) * (low + high)
        case "gather":
            yield _above(1, shapes[0][n.attrs["axis"]]) * dim_product(shapes[1])  # from nothing, nothing can be read
        case "gather_elements":
            axis = n.attrs["axis"]
            yield _above(1, shapes[0][axis]) * dim_product(shapes[1])
            yield from (_above(i, d) for k, (d, i) in enumerate(zip(*shapes, strict=True)) if k != axis)
        case "gather_nd":
            (data, indices), batch = shapes, n.attrs.get("batch_dims", 0)
            rows, depth = indices[:-1], indices[-1]
            assert isinstance(depth, int)
            yield from _equal(data[:batch], indices[:batch])
            yield from (_above(1, d) * dim_product(rows) for d in data[batch : batch + depth])
        case "scatter_elements":
            data, indices, updates = shapes
            yield from _equal(indices, updates)
            yield from (_above(i, d) for k, (d, i) in enumerate(zip(data, indices, strict=True)) if k != n.attrs["axis"])
        case "scatter_nd":
            data, indices, updates = shapes
            depth = indices[-1]
            assert isinstance(depth, int)
            yield from _equal((*indices[:-1], *data[depth:]), updates)
        case "compress":
            yield _above(shapes[1][0], shapes[0][n.attrs["axis"]])
        case "nms":
            boxes, scores = shapes[:2]
            yield from _equal(boxes[:2], (scores[0], scores[2]))
        case "topk":
            yield _above(n.attrs["k"], shapes[0][n.attrs["axis"]])
        case "scan":
            states, captures = n.attrs["states"], n.attrs.get("captures", 0)
            yield from (shape[0] - n.attrs["length"] for shape in shapes[states : len(shapes) - captures])
