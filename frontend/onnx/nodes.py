"""What there is to know about single ONNX nodes: order, attributes, the names they read, function bodies, models of one node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto

from ...ir.errors import ModelError
from ...ir.types import dtype_of
from .files import ONNX_TYPES, message_name
from .registry import Tensor


def full_op(node: NodeProto) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def opset_versions(imports: Iterable[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Domain -> version.  Raises ModelError for a number that no version has."""
    for o in imports:
        if not 0 < o.version < 1 << 31:
            raise ModelError(f"version {o.version} of the operator domain {o.domain or 'ai.onnx'!r} does not exist")
    return {"" if o.domain == "ai.onnx" else o.domain: o.version for o in imports}


def hint_for(node: NodeProto) -> str:
    if node.op_type in ("Loop", "Scan", "If"):
        return "pin the sizes that it depends on (dims=), or export the model without control flow"
    if node.domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft"):
        return "give the model a function body for this operator"
    return "export the model with static shapes, or replace this operator"


def drop_inputs(node: NodeProto, absent: set[str]) -> NodeProto:
    """The node with inputs that the caller left out marked as absent."""
    if not absent.intersection(node.input):
        return node
    copy = NodeProto()
    copy.CopyFrom(node)
    for k, name in enumerate(copy.input):
        if name in absent:
            copy.input[k] = ""
    return copy


def resolved_attributes(node: NodeProto, given_attrs: Mapping[str, AttributeProto]) -> list[AttributeProto]:
    """The node's attributes, with references to a function's own attributes replaced; absent ones are left out."""
    found = []
    for a in node.attribute:
        if a.ref_attr_name:
            given = given_attrs.get(a.ref_attr_name)
            if given is None:
                continue
            copy = AttributeProto()
            copy.CopyFrom(given)
            copy.name = a.name
            found.append(copy)
        else:
            found.append(a)
    return found


def read_names(node: NodeProto) -> set[str]:
    """Every name that a node reads, those inside its sub-graphs included (an over-estimate: local names too)."""
    names, stack = set(node.input), [a for a in node.attribute if a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS)]
    while stack:
        a = stack.pop()
        for graph in (a.g, *a.graphs):
            names.update(o.name for o in graph.output)
            for inner in graph.node:
                names.update(inner.input)
                stack.extend(b for b in inner.attribute if b.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS))
    names.discard("")
    return names


def ordered(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes with producers before users: as they are if that holds already.  Raises ModelError on a cycle."""
    producer: dict[str, int] = {}
    for k, node in enumerate(nodes):
        for output in node.output:
            if output:
                producer.setdefault(output, k)
    needs = [{producer[x] for x in read_names(n) if x in producer} for n in nodes]
    if all(max(need, default=-1) < k for k, need in enumerate(needs)):
        return nodes
    waiting = [len(need - {k}) for k, need in enumerate(needs)]
    users: list[list[int]] = [[] for _ in nodes]
    for k, need in enumerate(needs):
        for p in need - {k}:
            users[p].append(k)
        if k in need and set(nodes[k].input) & set(nodes[k].output):
            raise ModelError(f"node {message_name(nodes[k], str(k))!r} ({nodes[k].op_type}) reads its own output")
    ready = [k for k, count in enumerate(waiting) if not count][::-1]
    result = []
    while ready:
        k = ready.pop()
        result.append(nodes[k])
        for user in users[k]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    if len(result) < len(nodes):
        stuck = next(n for k, n in enumerate(nodes) if waiting[k])
        raise ModelError(f"the graph has a cycle through node {message_name(stuck, '?')!r} ({stuck.op_type})")
    return result


def _schema(domain: str, op: str, version: int) -> Any:  # the stubs of onnx lack OpSchema's function members
    try:
        return onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None


def schema_has_function(domain: str, op: str, version: int) -> bool:
    schema = _schema(domain, op, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def schema_function(
    domain: str, version: int, node: NodeProto, attributes: Sequence[AttributeProto], operands: Sequence[Any]
) -> onnx.FunctionProto | None:
    """The function body by which the standard defines the operator, or None."""
    schema = _schema(domain, node.op_type, version)
    if schema is None:
        return None
    resolved = NodeProto()
    resolved.CopyFrom(node)
    del resolved.attribute[:]
    resolved.attribute.extend(attributes)
    given = {a.name for a in resolved.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.type:
            resolved.attribute.append(attribute.default_value)
    body: bytes | onnx.FunctionProto | None = None
    if schema.has_function:
        body = schema.function_body
    elif schema.has_context_dependent_function:
        usable = [v for v in schema.context_dependent_function_opset_versions if v <= version]
        types = [type_proto(o).SerializeToString() for o in operands]
        if usable:
            body = schema.get_context_dependent_function_with_opset_version(max(usable), resolved.SerializeToString(), types)
    if not body:
        return None
    function = (
        onnx.FunctionProto.FromString(body) if isinstance(body, bytes) else onnx.FunctionProto.FromString(body.SerializeToString())
    )
    have = {a.name for a in function.attribute_proto}
    function.attribute_proto.extend(a for a in resolved.attribute if a.name not in have)
    return function if len(function.node) else None


def type_proto(x: Any) -> onnx.TypeProto:
    if not isinstance(x, Tensor):
        return onnx.TypeProto()
    shape = [d if isinstance(d, int) else None for d in x.shape]
    return onnx.helper.make_tensor_type_proto(ONNX_TYPES[x.dtype], shape)


def model_of_node(node: NodeProto, arrays: Sequence[np.ndarray], opset: int | None = None) -> onnx.ModelProto:
    """A model of this node alone, for inputs like these arrays; its outputs are whatever the node gives."""
    given = [name for name in node.input if name]
    if len(given) != len(arrays):
        raise ModelError(f"node {node.name!r} ({node.op_type}) takes {len(given)} inputs, got {len(arrays)}")
    types = zip(given, arrays, strict=True)
    inputs = [onnx.helper.make_tensor_value_info(name, ONNX_TYPES[dtype_of(a.dtype)], a.shape) for name, a in types]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([node], node.op_type, inputs, outputs)
    version = opset or (onnx.defs.onnx_opset_version() if not node.domain else 1)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(node.domain, version)])
