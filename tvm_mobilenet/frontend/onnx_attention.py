"""ONNX's Attention (opset 23), written out as two matrix products and a softmax, as exporters wrote it before."""

from __future__ import annotations

import math

import numpy as np
import onnx
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError

op = relax.op
_MASK = 3  # its place among the inputs
_SCORES, _AFTER_SOFTMAX = 3, 3  # their place among the outputs, and the mode that asks for them after the softmax


def is_written_out(node: onnx.NodeProto) -> bool:
    """Whether it has a form that ONNX's own definition writes out: a cache of earlier runs, or a cap of its scores."""
    if any(a.name == "num_heads" for a in node.attribute):  # ONNX Runtime's own operator, of this name
        return False
    capped = any(a.name in ("softcap", "qk_matmul_output_mode") and (a.f or a.i) for a in node.attribute)
    return capped or any(node.output[1:]) or any(node.input[_MASK + 1 :])


def refuse_shares(graph: onnx.GraphProto) -> None:
    """Refuse the output of what the softmax gives where a mask may empty rows: ONNX has zeros there, its definition of
    the operator has not.

    Raises
    ------
    TvmMobilenetError
        The message names the node.
    """
    for node in graph.node:
        said = {a.name: a.i for a in node.attribute}
        shares = said.get("qk_matmul_output_mode") == _AFTER_SOFTMAX and any(node.output[_SCORES:])
        masked = said.get("is_causal") or any(node.input[_MASK : _MASK + 1])
        if node.op_type == "Attention" and shares and masked:
            raise TvmMobilenetError(
                f"Attention at {node.name or node.output[0]} has a mask and qk_matmul_output_mode {_AFTER_SOFTMAX}, "
                "whose fourth output no layer computes",
                "leave that output out of the model, or ask for the scores of mode 0, 1 or 2",
            )


def converted(bb, inputs, attrs) -> relax.Expr:
    """Queries, keys and values are (batch, heads, rows, width), or (batch, rows, heads * width).

    A ValueError gives the reason why a node cannot be converted.
    """
    if any(one is not None for one in (*inputs,)[_MASK + 1 :]):
        raise ValueError("it reads keys, values or lengths of earlier runs; export the model without a cache")
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
    mask = inputs[_MASK] if len(inputs) > _MASK else None
    *_, rows, columns = (int(d) for d in scores.ty.shape)
    reach = np.tri(rows, columns, dtype=bool) if attrs.get("is_causal", 0) else None
    kept = None
    if mask is not None and str(mask.ty.dtype) == "bool":
        kept = mask if reach is None else bb.emit(op.logical_and(mask, relax.const(reach)))
        scores = bb.emit(op.add(scores, _below(bb, kept, lowest, dtype)))
    else:
        if reach is not None:
            scores = bb.emit(op.add(scores, relax.const(np.where(reach, 0, lowest).astype(dtype))))
        scores = scores if mask is None else bb.emit(op.add(scores, mask))
    shares = bb.emit(op.nn.softmax(scores, -1))
    if kept is not None:  # a row of which nothing is kept is 0
        some = bb.emit(op.max(bb.emit(op.astype(kept, dtype)), -1, keepdims=True))
        shares = bb.emit(op.multiply(shares, some))
    made = bb.emit(op.matmul(shares, v))
    if not flat:
        return made
    batch, heads, rows, width = (int(d) for d in made.ty.shape)
    return op.reshape(bb.emit(op.permute_dims(made, (0, 2, 1, 3))), (batch, rows, heads * width))


def _below(bb, kept: relax.Expr, lowest: float, dtype: str) -> relax.Expr:
    return bb.emit(op.where(kept, relax.const(0.0, dtype), relax.const(lowest, dtype)))


def _in_heads(bb, x: relax.Expr, heads: int) -> relax.Expr:
    batch, rows, width = (int(d) for d in x.ty.shape)
    return bb.emit(op.permute_dims(bb.emit(op.reshape(x, (batch, rows, heads, width // heads))), (0, 2, 1, 3)))
