"""Fusion: the graph as `kernel` nodes, each one loop nest, with everything fused into it as its body.

Five kinds of group, by anchor: attention, two matmuls with a softmax and pointwise work between them; a contraction with the pointwise
chain after it; a reduction or a composite that is one row computation (softmax, layer_norm) with pointwise work around it; an opaque
op alone; and for the rest groups of pointwise and index ops that end in one stored value. A node joins the group of its readers when
all of them are in that group, so every group has one result and no cycle can arise. Reshapes that only regroup dims are views and stay
outside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..ir.dims import Dim
from ..ir.graph import Graph, Node, Value, const_value, input_value, rewrite
from ..ir.ops.registry import op_def
from ..ir.scalar import compute_dtype
from .expand import expand

ROW_COMPOSITES = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm", "log_sum_exp"})
UNPACK = frozenset({"unpack_panels", "unpack_dots", "unpack_nibbles", "unpack_taps", "unpack_windows", "unpack_winograd"})
LIMIT = 48  # nodes in one body
COSTLY = frozenset(
    [
        "exp",
        "log",
        "tanh",
        "sigmoid",
        "erf",
        "gelu",
        "silu",
        "softplus",
        "mish",
        "pow",
        "sin",
        "cos",
        "tan",
        "div",
        "sqrt",
        "rem",
        "mod",
    ]
)
REPEATING = frozenset(
    {"broadcast_to", "tile", "repeat", "gather", "gather_elements", "gather_nd", "window"}
)  # read an element many times


@dataclass(eq=False)
class _Group:
    """Nodes that become one kernel; `root` is stored."""

    root: Node
    kind: str  # "attention", "contract", "row", "opaque", "map"
    members: list[Node] = field(default_factory=list)


def fuse(graph: Graph, *, attention: bool = True) -> Graph:
    """Every computing node inside a `kernel`; leaves, views (`reshape`) and control flow stay.  Sub-graphs are fused too.

    attention: whether the target computes attention as one kernel; else it is three.
    """
    graph = _dequantized_by_readers(graph)
    groups = _group(graph, attention)
    new: dict[Node, tuple[Value, ...]] = {}
    for node in graph.nodes:
        group = groups.get(node)
        if group is None:
            inputs = tuple(new[v.node][v.index] for v in node.inputs)
            attrs = {k: fuse(a, attention=attention) if isinstance(a, Graph) else a for k, a in node.attrs.items()}
            changed = inputs != node.inputs or any(attrs[k] is not a for k, a in node.attrs.items())
            new[node] = Node(node.op, inputs, attrs, node.types, node.loc).outputs if changed else node.outputs
        elif group.root is node:
            new[node] = _kernel(group, new)
    return graph.with_roots([new[v.node][v.index] for v in graph.roots])


def _dequantized_by_readers(graph: Graph) -> Graph:
    """The graph with a `dequantize` of its own for every reader of bytes: what is stored between kernels are the bytes."""

    def own(v: Value) -> Value:
        return v.node.with_inputs(v.node.inputs).outputs[0] if _widens(v.node) else v

    def rule(node: Node, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if not any(_widens(v.node) for v in inputs):
            return None
        return node.with_inputs(tuple(map(own, inputs))).outputs

    return rewrite(graph, rule)


def _widens(node: Node) -> bool:
    """Whether a node makes floats of bytes."""
    return node.op == "dequantize" and node.inputs[0].dtype.bits <= 8


def is_view(node: Node) -> bool:
    """Whether a node only names the same memory by another shape."""
    return node.op == "reshape"


def _inlined(v: Value) -> bool:
    """Constants of one element are literals in the code."""
    return v.is_const and v.array.size == 1 and v.dtype.kind in "fiub"


def _group(graph: Graph, attention: bool) -> Mapping[Node, _Group]:
    groups: dict[Node, _Group] = {}
    stored = {v.node for v in graph.roots}
    users = graph.users
    for node in graph.nodes if attention else ():
        members = _attention(node, users, stored)
        if members and not any(n in groups for n in members):
            group = _Group(node, "attention", members)
            groups.update(dict.fromkeys(members, group))
    for group in list(dict.fromkeys(groups.values())):
        _extend(group, users, stored, groups)
    for node in graph.nodes:
        kind = None if node in groups else _anchor(node)
        if kind:
            groups[node] = group = _Group(node, kind, [node])
            if kind in ("contract", "row"):
                _extend(group, users, stored, groups)
    for node in reversed(graph.nodes):
        if node in groups or not _fusable(node):
            continue
        group = None if node in stored else _readers_group(node, users[node], groups)
        if group is None:
            if is_view(node):
                continue
            group = _Group(node, "map")
        group.members.append(node)
        groups[node] = group
    return groups


def _anchor(node: Node) -> str | None:
    kind = op_def(node.op).kind
    if kind == "contraction":
        return "contract"
    if kind == "reduction" or node.op in ROW_COMPOSITES:
        return "row"
    return "opaque" if kind == "opaque" else None


def _attention(node: Node, users: Mapping[Node, tuple[Node, ...]], stored: set[Node]) -> list[Node]:
    """The nodes of attention that ends in this matmul: the matmul of its scores, a softmax along their rows, and what is pointwise
    between the two products; reshapes may regroup the rows.  Empty where it is none, or something else reads a value in between.
    """
    if not _is_product(node):
        return []
    columns, size = node.inputs[0].shape[-1], node.inputs[0].type.size
    views: list[Node] = []  # of the weights
    weights = node.inputs[0]
    while weights.node.op == "reshape" and weights.node.inputs[0].shape[-1:] == (columns,):
        views.append(weights.node)
        (weights,) = weights.node.inputs
    above: set[Node] = set()  # what may lie between: the same rows of as many columns
    stack = [weights.node]
    while stack and len(above) < LIMIT:
        n = stack.pop()
        between = n.op in ("softmax", "reshape") or _is_product(n) or op_def(n.op).kind == "pointwise"
        if between and n not in above and n.types[0].shape[-1:] == (columns,) and n.types[0].size == size:
            above.add(n)
            stack.extend(v.node for v in n.inputs if n.op != "matmul")
    products, softmaxes = ([n for n in above if n.op == op] for op in ("matmul", "softmax"))
    if len(products) != 1 or len(softmaxes) != 1:
        return []
    (product,), (softmax,) = products, softmaxes
    members = _reached(product, {*above, *views}, users)
    after = _reached(softmax, above, users)
    wide = compute_dtype(node.types[0].dtype)
    fits = (
        softmax in members
        and softmax.attrs["axis"] == softmax.types[0].rank - 1
        and softmax.types[0].shape == weights.shape
        and all(n.op != "reshape" for n in after)
        and all(n not in stored and members.issuperset(set(users[n]) - {node}) for n in members)
        and all(v.node not in members for v in node.inputs[1:])
        and product.types[0].shape[-2] == node.types[0].shape[-2]
        and node.inputs[0].shape[:-2] == node.types[0].shape[:-2]
        and not _inlined(product.inputs[0])  # the queries are read from memory
        and all(compute_dtype(n.types[0].dtype) is wide for n in (product, softmax))
    )
    return [node, *members] if fits else []


def _reached(node: Node, members: set[Node], users: Mapping[Node, tuple[Node, ...]]) -> set[Node]:
    """The members that read what the node computes, and itself."""
    found = {node}
    stack = [node]
    while stack:
        for reader in users[stack.pop()]:
            if reader in members and reader not in found:
                found.add(reader)
                stack.append(reader)
    return found


def _is_product(node: Node) -> bool:
    """Whether a node multiplies floats, batch by batch."""
    if node.op != "matmul" or not node.types[0].dtype.is_float:
        return False
    a, b = node.inputs
    return b.type.rank > 2 or a.type.rank == 2


def _fusable(node: Node) -> bool:
    return op_def(node.op).kind in ("pointwise", "index")


def _extend(group: _Group, users: Mapping[Node, tuple[Node, ...]], stored: set[Node], groups: dict[Node, _Group]) -> None:
    """Take in the chain of pointwise readers of the result, as long as each is the only one and has the same shape."""
    shape = group.root.types[0].shape
    while group.root not in stored and len(group.members) < LIMIT:
        readers = set(users[group.root])
        if len(readers) != 1:
            break
        (reader,) = readers
        if op_def(reader.op).kind != "pointwise" or reader.types[0].shape != shape or reader in groups:
            break
        group.members.append(reader)
        group.root = reader
        groups[reader] = group
    if _widens(group.root) and group.root.inputs[0].node is group.members[-2]:
        del groups[group.members.pop()]  # its reader dequantizes
        group.root = group.members[-1]


def _readers_group(node: Node, readers: tuple[Node, ...], groups: Mapping[Node, _Group]) -> _Group | None:
    """The one group that holds every reader and takes the node in as a producer."""
    found = {groups.get(r) for r in readers}
    if len(found) != 1:
        return None
    (group,) = found
    if group is None or len(group.members) >= LIMIT or node.op == "concat":
        return None
    if group.kind == "map":
        return group if all(_reads_cheaply(node, r) for r in readers) else None
    if group.kind == "row":
        return group if _feeds_row(node, readers, group) else None
    if group.kind in ("attention", "contract"):
        return group if _unpacks(node, readers) or _feeds_epilogue(node, readers, group) else None
    return None


def _reads_cheaply(node: Node, reader: Node) -> bool:
    """Whether computing `node` anew at each read by `reader` costs no more than storing it."""
    if node.op == "reshape" and not _regroups_ones(node.inputs[0].shape, node.types[0].shape):
        return False
    arithmetic = op_def(node.op).kind == "pointwise"
    if op_def(reader.op).kind == "pointwise":
        return node.types[0].shape == reader.types[0].shape or node.op not in COSTLY
    if reader.op == "reshape" and not _regroups_ones(reader.inputs[0].shape, reader.types[0].shape):
        return False
    return not (arithmetic and reader.op in REPEATING)


def _regroups_ones(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> bool:
    return [d for d in a if d != 1] == [d for d in b if d != 1]


def _feeds_row(node: Node, readers: tuple[Node, ...], group: _Group) -> bool:
    """A row takes in pointwise producers of its full shape, and windows, which only it can read without storing them."""
    anchor = group.members[0]
    full = anchor.inputs[0].shape
    if node.types[0].shape != full:
        return False
    if node.op == "window":
        return all(r is anchor or op_def(r.op).kind == "pointwise" for r in readers)
    return op_def(node.op).kind == "pointwise" or node.op in ("broadcast_to", "slice")


def _feeds_epilogue(node: Node, readers: tuple[Node, ...], group: _Group) -> bool:
    """Whether a node dequantizes another operand of the pointwise chain after a contraction."""
    shape = group.root.types[0].shape
    return _widens(node) and node.types[0].shape == shape and all(op_def(r.op).kind == "pointwise" for r in readers)


def _unpacks(node: Node, readers: tuple[Node, ...]) -> bool:
    """The chain from packed weights to a contraction's second operand is part of how the contraction reads."""
    if node.op in UNPACK:
        return True
    if any(op_def(r.op).kind == "contraction" and r.inputs[0].node is node for r in readers):
        return False
    below = node
    while below.op in ("reshape", "transpose", "cast", "dequantize"):
        below = below.inputs[0].node
    return below.op in UNPACK


