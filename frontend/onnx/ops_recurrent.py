"""LSTM, GRU and RNN: absent biases and states are zeros, attributes as ONNX names them."""

from __future__ import annotations

from typing import Any

from ...ir.errors import ShapeError, UnsupportedOp
from ...ir.graph import Value
from .registry import Operand, Site, Tensor, onnx_op


def recurrent(
    n: Site,
    op: str,
    gates: int,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    bias: Operand,
    states: list[Operand],
    rest: list[Operand],
    **more: Any,
) -> tuple[Value, ...]:
    if x.rank != 3 or w.rank != 3 or r.rank != 3:
        raise ShapeError("X, W and R need three axes each")
    layout, hidden, directions = n.integer("layout"), r.shape[2], w.shape[0]
    batch = x.shape[0 if layout else 1]
    zero = (batch, directions, hidden) if layout else (directions, batch, hidden)
    biases = bias.value if bias is not None else n.full(0, (directions, 2 * gates * hidden), x.dtype)
    initial = [n.broadcast(s, zero) if s is not None else n.full(0, zero, x.dtype) for s in states]
    names = n.attr("activations") or ()
    known = {"activations": tuple(a.lower() for a in names)} if names else {}
    for name in ("activation_alpha", "activation_beta"):
        if n.attr(name):
            known[name] = tuple(n.attr(name))
    if n.number("clip"):
        more["clip"] = n.number("clip")
    given = [v for v in rest if v is not None]
    direction = n.text("direction", "forward")
    try:
        return n.apply_all(op, x, w, r, biases, *initial, *given, direction=direction, layout=layout, **known, **more)
    except KeyError as e:
        raise UnsupportedOp(f"the activation {e} is not supported") from None


@onnx_op("LSTM")
def lstm(
    n: Site, x: Tensor, w: Tensor, r: Tensor, b: Operand = None, lens: Operand = None, h: Operand = None, c: Operand = None,
    p: Operand = None,
) -> tuple[Value, ...]:  # fmt: skip
    return recurrent(n, "lstm", 4, x, w, r, b, [h, c], [lens, p], input_forget=bool(n.integer("input_forget")))


@onnx_op("GRU")
def gru(n: Site, x: Tensor, w: Tensor, r: Tensor, b: Operand = None, lens: Operand = None, h: Operand = None) -> tuple[Value, ...]:
    return recurrent(n, "gru", 3, x, w, r, b, [h], [lens], linear_before_reset=bool(n.integer("linear_before_reset")))


@onnx_op("RNN")
def rnn(n: Site, x: Tensor, w: Tensor, r: Tensor, b: Operand = None, lens: Operand = None, h: Operand = None) -> tuple[Value, ...]:
    return recurrent(n, "rnn", 1, x, w, r, b, [h], [lens])
