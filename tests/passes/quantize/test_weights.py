"""Weights as integers: symmetric, a scale for each output channel."""

import numpy as np
import pytest
from octavo.ir.errors import QuantError
from octavo.passes.quantize.weights import quantized_weights


def test_each_channel_reaches_127():
    w = np.array([[1.0, -2.0], [0.25, 0.125]], np.float32)
    result = quantized_weights(w, 0)
    np.testing.assert_array_equal(result.integers, [[64, -127], [127, 64]])
    np.testing.assert_array_equal(result.scales, np.array([2, 0.25], np.float32) / np.float32(127))
    assert result.integers.dtype == np.int8


def test_the_channel_may_be_the_last_axis():
    w = np.array([[1.0, -2.0], [0.25, 0.125]], np.float32)
    np.testing.assert_array_equal(quantized_weights(w, 1).integers, quantized_weights(w.T, 0).integers.T)


def test_no_weight_is_off_by_more_than_half_a_step():
    w = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    result = quantized_weights(w, 0)
    scales = result.scales[:, None, None, None]
    assert (np.abs(result.integers * scales - w) <= scales * 0.5000001).all()


def test_the_least_error_clips_a_few_large_weights():
    w = np.random.default_rng(0).standard_normal((4, 4096)).astype(np.float32)
    w[:, 0] = 12

    def error(method: str) -> np.ndarray:
        result = quantized_weights(w, 0, method)
        return np.square(result.integers * result.scales[:, None] - w).sum(axis=1)

    few = np.clip(w, -4, 4)
    assert (error("mse") <= error("max")).all()
    assert (quantized_weights(few, 0, "mse").scales <= quantized_weights(few, 0).scales).all()


def test_channels_of_zeros_stay_zeros():
    w = np.array([[0.0, 0.0], [1.0, 0.5]], np.float32)
    result = quantized_weights(w, 0)
    assert not result.integers[0].any()
    assert (result.scales > 0).all()
    assert not quantized_weights(np.zeros((2, 2), np.float32), 0).integers.any()


def test_scales_have_a_lower_bound_where_one_is_given():
    w = np.array([[1.0], [1.0]], np.float32)
    result = quantized_weights(w, 0, least=np.array([0.0, 0.5]))
    np.testing.assert_array_equal(result.integers.reshape(-1), [127, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(bad: float):
    with pytest.raises(QuantError, match="the weights hold infinities or NaN"):
        quantized_weights(np.array([[bad]], np.float32), 0)


def test_an_unknown_method_is_named():
    with pytest.raises(QuantError, match="there is no method 'best' for weights; there are: max, mse"):
        quantized_weights(np.ones((1, 1), np.float32), 0, "best")


def test_four_bits_reach_seven_or_by_the_least_error_minus_eight():
    w = np.array([[7.0, -1.0, 3.0, -7.0], [1.0, -8.0, 3.0, 2.0]], np.float32)
    np.testing.assert_array_equal(quantized_weights(w, 0, bits=4).integers[0], [7, -1, 3, -7])
    result = quantized_weights(w, 0, "mse", bits=4)
    assert result.integers.min() == -8
    assert result.integers.max() <= 7
    many = np.random.default_rng(0).standard_normal((3000, 32)).astype(np.float32)  # searched in several parts

    def error(method: str) -> np.ndarray:
        q = quantized_weights(many, 0, method, bits=4)
        return np.square(q.integers * q.scales[:, None] - many).sum(axis=1)

    assert (error("mse") <= error("max") * 1.0000001).all()
    assert error("mse").sum() < 0.95 * error("max").sum()
