"""Element types and tensor types: names, limits, NumPy counterparts, text."""

import numpy as np
import pytest
from octavo.ir.dims import symbol
from octavo.ir.errors import ModelError
from octavo.ir.types import DTYPES, TensorType, bool_, dtype_of, f32, i4, i8, parse_type, u8, u64


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_a_dtype_is_found_by_its_name_and_by_its_numpy_dtype(dtype):
    assert dtype_of(dtype.name) is dtype
    assert dtype_of(dtype.np) is dtype
    assert dtype_of(dtype) is dtype
    assert dtype.np.itemsize == dtype.itemsize


def test_limits_of_integers():
    assert (i8.min, i8.max, u8.min, u8.max) == (-128, 127, 0, 255)
    assert (i4.min, i4.max, u64.max, bool_.max) == (-8, 7, 2**64 - 1, 1)


def test_strings_of_any_length_are_strings():
    assert dtype_of(np.array(["abc"]).dtype).name == "string"


def test_what_is_no_dtype_is_refused():
    with pytest.raises(ModelError, match="there is no dtype 'f31'; known: f64, f32"):
        dtype_of("f31")


@pytest.mark.parametrize("text", ["f32[]", "i8[3]", "bool[batch,2*seq+1]", "f16[max(a,b),3]", "u4[0]", "bf16[(a)//(2)]"])
def test_types_read_back_as_they_print(text):
    assert str(parse_type(text)) == text
    assert parse_type(str(parse_type(text))) == parse_type(text)


@pytest.mark.parametrize("text", ["", "f32", "f32[", "f32]", "f99[2]", "[2]", "f32[2", "f32[a b]", "f32[2]x"])
def test_malformed_types_are_refused(text):
    with pytest.raises(ModelError):
        parse_type(text)


def test_sizes_of_a_type():
    t = TensorType(f32, (symbol("n"), 3))
    assert t.size == 3 * symbol("n")
    assert t.nbytes == 12 * symbol("n")
    assert not t.is_static
    assert t.with_shape((2, 3)).is_static
    assert TensorType(f32, ()).size == 1
