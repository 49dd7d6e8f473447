"""Recurrent networks as ONNX defines them: one matmul over all steps for the inputs, then a `scan` with a small body.

x[t, b, in], w[d, gates * h, in], r[d, gates * h, h], bias[d, 2 * gates * h], h0[d, b, h], where d is 2 for direction
"bidirectional"; results y[t, d, b, h] and the last state(s) [d, b, h].  With layout 1 the batch comes first: x[b, t, in],
h0[b, d, h], y[b, t, d, h].  Steps at or past a sequence's length keep the state and give zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ShapeError
from ..graph import Graph, Value, input_value
from ..types import TensorType, i64
from .nn import normal
from .operators import build, cast, narrow, reshape, size, transpose, widen
from .registry import Sample, apply, apply_node, composite

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
Cell = Callable[[list[Value], Value, Value, list[Value]], list[Value]]  # states, x part, r, further captures -> next states
Activation = Callable[[Value], Value]


@dataclass(frozen=True)
class _Form:
    """How an activation is written: the op or expression, and the defaults of its alpha and beta."""

    make: Callable[..., Value]
    alpha: float | None = None
    beta: float | None = None


def _scaled_tanh(x: Value, alpha: float, beta: float) -> Value:
    return build("mul", apply("tanh", build("mul", x, beta)), alpha)


_ACTIVATIONS: dict[str, _Form] = {
    "relu": _Form(lambda x: apply("relu", x)),
    "tanh": _Form(lambda x: apply("tanh", x)),
    "sigmoid": _Form(lambda x: apply("sigmoid", x)),
    "softsign": _Form(lambda x: apply("softsign", x)),
    "softplus": _Form(lambda x: apply("softplus", x)),
    "leakyrelu": _Form(lambda x, alpha: apply("leaky_relu", x, alpha=alpha), 0.01),
    "thresholdedrelu": _Form(lambda x, alpha: apply("thresholded_relu", x, alpha=alpha), 1.0),
    "elu": _Form(lambda x, alpha: apply("elu", x, alpha=alpha), 1.0),
    "affine": _Form(lambda x, alpha, beta: build("add", build("mul", x, alpha), beta), 1.0, 0.0),
    "scaledtanh": _Form(_scaled_tanh, 1.0, 1.0),
    "hardsigmoid": _Form(lambda x, alpha, beta: apply("hard_sigmoid", x, alpha=alpha, beta=beta), 0.2, 0.5),
}


def _activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """The functions of these names; alphas and betas go to those that take them, in order, and may run out."""
    given_alphas, given_betas = iter(alphas), iter(betas)
    result: list[Activation] = []
    for name in names:
        form = _ACTIVATIONS.get(name.lower())
        if form is None:
            raise ShapeError(f"there is no activation {name!r}; known: {', '.join(_ACTIVATIONS)}")
        arguments = [
            next(given, default) for default, given in ((form.alpha, given_alphas), (form.beta, given_betas)) if default is not None
        ]
        result.append(lambda x, make=form.make, arguments=arguments: make(x, *arguments))
    return result


def _part(x: Value, k: int, width: Any) -> Value:
    """The k-th run of `width` columns."""
    return narrow(x, x.type.rank - 1, k * width, (k + 1) * width)


def _limited(x: Value, clip: float) -> Value:
    return build("clip", x, -clip, clip) if clip else x


def _step(h: Value, r: Value) -> Value:
    return apply("matmul", h, r)


@dataclass(frozen=True)
class _Network:
    """What the three kinds share: operands in steps-first layout and wide dtype, and how to run one direction."""

    x: Value
    w: Value
    r: Value
    bias: Value
    lengths: Value | None

    def run(
        self,
        k: int,
        backward: bool,
        gates: int,
        cell: Cell,
        states: list[Value],
        *,
        late_bias: int = 0,
        late_gates: int = 0,
        extra: Sequence[Value] = (),
    ) -> tuple[Value, list[Value]]:
        """One direction: results [t, b, h] and final states [b, h].

        The biases of the last `late_bias` gates of r are not added to the x part but passed to the cell as its last capture;
        the columns of r of the last `late_gates` gates are cut off, once for all steps, and passed as its first.
        """
        steps, batch, width = self.x.shape
        hidden = self.r.shape[2]
        w, r, bias = (reshape(narrow(v, 0, k, k + 1), v.shape[1:]) for v in (self.w, self.r, self.bias))
        early = (gates - late_bias) * hidden
        of_x, of_r = narrow(bias, 0, 0, gates * hidden), narrow(bias, 0, gates * hidden, 2 * gates * hidden)
        across, cut = transpose(r, (1, 0)), (gates - late_gates) * hidden
        captures = [narrow(across, 1, 0, cut), *extra]
        if late_gates:
            captures.insert(1, narrow(across, 1, cut, gates * hidden))
        if late_bias:
            first = build("add", narrow(of_x, 0, 0, early), narrow(of_r, 0, 0, early))
            captures.append(narrow(of_r, 0, early, gates * hidden))
            of_x = apply("concat", first, narrow(of_x, 0, early, gates * hidden), axis=0)
        else:
            of_x = build("add", of_x, of_r)
        flat = reshape(self.x, (steps * batch, width))
        parts = reshape(build("add", apply("matmul", flat, transpose(w, (1, 0))), of_x), (steps, batch, gates * hidden))
        if self.lengths is not None:
            captures.append(reshape(cast(self.lengths, i64), (batch, 1)))
        body = self._body(cell, states, parts, captures, backward)
        attrs = {"body": body, "states": len(states), "length": steps, "captures": len(captures)}
        attrs["reverse"] = (backward, backward)
        node = apply_node("scan", [*states, parts, *captures], attrs)
        *finals, y = node.outputs
        return y, finals

    def _body(self, cell: Cell, states: list[Value], parts: Value, captures: list[Value], backward: bool) -> Graph:
        step = input_value("step", TensorType(i64, ()))
        before = [input_value(f"state{k}", v.type) for k, v in enumerate(states)]
        part = input_value("x", parts.type.with_shape(parts.shape[1:]))
        shared = [input_value(f"capture{k}", v.type) for k, v in enumerate(captures)]
        known = shared[1:-1] if self.lengths is not None else shared[1:]
        after = cell(before, part, shared[0], known)
        shown = after[0]
        if self.lengths is not None:
            place = build("sub", size(parts.shape[0] - 1, i64), step) if backward else step
            running = apply("lt", place, shared[-1])
            shown = build("where", running, shown, 0.0)
            after = [apply("where", running, new, old) for new, old in zip(after, before, strict=True)]
        names = (*(f"next{k}" for k in range(len(after))), "y")
        return Graph("step", (step, *before, part, *shared), (*after, shown), names)


def _network(x: Value, w: Value, r: Value, bias: Value, rest: Sequence[Value], layout: int) -> tuple[_Network, list[Value]]:
    """The shared operands, and those of `rest` that are not the sequence lengths (the only integers among them)."""
    lengths = next((v for v in rest if v.dtype.is_int), None)
    if x.type.rank != 3 or w.type.rank != 3 or r.type.rank != 3 or bias.type.rank != 2:
        raise ShapeError("x, w and r need three axes each, the bias two")
    x = transpose(x, (1, 0, 2)) if layout else x
    return _Network(widen(x), widen(w), widen(r), widen(bias), lengths), [widen(v) for v in rest if not v.dtype.is_int]


def _directions(direction: str) -> tuple[bool, ...]:
    if direction not in _DIRECTIONS:
        raise ShapeError(f"the direction is {', '.join(_DIRECTIONS)}, not {direction!r}")
    return _DIRECTIONS[direction]


def _initial(state: Value, k: int, layout: int) -> Value:
    state = transpose(widen(state), (1, 0, 2)) if layout else widen(state)
    return reshape(narrow(state, 0, k, k + 1), state.shape[1:])


def _results(runs: list[tuple[Value, list[Value]]], like: Value, layout: int) -> tuple[Value, ...]:
    """y[t, d, b, h] and final states [d, b, h] (or batch-first) of all directions together."""
    steps, batch, hidden = runs[0][0].shape
    y = apply("concat", *(reshape(y, (steps, 1, batch, hidden)) for y, _ in runs), axis=1)
    finals = [apply("concat", *(reshape(states[k], (1, batch, hidden)) for _, states in runs), axis=0) for k in range(len(runs[0][1]))]
    if layout:
        y, finals = transpose(y, (2, 0, 1, 3)), [transpose(v, (1, 0, 2)) for v in finals]
    return tuple(cast(v, like.dtype) for v in (y, *finals))


def _samples(gates: int, states: int, *cases: dict[str, Any]) -> Callable[[np.random.Generator], Iterable[Sample]]:
    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        steps, batch, width, hidden = 3, 2, 5, 7
        for attrs in cases:
            attrs = dict(attrs)
            lengths = (np.array([3, 1], np.int32),) if attrs.pop("lengths", False) else ()
            d = 2 if attrs.get("direction") == "bidirectional" else 1
            peepholes = ((d, 3 * hidden),) if attrs.pop("peepholes", False) else ()
            x, state = (
                ((batch, steps, width), (batch, d, hidden)) if attrs.get("layout") else ((steps, batch, width), (d, batch, hidden))
            )
            shapes = [x, (d, gates * hidden, width), (d, gates * hidden, hidden), (d, 2 * gates * hidden), *(state,) * states]
            for dtype in (np.float32, np.float64):
                arrays = normal(rng, dtype, *shapes)
                yield Sample((*arrays, *lengths, *normal(rng, dtype, *peepholes)), attrs)

    return samples


@composite(
    samples=_samples(
        4,
        2,
        {},
        {"direction": "bidirectional", "lengths": True},
        {"direction": "reverse", "layout": 1},
        {"peepholes": True, "clip": 0.5, "input_forget": True},
    )
)
def lstm(
    x: Value,
    w: Value,
    r: Value,
    bias: Value,
    h0: Value,
    c0: Value,
    *rest: Value,
    direction: str = "forward",
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float = 0.0,
    input_forget: bool = False,
    layout: int = 0,
) -> tuple[Value, ...]:
    """Long short-term memory, gates in the order i o f c: gives y, the last h and the last c (see the module).

    rest: the sequence lengths, integers [b], and peepholes [d, 3 * h] in the order i o f; either may be left out.
    """
    backwards = _directions(direction)
    network, others = _network(x, w, r, bias, rest, layout)
    names = activations or ("sigmoid", "tanh", "tanh") * len(backwards)
    functions = _activations(names, activation_alpha, activation_beta)
    hidden = r.shape[2]
    runs = []
    for k, backward in enumerate(backwards):
        f, g, h = functions[3 * k : 3 * k + 3]

        def cell(states: list[Value], part: Value, r: Value, known: list[Value], f: Any = f, g: Any = g, h: Any = h) -> list[Value]:
            before, memory = states
            z = build("add", part, _step(before, r))
            zi, zo, zf, zc = (_part(z, gate, hidden) for gate in range(4))
            if known:
                pi, po, pf = (_part(known[0], gate, hidden) for gate in range(3))
                zi, zf = (build("add", v, build("mul", memory, p)) for v, p in ((zi, pi), (zf, pf)))
            i = f(_limited(zi, clip))
            forget = build("sub", 1.0, i) if input_forget else f(_limited(zf, clip))
            memory = build("add", build("mul", forget, memory), build("mul", i, g(_limited(zc, clip))))
            if known:
                zo = build("add", zo, build("mul", memory, po))  # type: ignore[possibly-unbound]
            return [build("mul", f(_limited(zo, clip)), h(memory)), memory]

        extra = [narrow(others[0], 0, k, k + 1)] if others else []
        states = [_initial(h0, k, layout), _initial(c0, k, layout)]
        runs.append(network.run(k, backward, 4, cell, states, extra=extra))
    return _results(runs, x, layout)


@composite(
    samples=_samples(
        3,
        1,
        {},
        {"direction": "bidirectional", "lengths": True},
        {"linear_before_reset": True, "layout": 1},
        {"direction": "reverse", "clip": 0.5, "linear_before_reset": True, "lengths": True},
    )
)
def gru(
    x: Value,
    w: Value,
    r: Value,
    bias: Value,
    h0: Value,
    *rest: Value,
    direction: str = "forward",
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float = 0.0,
    linear_before_reset: bool = False,
    layout: int = 0,
) -> tuple[Value, ...]:
    """Gated recurrent units, gates in the order z r h: gives y and the last h (see the module).

    rest: the sequence lengths, integers [b], or nothing.
    """
    backwards = _directions(direction)
    network, _ = _network(x, w, r, bias, rest, layout)
    functions = _activations(activations or ("sigmoid", "tanh") * len(backwards), activation_alpha, activation_beta)
    hidden = r.shape[2]
    runs = []
    for k, backward in enumerate(backwards):
        f, g = functions[2 * k : 2 * k + 2]

        def cell(states: list[Value], part: Value, r: Value, known: list[Value], f: Any = f, g: Any = g) -> list[Value]:
            (before,) = states
            if linear_before_reset:
                linear = _step(before, r)
                gates = build("add", narrow(part, 1, 0, 2 * hidden), narrow(linear, 1, 0, 2 * hidden))
            else:
                gates = build("add", narrow(part, 1, 0, 2 * hidden), _step(before, r))
            z, reset = (f(_limited(_part(gates, gate, hidden), clip)) for gate in range(2))
            if linear_before_reset:
                recurrent = build("mul", reset, build("add", _part(linear, 2, hidden), known[0]))  # type: ignore[possibly-unbound]
            else:
                recurrent = _step(build("mul", reset, before), known[0])
            candidate = g(_limited(build("add", _part(part, 2, hidden), recurrent), clip))
            return [build("add", candidate, build("mul", z, build("sub", before, candidate)))]

        states = [_initial(h0, k, layout)]
        late = int(linear_before_reset)
        runs.append(network.run(k, backward, 3, cell, states, late_bias=late, late_gates=1 - late))
    return _results(runs, x, layout)


@composite(
    samples=_samples(
        1,
        1,
        {},
        {"direction": "bidirectional", "lengths": True, "activations": ("Relu", "HardSigmoid")},
        {"layout": 1, "clip": 0.5},
    )
)
def rnn(
    x: Value,
    w: Value,
    r: Value,
    bias: Value,
    h0: Value,
    *rest: Value,
    direction: str = "forward",
    activations: tuple[str, ...] = (),
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    clip: float = 0.0,
    layout: int = 0,
) -> tuple[Value, ...]:
    """The plain recurrent network h = f(x w + h r + bias): gives y and the last h (see the module).

    rest: the sequence lengths, integers [b], or nothing.
    """
    backwards = _directions(direction)
    network, _ = _network(x, w, r, bias, rest, layout)
    functions = _activations(activations or ("tanh",) * len(backwards), activation_alpha, activation_beta)
    runs = []
    for k, backward in enumerate(backwards):

        def cell(states: list[Value], part: Value, r: Value, known: list[Value], f: Any = functions[k]) -> list[Value]:
            return [f(_limited(build("add", part, _step(states[0], r)), clip))]

        runs.append(network.run(k, backward, 1, cell, [_initial(h0, k, layout)]))
    return _results(runs, x, layout)
