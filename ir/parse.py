"""The parser of the text form that `ir/text.py` describes: recursive descent over positions in the text.

It recurses over nesting (graphs in graphs, tuples in tuples) up to a limit and never over statements, needs memory in
proportion to the text, and refuses what is malformed with line and column.  Types that are left out are inferred; those given
are taken as they are, for `ir/verify.py` to check.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

import numpy as np

from .dims import Dim, evaluate_dim, parse_dim
from .errors import ModelError, OctavoError
from .graph import Constant, Graph, Node, Value, const_value, input_value
from .ops.registry import apply_node
from .types import DTYPES, DType, TensorType, parse_type

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
Values: TypeAlias = dict[str, tuple[Value, ...]]  # name -> the results of the node that it names
MAX_NESTING = 50  # what a parser that recurses can take from an untrusted file


def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that `text` describes.  `constants` holds, by digest, what the text does not write out.

    Raises ModelError with line and column for malformed text, unknown values and missing constants.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph(0)
    parser.skip()
    if parser.at < len(text):
        parser.fail("the text goes on after the graph's closing brace")
    return graph


_SPACE = re.compile(r"(?:\s+|;[^\n]*(?:\n|\Z))*")
_BLANK = re.compile(r"\s*")
_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_VALUE = re.compile(r'%(?:([A-Za-z0-9_.]+)|("(?:[^"\\\n]|\\.)*"))(?:#(\d+))?')
_OPERAND = re.compile(r"%|const<")
_GRAPH = re.compile(r"graph\b")
_TYPE = re.compile(r"[a-z0-9]+\[[^\]\n]*\]")
_LOC = re.compile(r"[ \t]*;[ \t]*([^\n]*)")
_SIMPLE = re.compile(
    r"(?:(-?\d+)|(-?(?:\d+\.\d*(?:e[+-]?\d+)?|\d+e[+-]?\d+|inf)|nan(?:\(0x[0-9a-f]+\))?)|(true|false|none))(?=\s*[,)\]>])"
)
_ELEMENTS = re.compile(r'\[((?:"(?:[^"\\\n]|\\.)*"|[^\]"])*)\]|((?:"(?:[^"\\\n]|\\.)*"|[^>"])*)')
_ELEMENT = re.compile(r'\s*("(?:[^"\\\n]|\\.)*"|[^,\s]+)\s*(?:,|$)')
_DIGEST = re.compile(r"#([0-9a-f]{16})")


class _Parser:
    """A recursive-descent parser over positions in the text; it recurses over nesting only, never over statements."""

    def __init__(self, text: str, constants: Mapping[str, np.ndarray]):
        self.text, self.constants = text, constants
        self.at = 0
        self.types: dict[str, TensorType] = {}

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        at = self.at if at is None else at
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        raise ModelError(f"line {line}, column {column}: {why}")

    def skip(self) -> None:
        """Past white space and comment lines."""
        match = _SPACE.match(self.text, self.at)
        assert match
        self.at = match.end()

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = self.peek(pattern)
        if not match:
            found = self.text[self.at : self.at + 20].split("\n")[0]
            self.fail(f"expected {what}, found {found!r}" if found else f"expected {what}, found the end of the line")
        self.at = match.end()
        return match

    def peek(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        blank = _BLANK.match(self.text, self.at)
        assert blank
        self.at = blank.end()
        return pattern.match(self.text, self.at)

    def accept(self, literal: str) -> bool:
        blank = _BLANK.match(self.text, self.at)
        assert blank
        self.at = blank.end()
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def expect(self, literal: str) -> None:
        if not self.accept(literal):
            found = self.text[self.at : self.at + 20].split("\n")[0]
            self.fail(f"expected {literal!r}, found {found!r}" if found else f"expected {literal!r}, found the end of the line")

    def string(self) -> str:
        start = self.at
        try:
            return json.loads(self.take(_STRING, "a quoted string")[0])
        except ValueError as e:
            self.fail(f"a broken string: {e}", start)

    def name(self, what: str) -> str:
        return self.string() if self.peek(_STRING) else self.take(IDENTIFIER, what)[0]

    # graphs and statements

    def graph(self, nesting: int) -> Graph:
        self.check_nesting(nesting)
        self.skip()
        start = self.at
        self.expect("graph")
        name = ""
        if not self.accept("("):
            name = self.name("the graph's name or '('")
            self.expect("(")
        values: Values = {}
        inputs = self.inputs(values)
        self.expect("->")
        named_at = self.output_list()
        self.expect("{")
        updates = self.statements(values, nesting)
        end = self.at
        outputs = []
        for _, at in named_at:
            self.at = at
            outputs.append(self.value(values))
        self.at = end
        names = tuple(n for n, _ in named_at if n is not None)
        if names and len(names) != len(outputs):
            self.fail("name every output or none", named_at[0][1])
        try:
            return Graph(name, tuple(inputs), tuple(outputs), names, updates)
        except ModelError as e:
            self.fail(str(e), start)

    def check_nesting(self, nesting: int) -> None:
        if nesting > MAX_NESTING:
            self.fail(f"nested more than {MAX_NESTING} deep")

    def inputs(self, values: Values) -> list[Value]:
        found = []
        if self.accept(")"):
            return found
        while True:
            start = self.at
            name = self.new_value(values)
            self.expect(":")
            type = self.type()
            loc = self.string() if self.accept("@") else ""
            if name in values:
                self.fail(f"a second input is named {name!r}", start)
            values[name] = (input_value(name, type, loc),)
            found.append(values[name][0])
            if self.accept(")"):
                return found
            self.expect(",")

    def output_list(self) -> list[tuple[str | None, int]]:
        """(name or None, position of the value) of each output; the values are read once the statements are known."""
        found: list[tuple[str | None, int]] = []
        self.expect("(")
        if self.accept(")"):
            return found
        while True:
            name = None
            if not self.peek(_VALUE):
                name = self.name("an output")
                self.expect(":")
            blank = _BLANK.match(self.text, self.at)
            assert blank
            found.append((name, blank.end()))
            self.take(_VALUE, "a value such as %3")
            if self.accept(")"):
                return found
            self.expect(",")

    def statements(self, values: Values, nesting: int) -> dict[Value, Value]:
        updates: dict[Value, Value] = {}
        while True:
            self.skip()
            if self.accept("}"):
                return updates
            if self.text.startswith("update", self.at):
                start = self.at
                self.expect("update")
                variable = self.value(values)
                self.expect("=")
                if variable.node.op != "variable":
                    self.fail(f"only a variable can be updated, not the result of {variable.node.op}", start)
                if variable in updates:
                    self.fail("the variable is updated twice", start)
                updates[variable] = self.value(values)
                continue
            start = self.at
            name = self.new_value(values)
            if name in values:
                self.fail(f"%{name} is defined twice", start)
            self.expect("=")
            values[name] = self.statement(values, nesting).outputs

    def statement(self, values: Values, nesting: int) -> Node:
        start = self.at
        op = self.take(IDENTIFIER, "an op")[0]
        self.expect("(")
        operands: list[Value] = []
        attrs: dict[str, Any] = {}
        if not self.accept(")"):
            while True:
                self.argument(operands, attrs, values, nesting)
                if self.accept(")"):
                    break
                self.expect(",")
        types: list[TensorType] = []
        if self.accept(":"):
            types.append(self.type())
            while self.accept(","):
                types.append(self.type())
        loc = self.loc()
        if types:
            return Node(op, tuple(operands), attrs, tuple(types), loc)
        if op == "input":
            self.fail("an input belongs in the graph's header", start)
        try:
            return apply_node(op, operands, attrs, loc)
        except Exception as e:  # inference takes the kinds of attributes for granted; a hostile text does not keep to them
            self.fail(f"the types are left out and cannot be inferred: {e}", start)

    def loc(self) -> str:
        match = _LOC.match(self.text, self.at)
        if not match:
            return ""
        self.at = match.start(1)
        if self.text.startswith('"', self.at):
            return self.string()
        self.at = match.end()
        return match[1].rstrip()

    def argument(self, operands: list[Value], attrs: dict[str, Any], values: Values, nesting: int) -> None:
        if self.peek(_OPERAND) and attrs:
            self.fail("operands come before attributes")
        if self.text.startswith("%", self.at):
            operands.append(self.value(values))
        elif self.text.startswith("const<", self.at):
            operands.append(const_value(self.constant()))
        else:
            start = self.at
            name = self.take(IDENTIFIER, "an operand or an attribute")[0]
            self.expect("=")
            if name in attrs:
                self.fail(f"the attribute {name} is given twice", start)
            attrs[name] = self.attribute(nesting)

    def new_value(self, values: Values) -> str:
        start = self.at
        match = self.take(_VALUE, "a value such as %3")
        if match[3]:
            self.fail("a definition names the node, not one of its results", start)
        return self._value_name(match, start)

    def _value_name(self, match: re.Match[str], start: int) -> str:
        if match[1]:
            return match[1]
        try:
            return json.loads(match[2])
        except ValueError as e:
            self.fail(f"a broken string: {e}", start)

    def value(self, values: Values) -> Value:
        match = self.take(_VALUE, "a value such as %3")
        name = self._value_name(match, match.start())
        found = values.get(name)
        if found is None:
            self.fail(f"%{name} is not defined above", match.start())
        index = int(match[3] or 0)
        if index >= len(found):
            self.fail(f"%{name} has {len(found)} results, there is no #{index}", match.start())
        return found[index]

    # types and attributes

    def type(self) -> TensorType:
        match = self.take(_TYPE, "a type such as f32[batch,784]")
        found = self.types.get(match[0])
        if found is None:
            try:
                found = self.types[match[0]] = parse_type(match[0])
            except (OctavoError, ValueError) as e:
                self.fail(str(e), match.start())
        return found

    def attribute(self, nesting: int) -> Any:
        self.check_nesting(nesting)
        if match := self.peek(_SIMPLE):
            self.at = match.end()
            if match[1]:
                return self._int(match[1], match.start())
            if match[2]:
                return _float(match[2])
            return {"true": True, "false": False, "none": None}[match[3]]
        start = self.at
        if self.text.startswith('"', start):
            return self.string()
        if self.accept("["):
            return self.tuple(nesting + 1)
        if self.text.startswith("const<", start):
            return self.constant()
        if _GRAPH.match(self.text, start):
            return self.graph(nesting + 1)
        text = self.expression()
        if text in DTYPES:
            return DTYPES[text]
        if text.startswith("dim(") and text.endswith(")"):
            text = text[4:-1]
        return self._dim(text, start)

    def tuple(self, nesting: int) -> tuple:
        items: list[Any] = []
        if self.accept("]"):
            return ()
        while True:
            items.append(self.attribute(nesting))
            if self.accept("]"):
                return tuple(items)
            self.expect(",")

    def expression(self) -> str:
        """The text up to the comma or bracket that ends an attribute."""
        depth, start = 0, self.at
        while self.at < len(self.text):
            char = self.text[self.at]
            if char in ",)]\n" and depth == 0:
                break
            if char in "\n":
                self.fail("the expression does not end on its line", start)
            depth += (char == "(") - (char == ")")
            self.at += 1
        return self.text[start : self.at].strip()

    def _int(self, text: str, at: int) -> int:
        try:
            return int(text)
        except ValueError as e:
            self.fail(str(e), at)

    def _dim(self, text: str, at: int) -> Dim:
        try:
            return parse_dim(text)
        except (OctavoError, ValueError) as e:
            self.fail(f"not an attribute value: {e}", at)

    def constant(self) -> Constant:
        start = self.at
        self.expect("const<")
        type = self.type()
        if match := self.peek(_DIGEST):
            self.at = match.end()
            self.expect(">")
            return self._large(type, match[1], start)
        match = self.take(_ELEMENTS, "the elements")
        texts = self._elements(match)
        self.expect(">")
        if not type.is_static:
            self.fail(f"a constant of type {type} has no fixed size", start)
        shape = tuple(evaluate_dim(d, {}) for d in type.shape)
        expected = (2 if type.dtype.kind == "c" else 1) * math.prod(shape)
        if len(texts) != expected:
            self.fail(f"{type} has {expected} elements, the text {len(texts)}", start)
        try:
            return Constant(_array(texts, type.dtype).reshape(shape), type.dtype)
        except (ValueError, OverflowError, TypeError) as e:
            self.fail(f"an element is not a {type.dtype}: {e}", start)

    def _elements(self, match: re.Match[str]) -> list[str]:
        body = match[1] if match[1] is not None else match[2]
        texts, at = [], 0
        while at < len(body.rstrip()):
            element = _ELEMENT.match(body, at)
            if not element:
                self.fail("the elements are not separated by commas", match.start())
            texts.append(element[1])
            at = element.end()
        return texts

    def _large(self, type: TensorType, name: str, start: int) -> Constant:
        array = self.constants.get(name)
        if array is None:
            self.fail(f"the constant #{name} is not written out and was not given to parse", start)
        constant = Constant(array, type.dtype)
        if constant.type != type or constant.array.dtype != type.dtype.np:
            self.fail(f"the constant #{name} is {constant.type}, not {type}", start)
        if constant.digest != name:
            self.fail(f"the constant given for #{name} has other contents (#{constant.digest})", start)
        return constant


def _float(text: str) -> float:
    if text.startswith("nan("):
        return struct.unpack("<d", int(text[6:-1], 16).to_bytes(8, "little"))[0]
    return float(text)


def _array(texts: list[str], dtype: DType) -> np.ndarray:
    """A flat array of elements in text form.  Raises ValueError, OverflowError or TypeError."""
    if dtype.kind == "s":
        return np.array([json.loads(t) for t in texts], object)
    if dtype.kind == "b":
        return np.array([{"true": True, "false": False}[t] if t in ("true", "false") else _refuse(t) for t in texts], bool)
    if dtype.is_int:
        values = [int(t) for t in texts]
        outside = [v for v in values if not dtype.min <= v <= dtype.max]
        if outside:
            raise ValueError(f"{outside[0]} is outside {dtype.min}..{dtype.max}")
        return np.array(values, np.uint64 if dtype.kind == "u" else np.int64).astype(dtype.np)
    wide = dtype.np if dtype.kind == "f" else np.dtype(np.float32 if dtype.bits == 64 else np.float64)
    flat = np.array([0.0 if t.startswith("nan(") else float(t) for t in texts], np.float64).astype(wide)
    bits = flat.view(f"u{wide.itemsize}")
    for k, t in enumerate(texts):
        if t.startswith("nan("):
            bits[k] = int(t[4:-1], 16)
    return flat.view(dtype.np)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text!r} is neither true nor false")
