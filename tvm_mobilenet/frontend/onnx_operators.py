"""Converters for ONNX operators that TVM's importer lacks, converts wrongly, or writes in a form that no pass
recognises.

`CONVERTERS` has them by operator: ``convert(bb, inputs, attrs, otherwise)`` returns the Relax expression of a node, and
``otherwise(inputs)`` that of TVM's own importer. ``attrs`` also has the number of the node's outputs, as
`onnx_arguments.OUTPUTS`. A ValueError gives the reason why a node cannot be converted. Nodes of which `is_written_out`
is true become others before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import (
    nests,
    onnx_arithmetic,
    onnx_attention,
    onnx_bits,
    onnx_recurrent,
    onnx_resizes,
    onnx_sequences,
    onnx_windows,
    positions,
)
from tvm_mobilenet.frontend.onnx_arguments import OUTPUTS, array_of, const_like, is_empty, text


def _clip(bb, inputs, attrs, otherwise):
    """Values in a range, whose bounds may be computed. If the upper bound is below the lower one, it is the result."""
    x, dtype = inputs[0], str(inputs[0].ty.dtype)
    given = [inputs[i] if len(inputs) > i else None for i in (1, 2)]
    if any(bound is not None and not isinstance(bound, tvm.ir.Constant) for bound in given):
        for bound, operator in zip(given, (relax.op.maximum, relax.op.minimum), strict=True):
            x = x if bound is None else bb.emit(operator(x, bound))
        return x
    bounds = [attrs.get("min", -np.inf), attrs.get("max", np.inf)]
    low, high = (b if g is None else array_of(g).reshape(()) for b, g in zip(bounds, given, strict=True))
    if dtype.startswith("int"):
        ends = np.iinfo(dtype)
        low = max(int(low), ends.min) if low > -np.inf else ends.min
        high = min(int(high), ends.max) if high < np.inf else ends.max
        return relax.op.clip(x, min(low, high), high)
    return relax.op.clip(x, float(min(low, high)), float(high))


def _pad(bb, inputs, attrs, otherwise):
    """A constant pad as Relax's operator, a wrapping pad as a concatenation of pieces."""
    if len(inputs) > 3 and inputs[3] is not None:
        return otherwise(inputs)
    mode, widths = text(attrs.get("mode", "constant")), array_of(inputs[1]).reshape(2, -1).T
    if mode == "constant" and len(inputs) > 2 and isinstance(inputs[2], relax.Var):
        return _padded_by(bb, inputs[0], inputs[2], widths)
    if mode == "constant":
        value = array_of(inputs[2]).reshape(()) if len(inputs) > 2 and inputs[2] is not None else 0.0
        return relax.op.nn.pad(inputs[0], [int(w) for w in widths.reshape(-1)], mode, float(value))
    if mode == "wrap":
        return reduce(lambda x, axis: _wrapped(bb, x, axis, *map(int, widths[axis])), range(len(widths)), inputs[0])
    if mode == "edge" and widths.min() >= 0:
        return relax.op.nn.pad(inputs[0], [int(w) for w in widths.reshape(-1)], "replicate")
    return otherwise(inputs)


def _padded_by(bb, x: relax.Expr, value: relax.Expr, widths: np.ndarray) -> relax.Expr:
    """A pad with a value that is computed."""
    made = bb.emit(relax.op.nn.pad(x, [int(w) for w in widths.reshape(-1)], "constant", 0.0))
    shape = [int(d) if pads.any() else 1 for d, pads in zip(x.ty.shape, widths, strict=True)]
    limits.check_tensor(math.prod(int(d) for d in made.ty.shape), 1, "the mask of a Pad")
    own = np.zeros(shape, bool)
    for axis, (before, after) in enumerate(widths):  # negative ones cut
        own = own[(slice(None),) * axis + (slice(max(0, -before), own.shape[axis] - max(0, -after)),)]
    beside = np.pad(own, np.maximum(widths, 0), constant_values=True)
    return relax.op.where(relax.const(beside, "bool"), bb.emit(relax.op.reshape(value, [])), made)


