"""ONNX model -> Graph: scopes, names, the walk over nodes, functions, and the list of what is not supported.

Declared shapes of intermediate values are ignored; those of inputs are trusted, with unknown dims as symbols.  Nothing recurses
over the depth of a graph; only nested sub-graphs and functions do, to a fixed limit.  Every error names the node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto

from ...ir.dims import Dim, DimExpr, check_sizes, parse_dim, substitute, symbol, symbols_of
from ...ir.errors import ModelError, OctavoError, QuantError, ShapeError, UnsupportedOp
from ...ir.graph import Graph, Node, Value, const_value, input_value, topological
from ...ir.ops.registry import apply
from ...ir.order import mentioned
from ...ir.types import TensorType
from . import operators as _operators  # noqa: F401  (registers the importers)
from .files import element_type, message_name, read_model, sparse_to_array, tensor_shape, to_array
from .nodes import drop_inputs, full_op, hint_for, opset_versions, ordered, resolved_attributes, schema_function, schema_has_function
from .registry import TRACKED, Importer, Site, Tensor, importer_of
from .symbolic import Untracked

MAX_NODES = 2_000_000  # imported nodes, after functions are expanded
MAX_NESTING = 40  # sub-graphs and functions inside each other


@dataclass(frozen=True)
class Unsupported:
    """A node that Octavo cannot compile: what to tell the user."""

    node: str
    op: str
    reason: str
    hint: str

    def __str__(self) -> str:
        return f"node {self.node!r} ({self.op}): {self.reason}" + (f"; {self.hint}" if self.hint else "")


class _Unknown:
    """Stands for the outputs of a node that could not be imported."""


UNKNOWN = _Unknown()


class DependsOnUnknown(Exception):
    """A sub-graph holds a node that could not be imported; never leaves the importer."""


@dataclass
class Frame:
    """What the nodes of one graph or function body share."""

    opsets: Mapping[str, int]
    attrs: Mapping[str, AttributeProto] = field(default_factory=dict)  # a function's own attributes
    prefix: str = ""
    depth: int = 0


@dataclass
class Scope:
    """The names visible to a graph's nodes; a sub-graph sees its parent's through captures."""

    importer: ModelImporter
    frame: Frame
    parent: Scope | None = None
    inlined: bool = False  # a sub-graph that becomes part of its parent: no captures needed
    names: dict[str, Any] = field(default_factory=dict)
    captures: dict[str, tuple[Tensor, Value]] = field(default_factory=dict)

    def lookup(self, name: str) -> Any:
        """What a name stands for; None if nothing does."""
        found = self.names.get(name)
        if isinstance(found, onnx.TensorProto | onnx.SparseTensorProto):
            found = self.names[name] = self.importer.initializer(found, name)
        if found is not None or self.parent is None:
            return found
        outer = self.parent.lookup(name)
        if outer is None or self.inlined or not isinstance(outer, Tensor) or outer.contents is not None or outer.value.is_const:
            return outer
        if name not in self.captures:
            self.captures[name] = (outer, input_value(f"outer_{len(self.captures)}_{name}", outer.type))
        return Tensor(self.captures[name][1])

    def define(self, name: str, value: Any, where: str) -> None:
        if name in self.names:
            raise ModelError(f"{where}: the name {name[:200]!r} is defined twice")
        self.names[name] = value

    # used by the importers of control flow
    def body(self, proto: GraphProto, arguments: Sequence[Any], *, inlined: bool = False) -> tuple[Scope, list[Any]]:
        """Import a sub-graph on these inputs: its scope, which knows its captures, and its outputs."""
        depth = self.frame.depth + 1
        if depth > MAX_NESTING:
            raise ModelError(f"sub-graphs are nested more than {MAX_NESTING} deep")
        inner = Scope(self.importer, Frame(self.frame.opsets, self.frame.attrs, self.frame.prefix, depth), self, inlined)
        outputs = self.importer.run_graph(proto, inner, arguments)
        if any(v is UNKNOWN for v in outputs):
            raise DependsOnUnknown
        if not inlined and any(not isinstance(v, Tensor) for v in outputs):
            raise UnsupportedOp("a sequence or optional cannot leave a body that runs depending on run-time data")
        return inner, outputs

    def attempt(self, proto: GraphProto, arguments: Sequence[Any]) -> tuple[Scope, list[Any]] | None:
        """As `body`, but None, and nothing reported, if the sub-graph does not import like that."""
        importer = self.importer
        before = len(importer.report), len(importer.errors), set(importer.wanted)
        try:
            return self.body(proto, arguments)
        except (DependsOnUnknown, UnsupportedOp, ShapeError):
            del importer.report[before[0] :], importer.errors[before[1] :]
            importer.wanted = before[2]
            return None


class ModelImporter:
    """The import of one model."""

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None,
        dims: Mapping[str, int] | None = None,
        constants: Mapping[str, np.ndarray] | None = None,
    ):
        self.model = model
        self.folder = folder
        self.pinned = dict(dims or {})
        check_sizes(self.pinned)
        self.constants = dict(constants or {})
        self.wanted: set[str] = set()  # inputs on whose contents shapes depend
        self.report: list[Unsupported] = []
        self.errors: list[OctavoError] = []
        self.functions = {(f.domain, f.name, f.overload): f for f in model.functions}
        self.constant_nodes: dict[Node, bool] = {}
        self.symbol_names: set[str] = set()
        self.fresh = 0
        self.count = 0
        opsets = opset_versions(model.opset_import)
        if not opsets:
            raise ModelError("the model does not say which opset it uses (opset_import is empty)")
        self.frame = Frame(opsets)

    # names and leaves
    def initializer(self, proto: onnx.TensorProto | onnx.SparseTensorProto, name: str) -> Tensor:
        where = f"initializer {name[:200]!r}"
        if isinstance(proto, onnx.SparseTensorProto):
            return Tensor(const_value(sparse_to_array(proto, self.folder, where)))
        return Tensor(const_value(to_array(proto, self.folder, where), "onnx:" + name))

    def fresh_symbol(self, name: str = "d") -> DimExpr:
        while f"{name}{self.fresh}" in self.symbol_names:
            self.fresh += 1
        self.symbol_names.add(f"{name}{self.fresh}")
        return symbol(f"{name}{self.fresh}")

    def input_dims(self, inputs: Iterable[onnx.ValueInfoProto]) -> dict[str, Dim]:
        """dim_param -> dim: identifiers as they are, expressions over them parsed, other names mangled."""
        params = [d.dim_param for v in inputs for d in v.type.tensor_type.shape.dim if _names_a_size(d.dim_param)]
        result: dict[str, Dim] = {p: symbol(p) for p in params if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", p)}
        self.symbol_names.update(result)
        for p in params:
            if p in result:
                continue
            try:
                parsed = parse_dim(p) if len(p) <= 200 else None
            except (ModelError, ShapeError):
                parsed = None
            own = self.model.producer_name == "octavo"  # then an expression means what it says, also where it alone names a symbol
            if isinstance(parsed, DimExpr) and (own or symbols_of(parsed) <= set(result)):
                result[p] = parsed
                self.symbol_names |= symbols_of(parsed)
                continue
            name = re.sub(r"[^A-Za-z0-9_]+", "_", p).strip("_")[:60] or "d"
            name = name if name[0].isalpha() else "d" + name
            while name in self.symbol_names:
                name += "_"
            self.symbol_names.add(name)
            result[p] = symbol(name)
        return {p: substitute(d, self.pinned) if p not in self.pinned else self.pinned[p] for p, d in result.items()}

    def input_tensor(self, info: onnx.ValueInfoProto, params: Mapping[str, Dim]) -> Value:
        where = f"input {info.name[:200]!r}"
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedOp(f"its type is {(kind or 'missing').removesuffix('_type')}, not a tensor")
        dtype = element_type(info.type.tensor_type.elem_type, where)
        if not info.type.tensor_type.HasField("shape"):
            raise UnsupportedOp("its rank is not declared")
        shape: list[Dim] = []
        for d in info.type.tensor_type.shape.dim:
            if _names_a_size(d.dim_param):
                shape.append(params[d.dim_param])
            elif d.HasField("dim_value") and d.dim_value >= 0:
                shape.append(d.dim_value)
            else:
                unnamed = self.fresh_symbol()
                shape.append(self.pinned.get(str(unnamed), unnamed))
        return input_value(info.name, TensorType(dtype, tuple(shape)), "onnx:" + info.name)

    # graphs
    def run(self) -> Graph:
        proto = self.model.graph
        scope = Scope(self, self.frame)
        held = {t.name for t in proto.initializer} | {t.values.name for t in proto.sparse_initializer}
        inputs = [v for v in proto.input if v.name not in held]
        params = self.input_dims(inputs)
        values: list[Value] = []
        for info in inputs:
            try:
                value = self.input_tensor(info, params)
            except UnsupportedOp as e:
                self.refuse(message_name(info, "?"), "input", str(e))
                scope.define(info.name, UNKNOWN, f"input {message_name(info, '?')!r}")
                continue
            given = self.constants.get(info.name)
            content = value if given is None else const_value(np.asarray(given, value.dtype.np), "onnx:" + info.name)
            scope.define(info.name, Tensor(content), f"input {message_name(info, '?')!r}")
            values.append(value)
        unknown = set(self.pinned) - self.symbol_names - set(params)
        if unknown:
            known = ", ".join(sorted(self.symbol_names)) or "none"
            raise ModelError(f"dims pins {min(unknown)!r}, which is not a dimension of this model; it has: {known}")
        outputs = self.run_graph(proto, scope, None)
        for info, out in zip(proto.output, outputs, strict=True):
            if out is not UNKNOWN and not isinstance(out, Tensor):
                self.refuse(message_name(info, "?"), "output", "a sequence or optional cannot leave the model")
        self.fail_if_unsupported()
        results = _with_counts([t.value for t in outputs], values, scope)
        return Graph(proto.name or "model", tuple(values), tuple(results), tuple(o.name for o in proto.output))

    def refuse(self, node: str, op: str, reason: str, hint: str = "") -> None:
        self.report.append(Unsupported(node, op, reason, hint))

    def fail_if_unsupported(self) -> None:
        if self.errors:
            raise self.errors[0]
        if self.report:
            shown = "\n".join(f"  {u}" for u in self.report[:20])
            more = f"\n  and {len(self.report) - 20} more" if len(self.report) > 20 else ""
            raise UnsupportedOp(f"{len(self.report)} unsupported node{'s' if len(self.report) > 1 else ''}:\n{shown}{more}")

    def run_graph(self, proto: GraphProto, scope: Scope, arguments: Sequence[Any] | None) -> list[Any]:
        """Import a graph's nodes into the scope; its outputs (UNKNOWN where they could not be imported)."""
        where = f"graph {message_name(proto, 'main')!r}"
        if arguments is not None:
            if len(proto.input) != len(arguments):
                raise ModelError(f"{where}: it has {len(proto.input)} inputs, but gets {len(arguments)}")
            for info, argument in zip(proto.input, arguments, strict=True):
                scope.define(info.name, Tensor(argument) if isinstance(argument, Value) else argument, where)
        for tensor in proto.initializer:
            tensor_shape(tensor, f"initializer {message_name(tensor, '?')!r}")
            scope.define(tensor.name, tensor, where)
        for sparse in proto.sparse_initializer:
            scope.define(sparse.values.name, sparse, where)
        self.run_nodes(proto.node, scope)
        outputs = []
        for info in proto.output:
            out = scope.lookup(info.name)
            if out is None:
                raise ModelError(f"{where}: nothing produces its output {info.name[:200]!r}")
            outputs.append(out)
        return outputs

    def run_nodes(self, nodes: Iterable[NodeProto], scope: Scope) -> None:
        for k, node in enumerate(ordered(list(nodes))):
            self.run_node(node, scope, k)

    def run_node(self, node: NodeProto, scope: Scope, position: int) -> None:
        self.count += 1
        if self.count > MAX_NODES:
            raise ModelError(f"the model has more than {MAX_NODES:,} nodes once its functions are expanded")
        name = scope.frame.prefix + message_name(node, next((o for o in node.output if o), f"{node.op_type}_{position}"))
        where = f"node {name!r} ({node.op_type})"
        operands: list[Any] = []
        try:
            for operand in node.input:
                found = scope.lookup(operand) if operand else None
                if operand and found is None:
                    raise ModelError(f"{where} reads {operand[:200]!r}, which nothing produces")
                operands.append(found)
            if any(o is UNKNOWN for o in operands):
                self.importable(node, scope)
                raise DependsOnUnknown
            results = self.dispatch(node, scope, name, operands)
        except UnsupportedOp as e:
            self.refuse(name, full_op(node), str(e), hint_for(node))
            results = [UNKNOWN] * len(node.output)
        except DependsOnUnknown:
            results = [UNKNOWN] * len(node.output)
        except ShapeError as e:
            self.errors.append(ShapeError(f"{where}: {e}"))
            self.refuse(name, full_op(node), str(e), "its operands do not fit together; check the model with onnx.checker")
            results = [UNKNOWN] * len(node.output)
        except QuantError as e:
            raise e if str(e).startswith("node ") else QuantError(f"{where}: {e}") from None
        except ModelError as e:
            raise e if str(e).startswith(("node ", "initializer ", "graph ")) else ModelError(f"{where}: {e}") from None
        for output, result in zip(node.output, results, strict=False):
            if output:
                scope.define(output, result, where)
        for output in node.output[len(results) :]:
            if output:
                self.refuse(name, full_op(node), f"its output {output!r} is not supported", "remove the output if nothing needs it")
                scope.define(output, UNKNOWN, where)

    def importable(self, node: NodeProto, scope: Scope) -> None:
        """Raises UnsupportedOp when no way to import this operator exists at all."""
        domain, version = self.domain_version(node, scope)
        if (node.domain, node.op_type, node.overload) in self.functions or importer_of(domain, node.op_type, version):
            return
        if not schema_has_function(domain, node.op_type, version):
            raise UnsupportedOp(f"there is no importer for this operator at opset {version}")

    def domain_version(self, node: NodeProto, scope: Scope) -> tuple[str, int]:
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = scope.frame.opsets.get(domain)
        if version is None:
            if (node.domain, node.op_type, node.overload) in self.functions:
                return domain, 1
            if domain and importer_of(domain, node.op_type, 1):
                return domain, 1  # contrib operators are often used without declaring their domain
            raise ModelError(f"the model does not import the operator domain {domain or 'ai.onnx'!r}")
        return domain, version

    def dispatch(self, node: NodeProto, scope: Scope, name: str, operands: list[Any]) -> list[Any]:
        domain, version = self.domain_version(node, scope)
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            return self.call_function(function, node, scope, name, operands)
        given = resolved_attributes(node, scope.frame.attrs)
        attrs = {a.name: decoded for a in given if (decoded := self.decode(a, name)) is not None}
        site = Site(
            node.op_type, domain, version, name, "onnx:" + name, attrs, tuple(node.output), scope, self.fresh_symbol,
            self.constant_nodes,
        )  # fmt: skip
        if not domain and node.op_type in TRACKED and all(o is None or isinstance(o, Tensor) for o in operands):
            try:
                return [guarded(TRACKED[node.op_type], site, operands)]
            except Untracked:
                pass
        importer = importer_of(domain, node.op_type, version)
        result = guarded(importer, site, operands) if importer is not None else NotImplemented
        if result is not NotImplemented:
            results = list(result) if isinstance(result, tuple) else [result]
            return [Tensor(r) if isinstance(r, Value) else UNKNOWN if r is None else r for r in results]
        body = schema_function(domain, version, node, given, operands)
        if body is None:
            raise UnsupportedOp(f"there is no importer for this operator at opset {version}")
        return self.call_function(body, node, scope, name, operands)

    def call_function(
        self,
        function: onnx.FunctionProto,
        node: NodeProto,
        scope: Scope,
        name: str,
        operands: list[Any],
    ) -> list[Any]:
        """Expand a function's body in place of the node."""
        depth = scope.frame.depth + 1
        if depth > MAX_NESTING:
            raise ModelError(f"functions call each other more than {MAX_NESTING} deep; recursion is not allowed")
        attrs = {a.name: a for a in function.attribute_proto}
        attrs.update({a.name: a for a in resolved_attributes(node, scope.frame.attrs)})
        opsets = {"": onnx.defs.onnx_opset_version(), **scope.frame.opsets, **opset_versions(function.opset_import)}
        inner = Scope(self, Frame(opsets, attrs, f"{name}/", depth))
        if len(operands) > len(function.input):
            raise ModelError(f"function {function.name} takes {len(function.input)} inputs, got {len(operands)}")
        for parameter, operand in zip(function.input, operands, strict=False):
            if operand is not None:
                inner.define(parameter, operand, f"function {function.name}")
        absent = set(function.input) - set(inner.names)
        self.run_nodes([drop_inputs(n, absent) for n in function.node] if absent else function.node, inner)
        results = []
        for output, wanted in zip(function.output, node.output, strict=False):
            result = inner.lookup(output)
            if result is None and wanted and output not in absent:
                raise ModelError(f"function {function.name}: nothing produces its output {output!r}")
            results.append(UNKNOWN if result is None else result)
        return results

    def decode(self, a: AttributeProto, node: str) -> Any:
        """The Python value of an attribute; None for one that is absent."""
        kind, where = a.type, f"node {node!r}: attribute {a.name!r}"
        if kind == AttributeProto.FLOAT:
            return float(a.f)
        if kind == AttributeProto.INT:
            return int(a.i)
        if kind == AttributeProto.STRING:
            return a.s.decode("utf-8", "surrogateescape")
        if kind == AttributeProto.FLOATS:
            return tuple(float(x) for x in a.floats)
        if kind == AttributeProto.INTS:
            return tuple(int(x) for x in a.ints)
        if kind == AttributeProto.STRINGS:
            return tuple(s.decode("utf-8", "surrogateescape") for s in a.strings)
        if kind == AttributeProto.TENSOR:
            return to_array(a.t, self.folder, where)
        if kind == AttributeProto.SPARSE_TENSOR:
            return sparse_to_array(a.sparse_tensor, self.folder, where)
        if kind == AttributeProto.GRAPH:
            return a.g
        if kind == AttributeProto.TYPE_PROTO:
            return a.tp
        raise ModelError(f"{where} has a type that does not exist or is not supported")


