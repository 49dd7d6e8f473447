"""What a call from Python checks, says and costs in memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from llvmlite import binding as llvm
from octavo.backends.runtime.native import Variant, load_native, load_variant
from octavo.backends.runtime.signature import Signature, TensorSpec
from octavo.ir.errors import ModelError, OctavoError, ShapeError, TargetError

from .handmade import affine, checked, positive, two_levels


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_computes_for_any_size_of_the_symbol():
    executable = load_native(affine(), threads=1)
    for rows in (0, 1, 5, 1000):
        x = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
        (y,) = executable.run([x])
        np.testing.assert_array_equal(y, x * 2 + 1)


def test_one_and_two_threads_give_the_same_bytes():
    x = np.random.default_rng(0).standard_normal((1001, 3), np.float32)
    results = [load_native(affine(factor=0.6875), threads=n).run([x])[0].tobytes() for n in (1, 2)]
    assert results[0] == results[1]


def test_outputs_are_new_arrays_each_time():
    executable = load_native(affine(), threads=1)
    first, second = executable.run([ones(2, 3)])[0], executable.run([ones(2, 3)])[0]
    assert not np.shares_memory(first, second)
    assert first.flags.owndata


def test_large_outputs_start_at_a_cache_line():
    executable = load_native(affine(), threads=1)
    held = [executable.run([ones(rows, 3)])[0] for rows in (100_000, 100_001, 100_007)]
    assert [y.ctypes.data % 64 for y in held] == [0, 0, 0]
    assert all((y == 3).all() and y.flags.writeable for y in held)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(12, dtype=np.float32).reshape(4, 3)),
        np.arange(24, dtype=np.float32).reshape(4, 6)[:, ::2],
        np.arange(12, dtype=np.float32).reshape(4, 3)[::-1],
        np.arange(12, dtype=">f4").reshape(4, 3),
        np.frombuffer(b"\0" + np.arange(12, dtype=np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(4, 3),
        np.arange(12, dtype=np.float32).reshape(4, 3).view(np.matrix),
    ],
    ids=["fortran", "strided", "reversed", "big-endian", "unaligned", "matrix"],
)
def test_arrays_of_any_layout_are_taken(array: np.ndarray):
    (y,) = load_native(affine(), threads=1).run([array])
    np.testing.assert_array_equal(y, np.asarray(array, np.float32) * 2 + 1)


def test_read_only_inputs_and_lists_are_taken():
    executable = load_native(affine(), threads=1)
    x = ones(1, 3)
    x.flags.writeable = False
    assert executable.run([x])[0].tolist() == [[3, 3, 3]]
    assert executable.run([[[1, 2, 3]]])[0].tolist() == [[3, 5, 7]]


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ([], "model 'affine' takes 1 inputs and was given 0; it takes x: f32[n,3]"),
        ([ones(2, 3)] * 2, "model 'affine' takes 1 inputs and was given 2"),
        (
            [ones(2, 3).astype(np.float64)],
            "input 'x' has dtype float64, accepted is float32 (f32[n,3]); convert it with .astype",
        ),
        ([ones(2, 3).astype(np.int8)], "input 'x' has dtype int8"),
        ([ones(2, 3).astype(object)], "input 'x' has dtype object, accepted is float32 (f32[n,3])"),
        ([ones(3)], "given f32[3], accepted f32[n,3]: it has 1 dimensions and must have 2"),
        ([ones(2, 4)], "input 'x' of model 'affine': given f32[2,4], accepted f32[n,3]: dimension 1 is 4 and must be 3"),
        ([[[1, 2], [3]]], "input 'x' cannot be made an array of float32"),
        ([["text"]], "input 'x' is list of <U4, accepted is float32"),
        ([None], "input 'x' is NoneType of object"),
    ],
)
def test_wrong_inputs_are_named_with_what_is_accepted(arrays, text: str):
    with pytest.raises(ShapeError) as error:
        load_native(affine(), threads=1).run(arrays)
    assert text in str(error.value)


def test_floats_do_not_become_ints():
    with pytest.raises(ShapeError, match="input 'k' is list of float64, accepted is int64"):
        load_native(checked(), threads=1).run([ones(2, 5), [0.5, 1.5], ones(1)])


def test_expressions_over_symbols_are_checked_and_explained():
    executable = load_native(checked(), threads=1)
    good = [ones(2, 5), np.zeros(2, np.int64), ones(1)]
    assert executable.run(good)[0].shape == (2, 2)
    with pytest.raises(ShapeError) as error:
        executable.run([ones(2, 6), np.zeros(2, np.int64), ones(1)])
    assert str(error.value) == (
        "input 'x' of model 'checked': given f32[2,6], accepted f32[seq,2*seq+1]: dimension 1 is 6 and must be 2*seq+1 = 5, "
        "because seq is 2 in input 'x'"
    )
    with pytest.raises(ShapeError, match="dimension 0 is 3 and must be seq = 2, because seq is 2 in input 'x'"):
        executable.run([ones(2, 5), np.zeros(3, np.int64), ones(1)])


def test_sizes_that_the_run_defines_come_back():
    executable = load_native(positive(), threads=2)
    for values in ([1, -2, 3, 0, 5], [-1], [], [7] * 1000):
        x = np.array(values, np.float32)
        np.testing.assert_array_equal(executable.run([x])[0], x[x > 0])


def test_a_status_of_the_code_becomes_an_error():
    with pytest.raises(OctavoError, match="model 'affine' failed: the model met values that it cannot compute with"):
        load_native(affine(status=13), threads=1).run([ones(1, 3)])
    with pytest.raises(OctavoError, match="unknown status code 99"):
        load_native(affine(status=99), threads=1).run([ones(1, 3)])


def test_sizes_beyond_memory_are_refused_before_allocation():
    executable = load_native(checked(), threads=1)
    with pytest.raises(ShapeError, match=r"output 'y' .* would have shape \[137438953472, 137438953472\]"):
        executable.workspace_bytes([(2**37, 2**38 + 1), (2**37,), (1,)])


def test_many_threads_of_python_call_one_model():
    executable = load_native(affine(columns=7), threads=2)
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            x = rng.standard_normal((int(rng.integers(1, 60)), 7), np.float32)
            if not np.array_equal(executable.run([x])[0], x * np.float32(2) + np.float32(1)):
                wrong.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_workspaces_are_reused_over_many_shapes():
    executable = load_native(positive(), threads=1)
    for size in range(1, 2000):
        executable.run([np.ones(size, np.float32)])
    assert len(executable._frames) == 1
    assert len(executable._plans) <= 256


def test_code_for_another_processor_is_refused():
    program = affine()
    (variant,) = program.variants
    foreign = Variant(("no-such-feature",), variant.triple, variant.prefix, variant.objects)
    with pytest.raises(TargetError, match="with no-such-feature, which this CPU cannot run; compile it with target='native'"):
        load_native(type(program)(program.name, program.signature, [foreign], program.weights))
    with pytest.raises(TargetError, match="with no-such-feature, which this CPU cannot run"):
        load_variant(program, foreign)


def test_the_first_variant_that_fits_is_taken():
    fast, slow, never = affine(offset=1, factor=10.0), affine(factor=3.0), affine(factor=5.0)
    variants = [Variant(("no-such-feature",), *_rest(never)), fast.variants[0], slow.variants[0]]
    program = type(fast)("choice", fast.signature, variants, fast.weights)
    assert load_native(program, 1).run([ones(1, 3)])[0].tolist() == [[11, 11, 11]]


def test_each_level_reads_its_own_weights():
    if {"avx512fp16", "avxvnniint8", "avxifma"} <= {f for f, has in llvm.get_host_cpu_features().items() if has}:
        pytest.skip("this processor has the level that the test takes for the future's")
    assert load_native(two_levels(), 1).run([ones(1, 3)])[0].tolist() == [[9, 9, 9]]


def _rest(program):
    (variant,) = program.variants
    return variant.triple, variant.prefix, variant.objects


X = TensorSpec("x", "f32", ("n", 3))


def test_signatures_survive_json():
    signature = Signature("m", (X,), (TensorSpec("y", "i64", ("k", "n*2"), defined=True),), ("n",), ("k",))
    assert Signature.from_json(signature.to_json()) == signature


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Signature("m", (X, X), (), ("n",)), "two inputs of model 'm' are called 'x'"),
        (lambda: Signature("m", (X,), (X,)), "needs n, unknown"),
        (lambda: Signature("m", (TensorSpec("x", "f32", ("2*n",)),), (), ("n",)), "has 'n' alone as a dimension"),
        (lambda: Signature("m", (TensorSpec("x", "f33", ()),), ()), "has dtype 'f33'"),
        (lambda: Signature("m", (TensorSpec("x", "f32", (-1,)),), ()), "has dimension -1"),
        (lambda: Signature("m", (TensorSpec("x", "f32", (1,) * 65),), ()), "has 65 dimensions"),
        (lambda: Signature.from_json([]), "the signature is list, not an object"),
        (lambda: Signature.from_json({"name": "m"}), "'inputs' is missing"),
        (lambda: Signature.from_json({**EMPTY, "name": 3}), "'name' is missing or not a text"),
        (
            lambda: Signature.from_json({**EMPTY, "inputs": [{"name": "x", "dtype": "f32", "shape": [1.5]}]}),
            "holds something other",
        ),
        (lambda: Signature.from_json({**EMPTY, "symbols": ["../x"]}), "cannot name a dimension"),
        (lambda: Signature.from_json({**EMPTY, "requirements": [{"zero": "n", "where": "add"}]}), "has a condition on n"),
    ],
)
def test_signatures_that_make_no_sense_are_refused(make, text: str):
    with pytest.raises(ModelError) as error:
        make()
    assert text in str(error.value)


EMPTY = {"name": "m", "inputs": [], "outputs": [], "symbols": [], "defined": [], "requirements": []}