def _wrapped(bb, x: relax.Expr, axis: int, before: int, after: int) -> relax.Expr:
    """Data, preceded by its end and followed by its beginning."""
    if not before and not after:
        return x
    size = int(x.ty.shape[axis])
    if min(before, after) < 0 or max(before, after) > size:
        raise ValueError(f"a wrapped pad of {before} and {after} around {size} values")

    def part(start: int, stop: int) -> list[relax.Expr]:
        return [relax.op.strided_slice(x, [axis], [start], [stop])] if start < stop else []

    pieces = [*part(size - before, size), x, *part(0, after)]
    return bb.emit(relax.op.concat([bb.emit(p) if p is not x else x for p in pieces], axis))


def _extreme(operator: Callable) -> Callable:
    """Min and Max of any number of operands, which TVM's converter would stack."""

    def convert(bb, inputs, attrs, otherwise):
        return reduce(lambda a, b: bb.emit(operator(a, b)), inputs)

    return convert


def _top(bb, inputs, attrs, otherwise):
    """TVM sorts by a call of its own runtime."""
    if not attrs.get("sorted", 1):
        raise ValueError("sorted = 0 leaves the order of its values open; export it with sorted = 1")
    count = int(array_of(inputs[1]).reshape(())) if len(inputs) > 1 else int(attrs["k"])
    found = nests.ranked(bb, inputs[0], int(attrs.get("axis", -1)), count, bool(attrs.get("largest", 1)))
    return relax.Tuple(found)


def _gather(bb, inputs, attrs, otherwise):
    """Values at positions. TVM reads outside of the data at positions outside of it, which an input may have."""
    x, where = inputs
    if isinstance(where, tvm.ir.Constant) or not isinstance(where.ty, relax.TensorType) or not len(x.ty.shape):
        return otherwise(inputs)
    axis = int(attrs.get("axis", 0)) % len(x.ty.shape)
    return nests.indexed(bb, x, [*[None] * axis, where])


def _gather_nd(bb, inputs, attrs, otherwise):
    return positions.gathered(bb, *inputs, int(attrs.get("batch_dims", 0)))


def _gather_elements(bb, inputs, attrs, otherwise):
    return positions.gathered_elements(bb, *inputs, int(attrs.get("axis", 0)))


def _scatter_nd(bb, inputs, attrs, otherwise):
    return positions.scattered(bb, *inputs, _reduction(attrs))


def _scatter_elements(bb, inputs, attrs, otherwise):
    return positions.scattered_elements(bb, *inputs, int(attrs.get("axis", 0)), _reduction(attrs))


def _reduction(attrs) -> str:
    how = text(attrs.get("reduction", "none"))
    return "update" if how == "none" else how


def _attention(bb, inputs, attrs, otherwise):
    if "num_heads" in attrs:  # ONNX Runtime's own operator
        return otherwise(inputs)
    return onnx_attention.converted(bb, inputs, attrs)


def _compress(bb, inputs, attrs, otherwise):
    """The places where a constant condition is true; a computed one leaves the shape open."""
    x, axis = inputs[0], attrs.get("axis")
    if not isinstance(inputs[1], tvm.ir.Constant):
        return otherwise(inputs)
    if axis is None:
        x, axis = bb.emit(relax.op.reshape(x, [math.prod(int(d) for d in x.ty.shape)])), 0
    return relax.op.take(x, relax.const(np.flatnonzero(array_of(inputs[1])), "int64"), int(axis))


def _eye_like(bb, inputs, attrs, otherwise):
    dtype = attrs.get("dtype")
    dtype = str(inputs[0].ty.dtype) if dtype is None else onnx.helper.tensor_dtype_to_np_dtype(dtype).name
    return relax.const(np.eye(*(int(d) for d in inputs[0].ty.shape), k=int(attrs.get("k", 0)), dtype=dtype), dtype)


def _one_hot(bb, inputs, attrs, otherwise):
    """One value where the index is that of the place, else another. Negative indices count from the end."""
    where, depth, values = inputs[0], int(array_of(inputs[1]).reshape(())), array_of(inputs[2])
    rank, dtype = len(where.ty.shape), str(where.ty.dtype)
    axis = int(attrs.get("axis", -1)) % (rank + 1)
    at = bb.emit(relax.op.expand_dims(where, axis))
    size = relax.const(depth, dtype)
    at = bb.emit(relax.op.where(bb.emit(relax.op.less(at, relax.const(0, dtype))), bb.emit(relax.op.add(at, size)), at))
    places = np.arange(depth, dtype=dtype).reshape(positions.along(axis, rank + 1))
    hit = bb.emit(relax.op.equal(at, relax.const(places)))
    off, on = (relax.const(v, str(values.dtype)) for v in values)
    return relax.op.where(hit, on, off)


