"""Recognising by meaning: activations and norms that an exporter wrote out become the one op that says what they are.

Factors and terms match in any order, constants by their value in the dtype at hand, never by node names.  Only an expression
that means the same for every input is replaced:

    x * 0.5 * (1 + erf(x / sqrt(2)))                           gelu
    x * 0.5 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))    gelu, tanh form
    1 / (1 + exp(-x))                                          sigmoid
    x * sigmoid(x)                                             silu
    x * hard_sigmoid(x), x * clip(x + 3, 0, 6) / 6             hard_swish
    (x - mean(x)) / sqrt(mean((x - mean(x))^2) + epsilon)      layer_norm, and times scale, and plus bias
    x / sqrt(mean(x^2) + epsilon)                              rms_norm, and times scale
"""

from __future__ import annotations

import math

import numpy as np

from ..ir.dims import DimExpr, dim_product
from ..ir.graph import Graph, Node, Value, rewrite
from ..ir.ops.registry import apply, apply_node
from ..ir.types import DType
from .values import is_uniform, scalar, swapped, uniform, use_counts


def recognize(graph: Graph) -> Graph:
    """The graph with written-out activations and norms as single ops."""
    uses = use_counts(graph)

    def rule(node: Node, inputs: tuple[Value, ...]) -> Value | None:
        if len(node.types) != 1 or not node.types[0].dtype.is_float:
            return None
        current = node if inputs == node.inputs else node.with_inputs(inputs)
        found = next((f for f in (form(current) for form in _FORMS.get(node.op, ())) if f is not None), None)
        if found is None and node.op in ("mul", "add") and any(uses[v.node] == 1 for v in node.inputs):
            found = _affine(current, [uses[v.node] == 1 for v in node.inputs])
        return found if found is not None and found.type == node.types[0] else None

    return rewrite(graph, rule)


def _close(value: float | None, expected: float, dtype: DType) -> bool:
    """Whether a constant is the number meant, in a dtype in which that number may have been rounded more than once."""
    epsilon = {"f64": 1e-7, "f32": 1e-6}.get(dtype.name, 2e-3)  # exporters write sqrt(2) with 7 digits even for f64
    return value is not None and abs(value - expected) <= epsilon * abs(expected)


def _scaled(v: Value) -> tuple[Value, float] | None:
    """(x, c) of x * c or x / c, where c is uniform; (v, 1.0) otherwise."""
    if v.node.op in ("mul", "div"):
        x, c = v.node.inputs
        factor = uniform(c)
        if factor is not None and x.type == v.type and (factor or v.node.op == "mul"):
            return x, float(factor) if v.node.op == "mul" else 1 / factor
    return None


def _factors(node: Node) -> tuple[list[Value], float]:
    """The factors of a product of up to four, and the product of its uniform constants."""
    (t,) = node.types
    scale, values = 1.0, []
    pending = [node.outputs[0]]
    while pending:
        v = pending.pop()
        split = _scaled(v)
        if split is not None:
            pending.append(split[0])
            scale *= split[1]
        elif v.node.op == "mul" and len(values) + len(pending) < 4 and all(x.type == t for x in v.node.inputs):
            pending += v.node.inputs
        else:
            values.append(v)
    return values, scale


# --- activations ---


def _product(n: Node) -> Value | None:
    values, scale = _factors(n)
    if len(values) != 2:
        return None
    (dtype,) = (t.dtype for t in n.types)
    for x, gate in swapped((values[0], values[1])):
        match gate.node.op:
            case "sigmoid" if gate.node.inputs[0] == x and scale == 1:
                return apply("silu", x, loc=n.loc)
            case "add" if _close(scale, 0.5, dtype) and (form := _gelu_form(x, gate, dtype)):
                return apply("gelu", x, loc=n.loc, approximate=form)
            case "hard_sigmoid" if gate.node.inputs[0] == x and scale == 1:
                attrs = gate.node.attrs
                if _close(attrs["alpha"], 1 / 6, dtype) and attrs["beta"] == 0.5:
                    return apply("hard_swish", x, loc=n.loc)
            case "clip" | "min" if _close(scale, 1 / 6, dtype) and _is_relu6_of_3_more(gate, x):
                return apply("hard_swish", x, loc=n.loc)
    return None


def _plus(v: Value, expected: float) -> Value | None:
    """x of x + expected."""
    if v.node.op == "add" and uniform(v.node.inputs[1]) == expected and v.node.inputs[0].type == v.type:
        return v.node.inputs[0]
    return None


def _gelu_form(x: Value, gate: Value, dtype: DType) -> str:
    inner = _plus(gate, 1)
    if inner is None or inner.node.op not in ("erf", "tanh"):
        return ""
    argument = _scaled(inner.node.inputs[0])
    if argument is None:
        return ""
    u, c = argument
    if inner.node.op == "erf":
        return "none" if u == x and _close(c, math.sqrt(0.5), dtype) else ""
    return "tanh" if _close(c, math.sqrt(2 / math.pi), dtype) and _is_cubic(u, x, dtype) else ""


