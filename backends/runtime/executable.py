"""From NumPy arrays to machine code and back: every check that a call needs, in a few microseconds.

Shapes that were seen before cost one dictionary look-up; new ones are checked dim by dim and give a `_Plan`.  What a call
needs besides its arrays (pointer table, workspace) is a `_Frame` from a free list, so calls from several threads run at the
same time and no lock is held.

The machine code of a model called PREFIX is
    i32 PREFIX_main(ptr inputs[], ptr outputs[], ptr sizes[], ptr weights, ptr workspace, ptr threads)
    i64 PREFIX_workspace(ptr sizes[], i32 workers)
where `sizes` holds the values of `signature.symbols`, room for `signature.defined`, which the run fills in, and a word that, when the
status is SIZES, is the address of a text that names the node whose operands do not fit.
For an output marked `defined`, outputs[k] points to eight bytes that receive the address of the result in the workspace.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir.dims import Dim, evaluate_dim, symbols_of
from ...ir.errors import InternalError, OctavoError, ShapeError
from .signature import Signature, TensorSpec
from .status import Status, text_of
from .threads import Threads

_ALIGNMENT = 64
_LARGE = 1 << 20  # bytes of a result that starts at a cache line, so that it can be stored past the caches; to arrange that takes 1 us
_DENSE = 0x101  # NumPy's flags C_CONTIGUOUS and ALIGNED
_LARGEST = 1 << 47  # bytes that a process can address
_PLANS = 256  # plans kept for shapes seen lately
_MAIN = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_void_p] * 6)
_WORKSPACE = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32)

_word_at = ctypes.c_size_t.from_address
_DATA_OFFSET = object.__basicsize__  # the data pointer is the first field of NumPy's stable array struct


def _address_field(array: np.ndarray) -> int:
    return _word_at(id(array) + _DATA_OFFSET).value


def _address_attribute(array: np.ndarray) -> int:
    return array.ctypes.data


_PROBE = np.zeros(3)
# Reading the field takes 0.15 us, the attribute 1 us; an interpreter that lays out objects in another way gets the latter.
address_of = _address_field if _address_field(_PROBE) == _PROBE.ctypes.data else _address_attribute


def aligned(nbytes: int) -> np.ndarray:
    """Uninitialised bytes that start at a multiple of 64."""
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes]


@dataclass(frozen=True)
class _Plan:
    """What follows from the shapes of the inputs.  outputs: shape, dtype, and the number of bytes of those that are large, else 0."""

    sizes: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, ...], np.dtype, int], ...]
    workspace: int


class _Frame:
    """Memory of one running call: pointers to inputs, pointers to outputs, sizes, slots of defined outputs; a workspace."""

    __slots__ = ("capacity", "inputs", "outputs", "sizes", "table", "workspace", "workspace_address")

    def __init__(self, inputs: int, outputs: int, words: int):
        self.table = (ctypes.c_int64 * max(words, 1))()
        base = ctypes.addressof(self.table)
        self.inputs = base
        self.outputs = base + 8 * inputs
        self.sizes = base + 8 * (inputs + outputs)
        self.workspace = aligned(0)
        self.workspace_address = self.workspace.ctypes.data
        self.capacity = 0


class Executable:
    """A model's machine code, ready to call.

    `main` and `workspace` are addresses of machine code, or callables that take the same.  `keepalive` is whatever keeps the code
    and the weights in memory.
    """

    def __init__(
        self,
        signature: Signature,
        main: int | Callable[..., int],
        workspace: int | Callable[..., int],
        weights: np.ndarray,
        pool: Threads | None = None,
        keepalive: object = None,
    ):
        self.signature = signature
        self.threads = pool.count if pool else 1
        self._pool = pool
        self._keepalive = (weights, keepalive)
        self._main = _MAIN(main) if isinstance(main, int) else main
        self._workspace = _WORKSPACE(workspace) if isinstance(workspace, int) else workspace
        self._weights = weights.ctypes.data if weights.size else 0
        if self._weights % _ALIGNMENT:
            raise InternalError(f"the weights of model {signature.name!r} do not start at a multiple of {_ALIGNMENT} bytes")
        self._threads = pool.address if pool else 0
        self._inputs = signature.inputs
        self._dtypes = [spec.np for spec in signature.inputs]
        self._input_dims = [spec.dims for spec in signature.inputs]
        self._output_dims = [(spec, spec.dims, spec.np) for spec in signature.outputs]
        self._requirements = [(r.dim, r.where) for r in signature.requirements]
        self._defined = [k for k, spec in enumerate(signature.outputs) if spec.defined]
        self._counts = (len(signature.inputs), len(signature.outputs))
        self._slots = sum(self._counts) + len(signature.symbols) + len(signature.defined) + 1
        self._pack = struct.Struct(f"={sum(self._counts)}Q{len(signature.symbols)}q").pack_into
        self._plans: dict[tuple[tuple[int, ...], ...], _Plan] = {}
        self._frames: list[_Frame] = []

    def run(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """The outputs for these inputs, in the signature's order.

        Arrays must have the declared dtypes and shapes (ShapeError says what was given and what is accepted); lists and
        numbers are converted; strided, unaligned or byte-swapped arrays are copied.  Safe to call from several threads.
        """
        if len(arrays) != self._counts[0]:
            raise ShapeError(self._count_text(len(arrays)))
        for array, dtype in zip(arrays, self._dtypes):
            if type(array) is not np.ndarray or array.dtype is not dtype or array.flags.num & _DENSE != _DENSE:
                arrays = [_as_dense(spec, dtype, value) for spec, dtype, value in zip(self._inputs, self._dtypes, arrays)]
                break
        shapes = tuple([array.shape for array in arrays])
        plan = self._plans.get(shapes) or self._plan(shapes)
        try:
            outputs = [
                aligned(large).view(dtype).reshape(shape) if large else np.empty(shape, dtype) for shape, dtype, large in plan.outputs
            ]
            frame = self._frame(plan.workspace)
        except MemoryError as error:
            raise OctavoError(f"model {self.signature.name!r} needs more memory than there is: {error}") from error
        try:
            self._pack(frame.table, 0, *map(address_of, arrays), *map(address_of, outputs), *plan.sizes)
            if self._defined:
                self._point_at_slots(frame)
            status = self._main(frame.inputs, frame.outputs, frame.sizes, self._weights, frame.workspace_address, self._threads)
            if status == Status.SIZES:
                where = ctypes.string_at(frame.table[self._slots - 1]).decode()
                raise ShapeError(f"sizes do not fit together in model {self.signature.name!r}: {where} needs other ones")
            if status:
                raise OctavoError(f"model {self.signature.name!r} failed: {text_of(status)} (status {status})")
            if self._defined:
                self._copy_defined(frame, plan, outputs)
        finally:
            self._frames.append(frame)
        return outputs

    def workspace_bytes(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """The scratch memory that a call with inputs of these shapes uses."""
        key = tuple(tuple(shape) for shape in shapes)
        if len(key) != self._counts[0]:
            raise ShapeError(self._count_text(len(key)))
        return (self._plans.get(key) or self._plan(key)).workspace

    def _frame(self, workspace: int) -> _Frame:
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(*self._counts, self._slots + len(self._defined))
        if workspace > frame.capacity:
            frame.capacity = 0
            frame.workspace = aligned(workspace)
            frame.workspace_address = frame.workspace.ctypes.data
            frame.capacity = workspace
        return frame

    def _plan(self, shapes: tuple[tuple[int, ...], ...]) -> _Plan:
        signature = self.signature
        env = self._bind(shapes)
        sizes = tuple(env[name] for name in signature.symbols)
        outputs: list[tuple[tuple[int, ...], np.dtype, int]] = []
        for spec, dims, dtype in self._output_dims:
            shape = (0,) if spec.defined else tuple(evaluate_dim(d, env) for d in dims)
            nbytes = _check_bytes(signature.name, spec, shape, dtype)
            outputs.append((shape, dtype, nbytes if nbytes >= _LARGE else 0))
        for dim, where in self._requirements:
            if evaluate_dim(dim, env) != 0:
                given = ", ".join(f"{name} = {env[name]}" for name in sorted(symbols_of(dim)))
                raise ShapeError(f"the inputs of model {signature.name!r} do not fit together for {given}: {where} needs other sizes")
        table = (ctypes.c_int64 * (len(sizes) + len(signature.defined) + 1))(*sizes)
        workspace = int(self._workspace(ctypes.addressof(table), self.threads))
        if not 0 <= workspace < _LARGEST:
            raise ShapeError(f"model {signature.name!r} would need more workspace than can be addressed for inputs {shapes}")
        plan = _Plan(sizes, tuple(outputs), workspace)
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[shapes] = plan
        return plan

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> dict[str, int]:
        """The values of the symbols.  Raises ShapeError where a shape does not fit."""
        env: dict[str, int] = {}
        source: dict[str, TensorSpec] = {}
        for spec, shape in zip(self._inputs, shapes):
            if len(shape) != len(spec.shape):
                raise ShapeError(f"{self._given(spec, shape)}: it has {len(shape)} dimensions and must have {len(spec.shape)}")
            for axis, (wanted, size) in enumerate(zip(spec.shape, shape)):
                if isinstance(wanted, int) and size != wanted:
                    raise ShapeError(f"{self._given(spec, shape)}: dimension {axis} is {size} and must be {wanted}")
                if wanted in self.signature.symbols and env.setdefault(str(wanted), size) == size:
                    source.setdefault(str(wanted), spec)
        for spec, dims, shape in zip(self._inputs, self._input_dims, shapes):
            for axis, (dim, size) in enumerate(zip(dims, shape)):
                value = evaluate_dim(dim, env)
                if value != size:
                    raise ShapeError(
                        f"{self._given(spec, shape)}: dimension {axis} is {size} and must be {dim} = {value}, "
                        f"because {_because(dim, env, source)}"
                    )
        return env

    def _given(self, spec: TensorSpec, shape: tuple[int, ...]) -> str:
        given = ",".join(map(str, shape))
        return f"input {spec.name!r} of model {self.signature.name!r}: given {spec.dtype}[{given}], accepted {spec.text}"

    def _count_text(self, given: int) -> str:
        wanted = ", ".join(map(repr, self._inputs)) or "none"
        return f"model {self.signature.name!r} takes {self._counts[0]} inputs and was given {given}; it takes {wanted}"

    def _point_at_slots(self, frame: _Frame) -> None:
        base = ctypes.addressof(frame.table)
        for slot, k in enumerate(self._defined):
            frame.table[self._counts[0] + k] = base + 8 * (self._slots + slot)

    def _copy_defined(self, frame: _Frame, plan: _Plan, outputs: list[np.ndarray]) -> None:
        signature = self.signature
        first = sum(self._counts)
        names = (*signature.symbols, *signature.defined)
        env = {name: frame.table[first + k] for k, name in enumerate(names)}
        for slot, k in enumerate(self._defined):
            spec, dims, dtype = self._output_dims[k]
            shape = tuple(evaluate_dim(d, env) for d in dims)
            nbytes = _check_bytes(signature.name, spec, shape, dtype)
            address = frame.table[self._slots + slot]
            offset = address - frame.workspace_address
            if not 0 <= offset <= plan.workspace - nbytes:
                raise InternalError(f"output {spec.name!r} of model {signature.name!r} lies outside the workspace")
            outputs[k] = frame.workspace[offset : offset + nbytes].view(dtype).reshape(shape).copy()


def _because(dim: Dim, env: dict[str, int], source: dict[str, TensorSpec]) -> str:
    facts = [f"{name} is {env[name]} in input {source[name].name!r}" for name in sorted(symbols_of(dim)) if name in source]
    return " and ".join(facts) or "it is fixed"


def _check_bytes(model: str, spec: TensorSpec, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """The size in bytes, exact.  Raises ShapeError for a negative dim or more than can be addressed."""
    nbytes = dtype.itemsize
    for size in shape:
        if size < 0:
            raise ShapeError(f"output {spec.name!r} of model {model!r} would have shape {list(shape)}; the inputs are too small")
        nbytes *= size
    if nbytes >= _LARGEST:
        raise ShapeError(f"output {spec.name!r} of model {model!r} would have shape {list(shape)}, {nbytes} bytes")
    return nbytes


def _as_dense(spec: TensorSpec, dtype: np.dtype, value: Any) -> np.ndarray:
    """The value as a plain, dense, aligned array of the native byte order; converts Python numbers, never an array's dtype."""
    if not hasattr(value, "__array__") and not hasattr(value, "__dlpack__"):
        value = _from_python(spec, dtype, value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(f"input {spec.name!r} is a {type(value).__name__}, which NumPy cannot read: {error}") from error
    if array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
        hint = "" if array.dtype.hasobject else f"; convert it with .astype({str(dtype)!r}) if that is meant"
        raise ShapeError(f"input {spec.name!r} has dtype {array.dtype}, accepted is {dtype} ({spec.text}){hint}")
    if type(array) is np.ndarray and array.dtype is dtype and array.flags.num & _DENSE == _DENSE:
        return array
    return np.array(array, dtype=dtype, order="C", copy=True, subok=False)


def _from_python(spec: TensorSpec, dtype: np.dtype, value: Any) -> np.ndarray:
    """Numbers and nested lists in the input's dtype, where the kind allows it: ints become floats, floats never ints."""
    try:
        natural = np.asarray(value)
        if natural.size == 0 or np.can_cast(natural.dtype, dtype, "same_kind") or natural.dtype.kind + dtype.kind == "iu":
            return np.array(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ShapeError(f"input {spec.name!r} cannot be made an array of {dtype} ({spec.text}): {error}") from error
    raise ShapeError(f"input {spec.name!r} is {type(value).__name__} of {natural.dtype}, accepted is {dtype} ({spec.text})")