def _dropout(bb, inputs, attrs, otherwise):
    """The data itself, and a mask that keeps all of it, but in training mode."""
    training = inputs[2] if len(inputs) > 2 else None
    ratio = inputs[1] if len(inputs) > 1 else None
    drops = ratio is None or not isinstance(ratio, tvm.ir.Constant) or array_of(ratio).any()
    if drops and training is not None and (not isinstance(training, tvm.ir.Constant) or array_of(training).any()):
        return _random(bb, inputs, attrs, otherwise)
    if attrs[OUTPUTS] == 1:
        return inputs[0]
    return relax.Tuple([inputs[0], relax.const(np.ones([int(d) for d in inputs[0].ty.shape], bool), "bool")])


def _random(bb, inputs, attrs, otherwise):
    raise ValueError("it draws random numbers; export the model in inference mode (model.eval())")


def _products_so_far(bb, inputs, attrs, otherwise):
    """CumProd, backwards if told so."""
    x, axis = inputs[0], int(array_of(inputs[1]).reshape(()))
    back = attrs.get("reverse", 0)
    made = relax.op.cumprod(
        bb.emit(relax.op.flip(x, axis)) if back else x, axis, exclusive=bool(attrs.get("exclusive", 0))
    )
    return relax.op.flip(bb.emit(made), axis) if back else made


def _rms_norm(bb, inputs, attrs, otherwise):
    """TVM has no norm of all dimensions: another one is put before them."""
    x, shape = inputs[0], [int(d) for d in inputs[0].ty.shape]
    axis = int(attrs.get("axis", -1)) % len(shape)
    if axis:
        return otherwise(inputs)
    attrs["axis"] = 1
    made = otherwise(type(inputs)([bb.emit(relax.op.reshape(x, (1, *shape))), *inputs[1:]]))
    return relax.op.reshape(bb.emit(made), shape)


def _without_its_shape(bb, inputs, attrs, otherwise):
    raise ValueError("how many boxes are left depends on data; cut it off and select the boxes on the device's CPU")


def _batch_norm(bb, inputs, attrs, otherwise):
    """TVM's operator if its parameters are constants, else arithmetic."""
    x, scale, bias, mean, variance = inputs[:5]
    if all(isinstance(one, tvm.ir.Constant) for one in inputs[1:5]):
        return otherwise(inputs)
    if attrs.get("training_mode", 0):
        raise ValueError("it is in training mode; export the model in inference mode (model.eval())")
    shape = [1, -1, *[1] * (len(x.ty.shape) - 2)]
    scale, bias, mean, variance = (bb.emit(relax.op.reshape(one, shape)) for one in (scale, bias, mean, variance))
    step = bb.emit(relax.op.add(variance, const_like(x, attrs.get("epsilon", 1e-5))))
    factor = bb.emit(relax.op.multiply(bb.emit(relax.op.rsqrt(step)), scale))
    return relax.op.add(bb.emit(relax.op.multiply(bb.emit(relax.op.subtract(x, mean)), factor)), bias)


def _lp_normalization(bb, inputs, attrs, otherwise):
    """Data divided by its norm along an axis; if the norm is zero, the data's zeros stay, as in ONNX Runtime."""
    x, axis, p = inputs[0], int(attrs.get("axis", -1)), int(attrs.get("p", 2))
    if p not in (1, 2):
        raise ValueError(f"p = {p}: the norms are 1 and 2")
    size = bb.emit(relax.op.abs(x) if p == 1 else relax.op.multiply(x, x))
    total = bb.emit(relax.op.sum(size, axis, keepdims=True))
    norm = total if p == 1 else bb.emit(relax.op.sqrt(total))
    least = const_like(x, np.finfo(np.float32).tiny)
    return relax.op.divide(x, bb.emit(relax.op.maximum(norm, least)))


