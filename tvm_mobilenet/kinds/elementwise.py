"""Element-wise layers: an activation alone, or two operands.

``none``: no second operand. ``add``, ``sub``, ``mul``: a second operand of the same shape. ``scale``: the second
operand is one value a channel, (batch, 1, 1, channels): squeeze-and-excite. ``pixels``: a table of 256 entries for each
channel converts an image's bytes to int8. ``rescale``: the same numbers as int8 of another scale, an operand of a
concatenation.
"""

from __future__ import annotations

import operator
from math import prod

from tvm_mobilenet.kinds import Kind, activation, register

_OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "scale": operator.mul}


def _reference(layer, x, weight, bias, second):
    return x if layer.op in layer.declared.unary else _OPERATORS[layer.op](x, second)


def _stepped(layer, x, weight, bias, second, steps):
    return x if layer.op == "none" else steps.round(_OPERATORS[layer.op](x, second))


def _binary(make, call, op: str):
    constant = make.array(call.args[1])
    if constant is not None:
        return None
    a, b = (make.tensor(x) for x in call.args)
    if op == "mul" and prod(a.shape) < prod(b.shape):
        a, b = b, a
    if a.shape != b.shape:
        return _scale(make, op, a, b)
    same = b.with_axes_of(a)
    if same is None or same.stored != a.stored:
        a, b = make.nhwc(a), make.nhwc(b)
        same = b.with_axes_of(a)
        if same is None or same.stored != a.stored:
            raise make.Unsupported("its operands lie differently in memory")
    return make.elementwise(op, a, b)


def _scale(make, op: str, a, b):
    if op == "mul" and len(a.shape) == 4 and b.shape == (a.shape[0], 1, 1, a.shape[3]) != (*a.shape[:2], 1, 1):
        first = a.permuted([0, 3, 1, 2])  # a gate from TensorFlow, on NHWC data
        if first.layout == "NHWC":
            return _scale(make, op, first, b.permuted([0, 3, 1, 2])).permuted([0, 2, 3, 1])
    a = make.nhwc(a)
    if op != "mul" or b.shape != (*a.shape[:2], 1, 1):
        raise make.Unsupported("its operands have different shapes, and neither is a gate (N, C, 1, 1)")
    return make.elementwise("scale", a, b)


def _clip(make, call):
    return _activated(make, call, "clip", *(float(bound.value) for bound in call.args[1:3]))


def _leaky(make, call):
    return _activated(make, call, "leaky", float(call.attrs.alpha))


def _activated(make, call, kind: str, *numbers: float):
    _require_float(make, call)
    try:
        word = activation.named(kind, *numbers)
    except ValueError as e:
        raise make.Unsupported(str(e)) from None
    x = make.tensor(call.args[0])
    return x if word == "none" else make.elementwise("none", x, activation=word)


def _prelu(make, call):
    _require_float(make, call)
    slopes, x = make.array(call.args[1]), make.tensor(call.args[0])
    if slopes is not None and slopes.size == 1:
        return _activated(make, call, "leaky", slopes.item())
    axis = int(call.attrs.axis) % len(x.shape)
    if slopes is None or x.dims[axis] != x.stored[-1:] or slopes.size != x.nhwc[-1]:
        raise make.Unsupported("its slopes are not one constant for each channel")
    return make.elementwise("none", x, activation=activation.PER_CHANNEL, slopes=slopes.reshape(-1))


def _require_float(make, call) -> None:
    if str(call.args[0].ty.dtype) != "float32":
        raise make.Unsupported("its data is not float32")


register(
    Kind(
        name="elementwise",
        short="ew",
        schedule="elementwise",
        ops=("none", "pixels", "rescale", *_OPERATORS),
        identity="none",
        unary=("none", "pixels", "rescale"),
        patterns={
            "add": lambda make, call: _binary(make, call, "add"),
            "subtract": lambda make, call: _binary(make, call, "sub"),
            "multiply": lambda make, call: _binary(make, call, "mul"),
            "clip": _clip,
            "nn.leakyrelu": _leaky,
            "nn.prelu": _prelu,
        },
        writes_nchw=True,
        pitched=True,
        reference=_reference,
        stepped=_stepped,
    )
)