def _is_cubic(u: Value, x: Value, dtype: DType) -> bool:
    """u == x + 0.044715 * x^3, or x * (1 + 0.044715 * x^2)."""
    if u.node.op == "add":
        for a, b in swapped((u.node.inputs[0], u.node.inputs[1])):
            if a == x and _is_power_of(b, x, 3, 0.044715, dtype):
                return True
    if u.node.op == "mul":
        for a, b in swapped((u.node.inputs[0], u.node.inputs[1])):
            inner = _plus(b, 1)
            if a == x and inner is not None and _is_power_of(inner, x, 2, 0.044715, dtype):
                return True
    return False


def _is_power_of(v: Value, x: Value, exponent: int, scale: float, dtype: DType) -> bool:
    """v == scale * x^exponent, as products of x and pow(x, k) in any order."""
    if len(v.node.types) != 1:
        return False
    values, factor = _factors(v.node)
    count = 0.0
    for f in values:
        if f == x:
            count += 1
        elif f.node.op == "pow" and f.node.inputs[0] == x:
            count += uniform(f.node.inputs[1]) or math.nan
        else:
            return False
    return count == exponent and _close(factor, scale, dtype)


def _is_relu6_of_3_more(gate: Value, x: Value) -> bool:
    """gate == min(max(x + 3, 0), 6)."""
    if gate.node.op == "clip":
        inner, low, high = gate.node.inputs
        return uniform(low) == 0 and uniform(high) == 6 and _plus(inner, 3) == x
    inner, high = gate.node.inputs
    return uniform(high) == 6 and inner.node.op == "relu" and _plus(inner.node.inputs[0], 3) == x


def _sigmoid(n: Node) -> Value | None:
    if n.op == "div":
        if uniform(n.inputs[0]) != 1:
            return None
        below = n.inputs[1]
    else:
        below = n.inputs[0]
    e = _plus(below, 1)
    if e is None or e.node.op != "exp" or e.node.inputs[0].node.op != "neg":
        return None
    return apply("sigmoid", e.node.inputs[0].node.inputs[0], loc=n.loc)


# --- norms ---


def _norm(n: Node) -> Value | None:
    """x / sqrt(mean(x^2) + epsilon), with x - mean(x) for x where it is layer_norm."""
    for x, root in swapped((n.inputs[0], n.inputs[1])) if n.op == "mul" else ((n.inputs[0], n.inputs[1]),):
        if n.op == "mul":
            if root.node.op != "reciprocal":
                continue
            root = root.node.inputs[0]
        if root.node.op != "sqrt" or root.node.inputs[0].node.op != "add" or x.dtype.name not in ("f32", "f64"):
            continue  # narrow floats round at every step written out, and only once in the norms
        square, epsilon = root.node.inputs[0].node.inputs
        averaged = _mean(square)
        amount = uniform(epsilon)
        if averaged is None or amount is None or averaged[0] is None:
            continue
        product, axes = averaged
        if product.node.op != "mul" or product.node.inputs != (x, x) or axes != tuple(range(axes[0], x.type.rank)):
            continue
        return _as_norm(n, x, axes, amount)
    return None


def _as_norm(n: Node, x: Value, axes: tuple[int, ...], epsilon: float) -> Value:
    one = scalar(1.0, x.dtype)
    if x.node.op == "sub":
        source, centre = x.node.inputs
        if _mean(centre) == (source, axes):
            return apply("layer_norm", source, one, loc=n.loc, axis=axes[0], epsilon=float(epsilon))
    return apply("rms_norm", x, one, loc=n.loc, axis=axes[0], epsilon=float(epsilon))


def _affine(n: Node, read_once: list[bool]) -> Value | None:
    """norm(x) * scale and norm(x) + bias as operands of the norm, which nothing else may read."""
    for k, (norm, other) in enumerate(swapped((n.inputs[0], n.inputs[1]))):
        if norm.node.op not in ("layer_norm", "rms_norm") or not read_once[k]:
            continue
        x, scale, *bias = norm.node.inputs
        if bias or other.type.rank > x.type.rank - norm.node.attrs["axis"] or other.dtype is not x.dtype:
            continue
        if n.op == "mul" and is_uniform(scale, 1):
            return apply_node(norm.node.op, (x, other), norm.node.attrs, n.loc).outputs[0]
        if n.op == "add" and norm.node.op == "layer_norm":
            return apply_node("layer_norm", (x, scale, other), norm.node.attrs, n.loc).outputs[0]
    return None


def _mean(v: Value) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) of a mean over axes that are kept with size 1."""
    match v.node.op:
        case "mul" | "div":
            total, by = v.node.inputs
        case _:
            return None
    if total.node.op != "reduce_sum" or not total.node.attrs.get("keepdims", False) or total.type != v.type:
        return None
    x, axes = total.node.inputs[0], total.node.attrs["axes"]
    count = dim_product(x.shape[a] for a in axes)
    if not axes or isinstance(count, DimExpr) or count == 0:
        return None
    number = uniform(by)
    if number is None:
        return None
    expected = np.asarray(1 / count if v.node.op == "mul" else count).astype(x.dtype.np)
    return (x, axes) if number == float(expected) else None


_FORMS = {"mul": (_product, _norm), "div": (_product, _norm, _sigmoid), "reciprocal": (_sigmoid,)}