def _layer_norm(bb, inputs, attrs, otherwise):
    """With the mean and the inverse deviation, for which TVM's importer gives zeros."""
    x = inputs[0]
    axes = list(range(int(attrs.get("axis", -1)) % len(x.ty.shape), len(x.ty.shape)))
    made = otherwise(inputs).fields[0]
    if attrs[OUTPUTS] == 1:
        return made
    spread = bb.emit(relax.op.add(relax.op.variance(x, axes, True), const_like(x, attrs.get("epsilon", 1e-5))))
    return relax.Tuple([made, relax.op.mean(x, axes, True), relax.op.rsqrt(spread)])


def _conv_transpose(bb, inputs, attrs, otherwise):
    """Apply ``output_shape``, which TVM's importer ignores: it determines the rows that are cut off."""
    output = attrs.pop("output_shape", None)
    if output is None:
        return otherwise(inputs)
    size, kernel = [[int(d) for d in inputs[i].ty.shape][2:] for i in (0, 1)]
    ones = [1] * len(size)
    strides, dilations = attrs.get("strides", ones), attrs.get("dilations", ones)
    more, mode = list(attrs.get("output_padding", [0] * len(size))), text(attrs.pop("auto_pad", "NOTSET"))
    begin, end = [], []
    for i, wanted in enumerate(output[-len(size) :]):
        total = strides[i] * (size[i] - 1) + more[i] + (kernel[i] - 1) * dilations[i] + 1 - int(wanted)
        if total < 0:  # rows beyond the last
            more[i] += -total
            total = 0
        begin.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        end.append(total - begin[-1])
    attrs["pads"], attrs["output_padding"] = begin + end, more
    return otherwise(inputs)


def _reduced(alone: Callable | None) -> Callable:
    """A reduction, in its data's dtype. With no axes it may be told to reduce none, and is ``alone`` of each value."""

    def convert(bb, inputs, attrs, otherwise):
        x, axes = inputs[0], inputs[1] if len(inputs) > 1 else None
        if attrs.get("noop_with_empty_axes", 0) and "axes" not in attrs and (axes is None or is_empty(axes)):
            return x if alone is None else alone(x)
        made = bb.emit(otherwise(inputs))
        return made if str(made.ty.dtype) == str(x.ty.dtype) else relax.op.astype(made, str(x.ty.dtype))

    return convert


CONVERTERS: dict[str, Callable] = {
    "Clip": _clip,
    "Pad": _pad,
    "Min": _extreme(relax.op.minimum),
    "Max": _extreme(relax.op.maximum),
    "TopK": _top,
    "Attention": _attention,
    "Compress": _compress,
    "EyeLike": _eye_like,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "GatherElements": _gather_elements,
    "ScatterND": _scatter_nd,
    **dict.fromkeys(("Scatter", "ScatterElements"), _scatter_elements),
    "OneHot": _one_hot,
    "Dropout": _dropout,
    **dict.fromkeys(("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike"), _random),
    "LpNormalization": _lp_normalization,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "BatchNormalization": _batch_norm,
    "CumProd": _products_so_far,
    "NonMaxSuppression": _without_its_shape,
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum", "ReduceProd"), _reduced(None)),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), _reduced(relax.op.abs)),
    "ReduceLogSumExp": _reduced(None),
    "ReduceLogSum": _reduced(relax.op.log),
    "ReduceSumSquare": _reduced(lambda x: relax.op.multiply(x, x)),
    "Resize": onnx_resizes.resize,
    **onnx_arithmetic.CONVERTERS,
    **onnx_bits.CONVERTERS,
    **onnx_sequences.CONVERTERS,
    **onnx_windows.CONVERTERS,
    **onnx_recurrent.CONVERTERS,
}

# operators without a converter here or in TVM's importer that ONNX defines by others
_DEFINED = {
    schema.name
    for schema in onnx.defs.get_all_schemas()
    if schema.domain == "" and (schema.has_function or schema.has_context_dependent_function)
} - {*CONVERTERS, *_get_convert_map(), "SequenceMap"}


def is_written_out(node: onnx.NodeProto) -> bool:
    """Whether ONNX's own definition of a node by other operators takes its place."""
    if node.op_type == "Attention":
        return onnx_attention.is_written_out(node)
    return node.op_type in _DEFINED or node.op_type == "DynamicQuantizeLinear"
