"""Transformers over text.

BERT (Devlin et al., 2018): post-norm, padding masked.  GPT-2 prefill (Radford et al., 2019): pre-norm, causal.
"""

from __future__ import annotations

import numpy as np

from ...frontend.tracing import spec, trace
from ...ir import ops
from ...ir.graph import Graph, Value, const_value
from ...ir.types import f32
from .layers import Weights, embedding, feed_forward, layer_norm, linear, self_attention, split


def bert(name: str, layers: int, dim: int, heads: int, *, sequence: int = 128, vocabulary: int = 30522) -> Graph:
    """input_ids, attention_mask (1 reads, 0 ignores), token_type_ids, all i64[batch,sequence] -> last_hidden_state, pooled."""

    def bert(input_ids: Value, attention_mask: Value, token_type_ids: Value) -> dict[str, Value]:
        w = Weights(layers)
        batch = input_ids.shape[0]
        x = ops.add(embedding(w, input_ids, vocabulary, dim), embedding(w, token_type_ids, 2, dim))
        x = layer_norm(w, ops.add(x, w.normal(1, sequence, dim, std=0.5)), epsilon=1e-12)
        ignored = 1.0 - ops.cast(attention_mask, to=f32)
        mask = ops.reshape(ignored * -10000.0, shape=(batch, 1, 1, sequence))
        for _ in range(layers):
            x = layer_norm(w, ops.add(x, self_attention(w, x, heads, mask=mask)), epsilon=1e-12)
            x = layer_norm(w, ops.add(x, feed_forward(w, x, 4 * dim)), epsilon=1e-12)
        first, _ = split(x, (1, sequence - 1), axis=1)
        pooled = ops.tanh(linear(w, ops.reshape(first, shape=(batch, dim)), dim))
        return {"last_hidden_state": x, "pooled": pooled}

    bert.__name__ = name
    return trace(bert, *(spec("i64", ("batch", sequence)) for _ in range(3)))


def gpt2(layers: int = 12, dim: int = 768, heads: int = 12, *, sequence: int = 64, vocabulary: int = 50257) -> Graph:
    """input_ids i64[batch,sequence] -> logits f32[batch,sequence,vocabulary] of every position, as exporters write prefill."""

    def gpt2(input_ids: Value) -> dict[str, Value]:
        w = Weights(2019)
        table = w.normal(vocabulary, dim, std=0.5)
        x = ops.add(ops.gather(table, input_ids, axis=0), w.normal(1, sequence, dim, std=0.5))
        future = np.triu(np.full((sequence, sequence), -10000, np.float32), 1)
        mask = const_value(future.reshape(1, 1, sequence, sequence))
        for _ in range(layers):
            x = ops.add(x, self_attention(w, layer_norm(w, x), heads, mask=mask))
            x = ops.add(x, feed_forward(w, layer_norm(w, x), 4 * dim, approximate="tanh"))
        head = const_value(np.ascontiguousarray(table.array.T))
        return {"logits": ops.matmul(layer_norm(w, x), head)}

    return trace(gpt2, spec("i64", ("batch", sequence)))
