"""Element-wise layers: an activation alone, or two operands.

``none``: no second operand. ``add``, ``sub``, ``mul``: a second operand of the same shape. ``scale``: the second
operand is one value a channel, (batch, 1, 1, channels): squeeze-and-excite. ``pixels``: a table of 256 entries for each
channel converts an image's bytes to int8.
"""

from __future__ import annotations

import operator
from math import prod

from tvm_mobilenet.kinds import Kind, register

_OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "scale": operator.mul}


def _reference(layer, x, weight, bias, second):
    return x if layer.op == "none" else _OPERATORS[layer.op](x, second)


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


register(
    Kind(
        name="elementwise",
        short="ew",
        schedule="elementwise",
        ops=("none", "pixels", *_OPERATORS),
        identity="none",
        unary=("none", "pixels"),
        patterns={
            "add": lambda make, call: _binary(make, call, "add"),
            "subtract": lambda make, call: _binary(make, call, "sub"),
            "multiply": lambda make, call: _binary(make, call, "mul"),
        },
        writes_nchw=True,
        pitched=True,
        reference=_reference,
        stepped=_stepped,
    )
)