def _names_a_size(dim_param: str) -> bool:
    """Whether equal dim_params mean equal sizes: exporters write "?" for any size that they do not know."""
    return any(c.isalnum() for c in dim_param)


def guarded(importer: Importer, site: Site, operands: list[Any]) -> Any:
    """Run an importer; what its code did not expect of the node (operand count, ranks, attribute values) is a ModelError."""
    try:
        return importer(site, *operands)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError) as e:
        raise ModelError(f"its {len(operands)} inputs or its attributes do not fit the operator ({e})") from e


def _with_counts(outputs: list[Value], inputs: Sequence[Value], scope: Scope) -> list[Value]:
    """The outputs; the first also waits for what counts a size that a node mentions without reading it, as after Shape of NonZero."""
    while outputs:
        nodes = topological((*inputs, *outputs))
        known = {s for v in inputs for d in v.shape for s in symbols_of(d)} | {n.attrs["symbol"] for n in nodes if n.op == "bind_size"}
        missing = {s for n in nodes for s in mentioned(n)} - known
        if not missing:
            break
        everything = topological(t.value for t in scope.names.values() if isinstance(t, Tensor) and t.contents is None)
        definers = {n.attrs["symbol"]: n.outputs[0] for n in everything if n.op == "bind_size" and n.attrs["symbol"] in missing}
        if not definers:
            break
        outputs = [apply("after", outputs[0], *definers.values()), *outputs[1:]]
    return outputs


