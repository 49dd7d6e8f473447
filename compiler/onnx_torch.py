"""An ONNX model as a PyTorch module, so that torch.compile can be measured beside the others.

PyTorch writes ONNX but does not read it.  The reader here serves measurements and nothing else: it fixes the sizes to those of the
inputs at hand, computes once whatever follows from sizes and weights alone, and turns the rest, node by node, into calls of torch.
It knows the operators in `torch_ops`, and refuses a model with any other.

>>> module = read_module("model.onnx", feeds)
>>> torch.compile(module)(*tensors)                               # in the order of the model's inputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch  # pyright: ignore[reportMissingImports]
import torch._inductor.config as inductor  # pyright: ignore[reportMissingImports]
from onnx import numpy_helper

from ..ir.errors import UnsupportedOp
from .torch_ops import OPS, Node, Tensor


class OnnxModule(torch.nn.Module):
    """The calls that are left; `forward` takes the model's inputs in order and gives its outputs in order."""

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str], constants: Mapping[str, Tensor], steps: Sequence[Any]):
        super().__init__()
        self._inputs, self._outputs, self._steps = list(inputs), list(outputs), list(steps)
        self._constants = [(name, f"constant_{k}") for k, name in enumerate(constants)]
        for name, attribute in self._constants:
            self.register_buffer(attribute, constants[name])

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = {"": None, **dict(zip(self._inputs, inputs))}
        for name, attribute in self._constants:
            values[name] = getattr(self, attribute)
        for call, reads, writes in self._steps:
            found = call(*[values[name] for name in reads])
            values.update(zip(writes, found if isinstance(found, tuple) else (found,)))
        return [values[name] for name in self._outputs]


def read_module(path: str, feeds: Mapping[str, np.ndarray]) -> tuple[OnnxModule, list[str]]:
    """The module for inputs as large as `feeds`, and the names of its inputs in order.

    Raises UnsupportedOp for a node that has no translation.
    """
    model = onnx.load(path)
    opset = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    values: dict[str, Tensor] = {"": None}
    values.update({t.name: _tensor(numpy_helper.to_array(t)) for t in model.graph.initializer})
    fixed = set(values)
    inputs = [i.name for i in model.graph.input if i.name not in values]
    values.update({name: _tensor(feeds[name]) for name in inputs})
    steps = []
    with torch.inference_mode():
        for proto in model.graph.node:
            if proto.op_type not in OPS:
                raise UnsupportedOp(f"{proto.op_type} has no translation to torch")
            reads, writes = tuple(proto.input), tuple(proto.output)
            attrs = {a.name: _attribute(a) for a in proto.attribute}
            known = tuple(name in fixed for name in reads)
            call = OPS[proto.op_type](Node(proto.op_type, attrs, tuple(values[name] for name in reads), known, opset))
            found = call(*(values[name] for name in reads))
            values.update(zip(writes, found if isinstance(found, tuple) else (found,)))
            if all(known) or proto.op_type in ("Shape", "Size"):
                fixed.update(writes)
            else:
                steps.append((call, reads, writes))
    read = {name for _, reads, _ in steps for name in reads} | {o.name for o in model.graph.output}
    constants = {name: values[name].clone() for name in values if name in fixed & read and name}
    return OnnxModule(inputs, [o.name for o in model.graph.output], constants, steps), inputs


def open_compiled(path: str) -> Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]:
    """A function of the model's inputs that torch.compile compiles, with weights frozen, when it is first called."""
    inductor.freezing = True  # weights become constants, laid out as the kernels want them
    compiled: list[Any] = []

    @torch.inference_mode()
    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if not compiled:
            module, names = read_module(path, feeds)
            compiled.extend((torch.compile(module.eval()), names))
        function, names = compiled
        return [y.numpy() for y in function(*[torch.from_numpy(feeds[name]) for name in names])]

    return run


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))  # a copy that torch may own


def _attribute(a: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(a)
    if isinstance(value, bytes):
        return value.decode()
    return _tensor(numpy_helper.to_array(value)) if isinstance(value, onnx.TensorProto) else value