def _kernel(group: _Group, new: Mapping[Node, tuple[Value, ...]]) -> tuple[Value, ...]:
    """The kernel node of a group whose operands are already in `new`."""
    inside: dict[Value, Value] = {}
    operands: list[Value] = []
    inputs: list[Value] = []

    def read(v: Value) -> Value:
        if v not in inside:
            outer = new[v.node][v.index]
            if _inlined(outer) and group.kind != "opaque":  # whose loops read memory
                inside[v] = const_value(outer.node.attrs["value"])
            else:
                inside[v] = input_value(f"x{len(inputs)}", v.type)
                inputs.append(inside[v])
                operands.append(outer)
        return inside[v]

    for node in _in_order(group):
        copy = Node(node.op, tuple(map(read, node.inputs)), node.attrs, node.types, node.loc)
        for v, c in zip(node.outputs, copy.outputs, strict=True):
            inside[v] = c
    outputs = tuple(inside[v] for v in group.root.outputs)
    body = expand(Graph(group.kind, tuple(inputs), outputs))
    return Node("kernel", tuple(operands), {"body": body}, group.root.types, group.root.loc).outputs


def _in_order(group: _Group) -> list[Node]:
    """The group's nodes, operands first."""
    members = set(group.members)
    order: list[Node] = []
    done: set[Node] = set()
    stack = [group.root]
    while stack:
        node = stack[-1]
        waiting = [v.node for v in node.inputs if v.node in members and v.node not in done]
        if node in done or not waiting:
            stack.pop()
            if node not in done:
                done.add(node)
                order.append(node)
        else:
            stack.extend(waiting)
    return order
