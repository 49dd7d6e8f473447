"""Operators of the ai.onnx.ml domain that are plain arithmetic on tensors."""

from __future__ import annotations

import numpy as np

from ...ir.errors import ModelError, UnsupportedOp
from ...ir.graph import Value
from ...ir.types import f32, i64
from .registry import Site, Tensor, onnx_op

ML = "ai.onnx.ml"


@onnx_op("Scaler", domain=ML)
def scaler(n: Site, x: Tensor) -> Value:
    offset, scale = (n.const(np.array(n.attr(name) or (default,), np.float32)) for name, default in (("offset", 0.0), ("scale", 1.0)))
    wide = n.cast(x, f32)
    return n.apply("mul", n.apply("sub", wide, offset), scale)


@onnx_op("Binarizer", domain=ML)
def binarizer(n: Site, x: Tensor) -> Value:
    return n.cast(n.apply("gt", x, n.scalar(n.number("threshold"), x)), x.dtype)


@onnx_op("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(n: Site, x: Tensor, indices: Tensor) -> Value:
    picked = n.apply("gather", x, n.reshape(indices, (indices.type.size,)), axis=x.rank - 1)
    return picked if x.rank > 1 else n.reshape(picked, (1, *picked.shape))


@onnx_op("Imputer", domain=ML)
def imputer(n: Site, x: Tensor) -> Value:
    values = n.attr("imputed_value_floats") or n.attr("imputed_value_int64s")
    if not values:
        raise ModelError("it has no imputed values")
    replacement = n.const(np.array(values, x.dtype.np))
    missing = n.number("replaced_value_float") if x.dtype.is_float else n.integer("replaced_value_int64")
    absent = n.apply("is_nan", x) if missing != missing else n.apply("eq", x, n.scalar(missing, x))
    return n.apply("where", absent, replacement, x)


@onnx_op("Normalizer", domain=ML)
def normalizer(n: Site, x: Tensor) -> Value:
    wide, axes, kind = n.cast(x, f32), (x.rank - 1,), n.text("norm", "MAX")
    if kind == "MAX":
        norm = n.apply("reduce_max", n.apply("abs", wide), axes=axes, keepdims=True)
    else:
        norm = n.apply("l1" if kind == "L1" else "l2", wide, axes=axes, keepdims=True)
    return n.apply("where", n.apply("eq", norm, n.scalar(0, norm)), wide, n.apply("div", wide, norm))


def post_transform(n: Site, x: Value) -> Value:
    kind = n.text("post_transform", "NONE")
    if kind == "NONE":
        return x
    if kind == "LOGISTIC":
        return n.apply("sigmoid", x)
    if kind == "SOFTMAX":
        return n.apply("softmax", x, axis=x.type.rank - 1)
    raise UnsupportedOp(f"post_transform {kind} is not supported")


@onnx_op("LinearRegressor", domain=ML)
def linear_regressor(n: Site, x: Tensor) -> Value:
    targets = n.integer("targets", 1)
    weights = np.array(n.attr("coefficients") or (), np.float32).reshape(targets, -1)
    y = n.apply("matmul", n.cast(x, f32), n.const(np.ascontiguousarray(weights.T)))
    if n.attr("intercepts"):
        y = n.apply("add", y, n.const(np.array(n.attr("intercepts"), np.float32)))
    return post_transform(n, y)


@onnx_op("LinearClassifier", domain=ML)
def linear_classifier(n: Site, x: Tensor) -> tuple[Value, ...]:
    labels = n.attr("classlabels_ints")
    if not labels:
        raise UnsupportedOp("labels that are strings are not supported")
    weights = np.array(n.attr("coefficients") or (), np.float32)
    bias = np.array(n.attr("intercepts") or (0.0,), np.float32)
    rows = weights.reshape(len(bias), -1)
    scores = n.apply("add", n.apply("matmul", n.cast(x, f32), n.const(np.ascontiguousarray(rows.T))), n.const(bias))
    if len(bias) == 1 and len(labels) == 2:
        raise UnsupportedOp("a single score for two classes is not supported")
    best = n.apply("argmax", scores, axes=(1,), keepdims=False)
    return n.apply("gather", n.const(np.array(labels, np.int64)), best, axis=0), post_transform(n, scores)


@onnx_op("LabelEncoder", domain=ML)
def label_encoder(n: Site, x: Tensor) -> Value:
    """A lookup by comparison with every key, of numbers to numbers."""
    tables = {
        name: n.attr(name) for name in ("keys_int64s", "keys_floats", "keys_tensor", "values_int64s", "values_floats", "values_tensor")
    }
    keys, values = ([v for name, v in tables.items() if name.startswith(part) and v is not None] for part in ("keys", "values"))
    if not keys or not values or np.asarray(keys[0]).dtype == object or np.asarray(values[0]).dtype == object:
        raise UnsupportedOp("strings are not supported")
    key_array = np.asarray(keys[0]).astype(x.dtype.np)
    whole = isinstance(values[0], np.ndarray)
    dtype = np.asarray(values[0]).dtype if whole else np.dtype(np.int64 if tables["values_int64s"] is not None else np.float32)
    given = n.attr("default_tensor")
    default = (
        given.reshape(-1)[0]
        if given is not None
        else n.integer("default_int64", -1)
        if dtype.kind == "i"
        else n.number("default_float", -0.0)
    )
    table = n.const(np.append(np.asarray(values[0], dtype), np.asarray(default, dtype)))
    count = len(key_array)
    wide = n.reshape(x, (*x.shape, 1))
    equal = n.apply("eq", wide, n.const(key_array))
    if x.dtype.is_float:
        both = n.apply("and", n.apply("is_nan", wide), n.const(np.isnan(key_array)))
        equal = n.apply("or", equal, both)
    places = n.apply("where", equal, n.apply("iota", shape=(count,), axis=0, dtype=i64), n.const(count, i64))
    return n.apply("gather", table, n.apply("reduce_min", places, axes=(x.rank,), keepdims=False), axis=0)
