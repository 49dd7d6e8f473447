"""Symbolic sizes: integer expressions over named symbols, kept in one normal form.

A `Dim` is an int or a `DimExpr`; an expression that turns out constant is always an int again, so that `isinstance(d, int)`
asks "is it static?".  The normal form is a polynomial with integer coefficients over *atoms*: a symbol, or floordiv, mod, max,
min of expressions.  Equal forms are equal sizes; different forms may still be equal sizes for every value of the symbols.

>>> batch = symbol("batch")
>>> (2 * batch + 4) // 2 - batch
2
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias, Union

from .errors import ModelError, ShapeError


@dataclass(frozen=True)
class Atom:
    """A symbol (`op == "symbol"`, `args == (name,)`) or floordiv, mod, max, min of two dims."""

    op: str
    args: tuple

    def __str__(self) -> str:
        if self.op == "symbol":
            return self.args[0]
        if self.op in ("max", "min"):
            return f"{self.op}({self.args[0]},{self.args[1]})"
        return f"({self.args[0]}){'//' if self.op == 'floordiv' else '%'}({self.args[1]})"

    @property
    def key(self) -> str:
        return str(self)


Monomial: TypeAlias = tuple[Atom, ...]


class DimExpr:
    """A polynomial over atoms; build with `symbol` and arithmetic, never directly."""

    __slots__ = ("terms", "_hash", "_text")

    def __init__(self, terms: Mapping[Monomial, int]):
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(sorted(terms.items(), key=lambda t: (-len(t[0]), [a.key for a in t[0]])))
        self._hash = hash(self.terms)
        self._text: str | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, DimExpr) and self.terms == other.terms)

    def __add__(self, other: Dim) -> Dim:
        return _from_terms(_sum(_terms(self), _terms(other)))

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        product: dict[Monomial, int] = {}
        for m1, c1 in _terms(self).items():
            for m2, c2 in _terms(other).items():
                m = tuple(sorted(m1 + m2, key=lambda a: a.key))
                product[m] = product.get(m, 0) + c1 * c2
        return _from_terms(product)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        if self._text is None:
            self._text = "".join(("-" if c < 0 else "+" if i else "") + _monomial_text(m, c) for i, (m, c) in enumerate(self.terms))
        return self._text

    __repr__ = __str__


def _monomial_text(monomial: Monomial, coefficient: int) -> str:
    """The product without its sign; a quotient within a product is bracketed, since * and // bind alike."""
    if coefficient == 1 and len(monomial) == 1:
        return str(monomial[0])
    factors = [f"({a})" if a.op in ("floordiv", "mod") else str(a) for a in monomial]
    return "*".join(([str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []) + factors)


Dim: TypeAlias = Union[int, DimExpr]


def symbol(name: str) -> DimExpr:
    """The symbol of that name.  Raises ModelError unless it is an identifier."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise ModelError(f"{name!r} cannot name a dimension; use letters, digits and underscores")
    return DimExpr({(Atom("symbol", (name,)),): 1})


def _terms(d: Dim) -> dict[Monomial, int]:
    return dict(d.terms) if isinstance(d, DimExpr) else {(): int(d)} if d else {}


def _sum(a: dict[Monomial, int], b: dict[Monomial, int]) -> dict[Monomial, int]:
    for m, c in b.items():
        a[m] = a.get(m, 0) + c
    return a


def _from_terms(terms: Mapping[Monomial, int]) -> Dim:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return DimExpr(kept)


def _atom(op: str, a: Dim, b: Dim) -> DimExpr:
    return DimExpr({(Atom(op, (a, b)),): 1})


def _split_multiple(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """a == q * b + r with as much in q as can be seen term by term: returns (q, r)."""
    if isinstance(b, int):
        quotient = {m: c // b for m, c in _terms(a).items() if c % b == 0}
        rest = {m: c for m, c in _terms(a).items() if c % b}
        return _from_terms(quotient), _from_terms(rest)
    if len(b.terms) == 1:  # a monomial: divide each term by it where that works
        (bm, bc), quotient, rest = b.terms[0], {}, {}
        for m, c in _terms(a).items():
            left = list(m)
            ok = c % bc == 0
            for atom in bm:
                if ok and atom in left:
                    left.remove(atom)
                else:
                    ok = False
            (quotient if ok else rest)[tuple(left) if ok else m] = c // bc if ok else c
        return _from_terms(quotient), _from_terms(rest)
    if isinstance(a, DimExpr):  # a == k * b as a whole
        k = a.terms[0][1] // b.terms[0][1] if b.terms[0][1] else 0
        if k and b * k == a:
            return k, 0
    return 0, a


def floordiv(a: Dim, b: Dim) -> Dim:
    """a // b, rounding towards minus infinity.  Raises ShapeError for a literal zero divisor."""
    if b == 0:
        raise ShapeError(f"the size {a} cannot be divided by 0")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if b == 1 or a == 0:
        return a
    q, r = _split_multiple(a, b)
    if r == 0:
        return q
    if isinstance(b, int) and isinstance(r, int):  # (q*b + r) // b with 0 <= r//b known
        return q + r // b
    if q != 0:
        return q + floordiv(r, b)
    if isinstance(a, DimExpr) and isinstance(b, int) and len(a.terms) == 1 and a.terms[0][1] == 1 and len(a.terms[0][0]) == 1:
        inner = a.terms[0][0][0]  # (x // c) // b == x // (c * b)
        if inner.op == "floordiv" and isinstance(inner.args[1], int):
            return floordiv(inner.args[0], inner.args[1] * b)
    return _atom("floordiv", a, b)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """a / b rounded up, for b > 0."""
    return -floordiv(-a, b)


def mod(a: Dim, b: Dim) -> Dim:
    """a - b * (a // b).  Raises ShapeError for a literal zero divisor."""
    if b == 0:
        raise ShapeError(f"the size {a} cannot be divided by 0")
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    _, r = _split_multiple(a, b)
    if r == 0 or b == 1:
        return 0
    if isinstance(b, int) and isinstance(r, int):
        return r % b
    return _atom("mod", r, b)


def dim_max(a: Dim, b: Dim) -> Dim:
    """The larger of two dims; decided at once where their difference is constant."""
    return _extreme("max", a, b)


def dim_min(a: Dim, b: Dim) -> Dim:
    """The smaller of two dims; decided at once where their difference is constant."""
    return _extreme("min", a, b)


def _extreme(op: str, a: Dim, b: Dim) -> Dim:
    difference = a - b
    if isinstance(difference, int):
        return a if (difference >= 0) == (op == "max") else b
    for x, y in ((a, b), (b, a)):  # max(min(a,b),b) == b, max(max(a,b),b) == max(a,b)
        atom = _single_atom(x)
        if atom is not None and atom.op in ("max", "min") and y in atom.args:
            return x if atom.op == op else y
    first, second = sorted((a, b), key=str)
    return _atom(op, first, second)


def _single_atom(d: Dim) -> Atom | None:
    """The atom that the dim is, if it is one alone."""
    if isinstance(d, DimExpr) and len(d.terms) == 1 and d.terms[0][1] == 1 and len(d.terms[0][0]) == 1:
        return d.terms[0][0][0]
    return None


def check_sizes(sizes: Mapping[str, object]) -> None:
    """Raises ModelError unless each symbol's size is an int that is not negative."""
    for name, size in sizes.items():
        if type(size) is not int or size < 0:
            raise ModelError(f"the dimension {name} cannot be {size!r}; give an integer that is not negative")


def dim_product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def symbols_of(d: Dim) -> frozenset[str]:
    """The names of the symbols in a dim."""
    if isinstance(d, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in d.terms:
        for atom in monomial:
            if atom.op == "symbol":
                found.add(atom.args[0])
            else:
                found |= symbols_of(atom.args[0]) | symbols_of(atom.args[1])
    return frozenset(found)


def divisors(d: Dim) -> frozenset[DimExpr]:
    """Every symbolic size by which something in the dim is divided."""
    found: frozenset[DimExpr] = frozenset()
    for monomial, _ in d.terms if isinstance(d, DimExpr) else ():
        for atom in monomial:
            if atom.op != "symbol":
                found |= divisors(atom.args[0]) | divisors(atom.args[1])
            if atom.op in ("floordiv", "mod") and isinstance(atom.args[1], DimExpr):
                found |= {atom.args[1]}
    return found


def never_negative(d: Dim) -> bool:
    """Whether the form shows that the dim is not negative for any sizes; divisors count as positive (see `divisors`)."""
    if isinstance(d, int):
        return d >= 0
    return all(c > 0 and all(map(_atom_never_negative, monomial)) for monomial, c in d.terms)


def _atom_never_negative(atom: Atom) -> bool:
    match atom.op:
        case "symbol" | "mod":
            return True
        case "floordiv":
            return never_negative(atom.args[0])
        case "max":
            return any(map(never_negative, atom.args))
        case _:
            return all(map(never_negative, atom.args))


def bounds(d: Dim, limits: Mapping[str, Dim]) -> tuple[Dim, Dim]:
    """Dims between which `d` lies while each symbol that `limits` names is between 0 and its limit; divisors are positive.

    >>> n, k = symbol("n"), symbol("k")
    >>> bounds(2 * n - k, {"k": n})
    (n, 2*n)
    """
    if isinstance(d, int) or not symbols_of(d) & limits.keys():
        return d, d
    low: Dim = 0
    high: Dim = 0
    for monomial, coefficient in d.terms:
        least: Dim = 1
        most: Dim = 1
        for atom in monomial:
            a, b = _atom_bounds(atom, limits)
            if never_negative(least) and never_negative(a):
                least, most = least * a, most * b
            else:
                most = dim_max(-least, most) * dim_max(-a, b)
                least = -most
        ends = (coefficient * least, coefficient * most)
        low, high = low + ends[coefficient < 0], high + ends[coefficient > 0]
    return low, high


def _atom_bounds(atom: Atom, limits: Mapping[str, Dim]) -> tuple[Dim, Dim]:
    if atom.op == "symbol":
        (name,) = atom.args
        exact = DimExpr({(atom,): 1})
        return (0, limits[name]) if name in limits else (exact, exact)
    (a_low, a_high), (b_low, b_high) = (bounds(arg, limits) for arg in atom.args)
    match atom.op:
        case "max" | "min":
            return _extreme(atom.op, a_low, b_low), _extreme(atom.op, a_high, b_high)
        case "mod":
            return 0, dim_max(b_high - 1, 0)
        case _ if isinstance(atom.args[1], int):
            return floordiv(a_low, b_high), floordiv(a_high, b_high)
        case _:
            return dim_min(a_low, 0), dim_max(a_high, 0)


_OPS = {"floordiv": floordiv, "mod": mod, "max": dim_max, "min": dim_min}


def substitute(d: Dim, env: Mapping[str, Dim]) -> Dim:
    """The dim with symbols replaced; symbols that `env` lacks stay."""
    if isinstance(d, int):
        return d
    total: Dim = 0
    for monomial, coefficient in d.terms:
        term: Dim = coefficient
        for atom in monomial:
            if atom.op == "symbol":
                term = term * env.get(atom.args[0], DimExpr({(atom,): 1}))
            else:
                term = term * _OPS[atom.op](substitute(atom.args[0], env), substitute(atom.args[1], env))
        total = total + term
    return total


def evaluate_dim(d: Dim, env: Mapping[str, int]) -> int:
    """The value of a dim.  Raises ModelError when a symbol has none, ShapeError for a division by 0."""
    value = substitute(d, env)
    if isinstance(value, int):
        return value
    raise ModelError(f"the size {d} needs a value for {', '.join(sorted(symbols_of(value)))}")


_GROUPS = 4096  # parts of formulas that are remembered: those of a model repeat each other
_groups: dict[str, Dim] = {}  # text in parentheses -> what it means
_TOKEN = re.compile(r"\s*(//|[-+*%(),]|\d+|[A-Za-z_][A-Za-z0-9_.]*)")


@lru_cache(_GROUPS)
def least_size(d: Dim) -> int:
    """The size where every symbol is 1."""
    return evaluate_dim(d, dict.fromkeys(symbols_of(d), 1))


def parse_dim(text: str) -> Dim:
    """`"2*seq+1"` -> Dim; the inverse of `str`.  Raises ModelError."""
    tokens: list[str] = []
    at = 0
    stripped = text.rstrip()
    while at < len(stripped):
        match = _TOKEN.match(stripped, at)
        if not match:
            raise ModelError(f"{text!r} is not a dimension; write an integer or an expression such as 2*seq+1")
        tokens.append(match[1])
        at = match.end()
    closing = _closing(tokens)
    pos = 0

    def peek() -> str:
        return tokens[pos] if pos < len(tokens) else ""

    def take(expected: str = "") -> str:
        nonlocal pos
        token = peek()
        if not token or (expected and token != expected):
            raise ModelError(f"{text!r} is not a dimension: expected {expected or 'more'} after {' '.join(tokens[:pos])!r}")
        pos += 1
        return token

    def atom(depth: int) -> Dim:
        nonlocal pos
        if depth > 100:
            raise ModelError(f"the dimension {text[:60]!r}... is nested more than 100 deep")
        start = pos
        token = take()
        if token == "-":
            return -atom(depth + 1)
        if token == "(" or (token in ("max", "min") and peek() == "("):
            end = closing.get(start if token == "(" else pos)
            if end is None:
                return group(token, depth)
            known = "".join(tokens[start : end + 1])
            value = _groups.get(known)
            if value is None:
                value = group(token, depth)
                if len(_groups) >= _GROUPS:
                    _groups.clear()
                _groups[known] = value
            pos = end + 1
            return value
        if token.isdigit():
            return int(token)
        return symbol(token)

    def group(token: str, depth: int) -> Dim:
        if token == "(":
            inner = total(depth + 1)
            take(")")
            return inner
        take("(")
        first = total(depth + 1)
        take(",")
        second = total(depth + 1)
        take(")")
        return _extreme(token, first, second)

    def product(depth: int) -> Dim:
        value = atom(depth)
        while peek() in ("*", "//", "%"):
            op = take()
            right = atom(depth)
            value = value * right if op == "*" else floordiv(value, right) if op == "//" else mod(value, right)
        return value

    def total(depth: int) -> Dim:
        value = product(depth)
        while peek() in ("+", "-"):
            value = value + product(depth) if take() == "+" else value - product(depth)
        return value

    result = total(0)
    if pos != len(tokens):
        raise ModelError(f"{text!r} is not a dimension: {peek()!r} is out of place")
    return result


def _closing(tokens: Sequence[str]) -> dict[int, int]:
    """Where each parenthesis that is closed is closed."""
    found: dict[int, int] = {}
    open_at: list[int] = []
    for k, token in enumerate(tokens):
        if token == "(":
            open_at.append(k)
        elif token == ")" and open_at:
            found[open_at.pop()] = k
    return found
