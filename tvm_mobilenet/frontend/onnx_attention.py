"""ONNX's Attention (opset 23), written out as two matrix products and a softmax, as exporters wrote it before."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

op = relax.op
_OUTPUT, _MASK = 1, 3  # number of outputs, and the place of the mask among the inputs


def converted(bb, inputs, attrs, outputs: int) -> relax.Expr:
    """Queries, keys and values are (batch, heads, rows, width), or (batch, rows, heads * width).

    A ValueError gives the reason why a node cannot be converted.
    """
    if outputs > _OUTPUT or any(one is not None for one in (*inputs,)[_MASK + 1 :]):
        raise ValueError("keys and values of earlier runs; export the model without a cache")
    if attrs.get("softcap"):
        raise ValueError("softcap is not supported; export it without")
    queries, keys, values = inputs[:_MASK]
    flat = len(queries.ty.shape) == 3
    q, k, v = queries, keys, values
    if flat:
        count = [int(attrs[name]) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
        q, k, v = (_in_heads(bb, x, heads) for x, heads in zip((q, k, v), count, strict=True))
    shared = int(q.ty.shape[1]) // int(k.ty.shape[1])
    if shared > 1:
        k, v = (bb.emit(op.repeat(x, shared, 1)) for x in (k, v))
    dtype = str(q.ty.dtype)
    scale = float(attrs.get("scale", 1 / math.sqrt(int(q.ty.shape[3]))))
    scores = bb.emit(op.matmul(q, bb.emit(op.permute_dims(k, (0, 1, 3, 2)))))
    scores = bb.emit(op.multiply(scores, relax.const(scale, dtype)))
    lowest = float(np.finfo(dtype).min) / 2  # its sum with a score is no infinity
    if attrs.get("is_causal", 0):
        *_, rows, columns = (int(d) for d in scores.ty.shape)
        scores = bb.emit(op.add(scores, relax.const(np.triu(np.full((rows, columns), lowest, dtype), 1), dtype)))
    if len(inputs) > _MASK and inputs[_MASK] is not None:
        mask = inputs[_MASK]
        if str(mask.ty.dtype) == "bool":
            mask = bb.emit(op.where(mask, relax.const(0.0, dtype), relax.const(lowest, dtype)))
        scores = bb.emit(op.add(scores, mask))
    made = bb.emit(op.matmul(bb.emit(op.nn.softmax(scores, -1)), v))
    if not flat:
        return made
    batch, heads, rows, width = (int(d) for d in made.ty.shape)
    return op.reshape(bb.emit(op.permute_dims(made, (0, 2, 1, 3))), (batch, rows, heads * width))


def _in_heads(bb, x: relax.Expr, heads: int) -> relax.Expr:
    batch, rows, width = (int(d) for d in x.ty.shape)
    return bb.emit(op.permute_dims(bb.emit(op.reshape(x, (batch, rows, heads, width // heads))), (0, 2, 1, 3)))