Model = str | os.PathLike[str] | bytes | onnx.ModelProto


def import_model(model: Model, dims: Mapping[str, int] | None = None, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph of an ONNX model (path, bytes or ModelProto).

    `dims` pins symbols to sizes; `constants` fixes the contents of inputs on which shapes depend (they stay inputs, unused).
    Raises ModelError for a malformed or unsafe file, UnsupportedOp with every unsupported node, ShapeError for operands that
    cannot fit together.
    """
    proto, folder = read_model(model)
    return ModelImporter(proto, folder, dims, constants).run()


def shape_inputs(model: Model, constants: Mapping[str, np.ndarray] | None = None) -> set[str]:
    """The inputs whose contents must be known to compile the model, because shapes, axes or the like depend on them."""
    proto, folder = read_model(model)
    importer = ModelImporter(proto, folder, None, constants)
    try:
        importer.run()
    except (UnsupportedOp, ShapeError):
        return importer.wanted & {v.name for v in proto.graph.input}
    return set()


def check_model(model: Model) -> list[Unsupported]:
    """Every node that cannot be compiled, found in one run.  Raises ModelError for a malformed or unsafe file."""
    proto, folder = read_model(model)
    importer = ModelImporter(proto, folder)
    try:
        importer.run()
    except (UnsupportedOp, ShapeError):
        if not importer.report:
            raise
    return importer.report
