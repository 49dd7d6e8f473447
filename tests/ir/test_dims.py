"""Symbolic sizes: one normal form, printed so that it reads back, and equal to integer arithmetic for every value."""

import itertools

import pytest
from octavo.ir.dims import (
    bounds,
    ceildiv,
    dim_max,
    dim_min,
    dim_product,
    divisors,
    evaluate_dim,
    floordiv,
    mod,
    never_negative,
    parse_dim,
    substitute,
    symbol,
    symbols_of,
)  # fmt: skip
from octavo.ir.errors import ModelError, ShapeError

A, B = symbol("a"), symbol("b")

FORMS = [
    A, A + 0, 2 * A + 3 - A, A * B - B * A + 7, (A + B) * (A - B), A * A * 3 - 1, -A, 5 - A, A // 2, (2 * A + 5) // 2,
    3 * (A // 2) + 1, -(A // 2), (A // 2) * (B // 3), A % 4, (4 * A + 6) % 4, 2 * (A % 3) * B, (A // 2) // 3, A // B,
    (A * B) // B, (A - 7) // -2,
    ceildiv(A, 3), ceildiv(A * 2, 2), dim_max(A, B), dim_min(A, B + 1), dim_max(A, A + 1), dim_max(A + B, 3) * 2 - 1,
    floordiv((A + 2 - 3) // 2 + 1 + 2 - 3, 2) + 1, (A + 2 * B) // (A + 2 * B), (A // 2) % 5, dim_min(A // 2, dim_max(B, 2)) * A,
]  # fmt: skip


@pytest.mark.parametrize("d", FORMS, ids=str)
def test_forms_read_back_as_they_print(d):
    assert parse_dim(str(d)) == d
    assert str(parse_dim(str(d))) == str(d)


MEANINGS = [
    (lambda a, b: 2 * a + 3 - a * b, "linear"),
    (lambda a, b: floordiv(a * 6 + b, 3), "divides term by term"),
    (lambda a, b: floordiv(a - 2 * b, -3), "divides by a negative number"),
    (lambda a, b: mod(5 * a + 7 * b - 3, 5), "remainder"),
    (lambda a, b: floordiv(a * b + b, b + 1), "divides by an expression"),
    (lambda a, b: ceildiv(2 * a - 7, 4) * b, "rounds up"),
    (lambda a, b: dim_max(a, 3) - dim_min(b, a), "extremes"),
    (lambda a, b: floordiv(floordiv(a + b, 2), 3), "divides twice"),
    (lambda a, b: floordiv(2 * a + 1, 2) + mod(a * a, a + 1), "mixed"),
]


@pytest.mark.parametrize("f", [f for f, _ in MEANINGS], ids=[name for _, name in MEANINGS])
def test_symbolic_arithmetic_is_integer_arithmetic(f):
    form = f(A, B)
    for a, b in itertools.product(range(13), range(1, 9)):
        assert evaluate_dim(form, {"a": a, "b": b}) == f(a, b)
        assert substitute(substitute(form, {"a": a}), {"b": b}) == f(a, b)


def test_what_cancels_is_an_int():
    for d in (A - A, (2 * A + 4) // 2 - A, (A * B) % B, dim_max(A, A + 2) - A, 0 * A, (A + 1) * 2 - 2 * A):
        assert type(d) is int


def test_equal_sizes_are_equal_and_hash_alike():
    assert A * (B + 1) == B * A + A
    assert hash(A * (B + 1)) == hash(B * A + A)
    assert A != B
    assert A != 1
    assert dim_product((2, A, 3, B)) == 6 * B * A


def test_symbols_are_found_at_any_depth():
    assert symbols_of(dim_max(A // 2, 3) * 2 + B % 7) == {"a", "b"}
    assert symbols_of(3) == set()


def test_a_missing_value_is_named():
    with pytest.raises(ModelError, match=r"the size 2.a.b needs a value for b"):
        evaluate_dim(2 * A * B, {"a": 3})


@pytest.mark.parametrize("text", ["", "a b", "a+", "(a", "a)", "2a$", "max(a)", "max(a,b", "+", "a//", "(" * 200 + "a" + ")" * 200])
def test_malformed_sizes_are_refused(text):
    with pytest.raises(ModelError):
        parse_dim(text)


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "é"])
def test_only_identifiers_name_symbols(name):
    with pytest.raises(ModelError, match="cannot name a dimension"):
        symbol(name)


N, M, K = symbol("n"), symbol("m"), symbol("k")


def test_a_division_by_zero_is_a_size_that_does_not_fit():
    for divide in (floordiv, mod):
        with pytest.raises(ShapeError, match="the size n cannot be divided by 0"):
            divide(N, 0)
    with pytest.raises(ShapeError, match="cannot be divided by 0"):
        evaluate_dim(floordiv(N, M), {"n": 3, "m": 0})


def test_divisors_are_found_at_any_depth():
    assert divisors(dim_max(floordiv(N, M), mod(K, N + 1)) + floordiv(K, 3)) == {M, N + 1}
    assert divisors(floordiv(N, floordiv(M, K))) == {K, floordiv(M, K)}
    assert not divisors(4)


@pytest.mark.parametrize(
    ("dim", "never"),
    [(N * M + 2, True), (N - 1, False), (floordiv(N - 1, 2), False), (floordiv(N, 2), True), (dim_max(N - 4, 0), True), (-N, False)],
)
def test_what_is_never_negative(dim, never: bool):
    assert never_negative(dim) is never


def test_bounds_hold_for_every_value_of_the_bounded_symbols():
    dims = [
        N - K,
        K * K - 3 * K + N,
        (N - 4 * K) * (M - K),
        floordiv(N - K, 2) - mod(K, 3),
        dim_max(M - K, 3) * -2,
        floordiv(N + M - K, K + 1),
    ]
    for dim in dims:
        low, high = bounds(dim, {"k": N + 1})
        assert symbols_of(low) | symbols_of(high) <= {"n", "m"}
        for n, m in ((0, 0), (3, 7), (9, 2)):
            for k in range(n + 2):
                values = [evaluate_dim(d, {"n": n, "m": m, "k": k}) for d in (low, dim, high)]
                assert values == sorted(values)


def test_parts_of_formulas_that_were_read_before_mean_the_same():
    part = "max((2*batch+1)//(3),min(batch,seq))"
    together = parse_dim(f"{part}*{part}-({part}+{part})+min({part},(batch))")
    env = {"batch": 7, "seq": 4}
    assert evaluate_dim(parse_dim(part), env) == 5
    assert evaluate_dim(together, env) == 25 - 10 + 5


@pytest.mark.parametrize("text", ["(batch", "max(batch,seq", "(batch))", "max(batch)", "(batch,seq)", "((batch)(seq))"])
def test_a_part_read_before_does_not_excuse_what_is_around_it(text: str):
    for whole in ("(batch)", "max(batch,seq)", "(seq)"):
        parse_dim(whole)
    with pytest.raises(ModelError, match="is not a dimension"):
        parse_dim(text)
