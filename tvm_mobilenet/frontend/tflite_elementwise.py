"""TFLite's operators on single elements or along the last dimension, and the activations that other operators have
fused.

Sums, products and activations of feature maps are in NCHW, since layers of this project compute them in any order.
Other operators keep TFLite's own order, which is the order in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from tvm import relax, te, tirx

from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op
_LEAST_NORM = 1e-6  # least divisor of L2_NORMALIZATION


def number(value: float) -> relax.Expr:
    """A constant of float32."""
    return relax.const(float(value), "float32")


def own(call: Call, expr: relax.Expr) -> Value:
    """A value in TFLite's order, after the activation that the operator has fused."""
    return Value(own=_activated(call, expr))


def nchw(call: Call, expr: relax.Expr) -> Value:
    """A feature map in NCHW, after the activation that the operator has fused."""
    return Value(nchw=_activated(call, expr))


def _activated(call: Call, expr: relax.Expr) -> relax.Expr:
    expr = call.emit(expr)
    name = call.options.get("activation", "NONE")
    if name == "NONE":
        return expr
    if name not in _FUSED:  # LiteRT silently ignores the others
        raise ValueError(f"the activation {name}")
    return call.emit(ACTIVATIONS[name](call, expr))


def _hard_swish(call: Call, x: relax.Expr) -> relax.Expr:
    gate = call.emit(op.clip(call.emit(op.add(x, number(3))), 0, 6))
    return op.multiply(x, call.emit(op.multiply(gate, number(1 / 6))))


def _elu(call: Call, x: relax.Expr) -> relax.Expr:
    below = call.emit(op.minimum(call.emit(op.subtract(call.emit(op.exp(x)), number(1))), number(0)))
    return op.add(call.emit(op.nn.relu(x)), below)


ACTIVATIONS: dict[str, Callable] = {
    "RELU": lambda call, x: op.nn.relu(x),
    "RELU6": lambda call, x: op.clip(x, 0, 6),
    "RELU_N1_TO_1": lambda call, x: op.clip(x, -1, 1),
    "RELU_0_TO_1": lambda call, x: op.clip(x, 0, 1),
    "TANH": lambda call, x: op.tanh(x),
    "LOGISTIC": lambda call, x: op.sigmoid(x),
    "HARD_SWISH": _hard_swish,
    "ELU": _elu,
    "LEAKY_RELU": lambda call, x: op.nn.leakyrelu(x, float(call.options["alpha"])),
    "GELU": lambda call, x: op.nn.gelu_tanh(x) if call.options["approximate"] else op.nn.gelu(x),
    "ABS": lambda call, x: op.abs(x),
    "NEG": lambda call, x: op.negative(x),
    "EXP": lambda call, x: op.exp(x),
    "LOG": lambda call, x: op.log(x),
    "SQRT": lambda call, x: op.sqrt(x),
    "RSQRT": lambda call, x: op.rsqrt(x),
    "SQUARE": lambda call, x: op.multiply(x, x),
    "FLOOR": lambda call, x: op.floor(x),
    "CEIL": lambda call, x: op.ceil(x),
    "ROUND": lambda call, x: op.round(x),
    "SIN": lambda call, x: op.sin(x),
    "COS": lambda call, x: op.cos(x),
    "SIGN": lambda call, x: op.sign(x),
    "LOGICAL_NOT": lambda call, x: op.logical_not(x),
}
_FUSED = ("RELU", "RELU_N1_TO_1", "RELU6")
_OURS = ("RELU", "RELU6", "TANH", "LOGISTIC", "HARD_SWISH")  # layers compute these in any order


def unary(call: Call) -> Value:
    """An operator on single elements; in the order of the data's origin if a layer of ours computes it."""
    name = call.operator.name
    if name in _OURS and call.value(0).nchw is not None:
        return Value(nchw=call.emit(ACTIVATIONS[name](call, call.value(0).nchw)))
    return Value(own=call.emit(ACTIVATIONS[name](call, call.own(0))))


# ---- two operands


def arithmetic(operator: Callable) -> Callable:
    """Sums and products; those of feature maps are in NCHW if layers of ours compute them."""

    def make(call: Call) -> Value:
        tensors = [v for v in call.values if v is not None and v.known is None]
        if tensors and all(len(v.shape) == 4 for v in tensors):
            return nchw(call, operator(call.nchw(0), call.nchw(1)))
        return own(call, operator(call.own(0), call.own(1)))

    return make


def binary(operator: Callable) -> Callable:
    """An operator on two operands, in TFLite's order."""
    return lambda call: own(call, operator(call.own(0), call.own(1)))


def equality(same: bool) -> Callable:
    """Whether two values are the same, or are not."""
    numbers = op.equal if same else op.not_equal

    def make(call: Call) -> Value:
        if call.value(0).dtype != "bool":
            return own(call, numbers(call.own(0), call.own(1)))
        apart = op.logical_xor(call.own(0), call.own(1))
        return own(call, op.logical_not(call.emit(apart)) if same else apart)

    return make


def squared_difference(call: Call) -> Value:
    """``(a - b) ** 2``."""
    apart = call.emit(op.subtract(call.own(0), call.own(1)))
    return own(call, op.multiply(apart, apart))


def softmax(call: Call) -> Value:
    """Softmax along the last dimension, of values times beta."""
    x, beta = call.own(0), float(call.options["beta"])
    x = x if beta == 1.0 else call.emit(op.multiply(x, number(beta)))
    return own(call, op.nn.softmax(x, -1))


def l2_normalization(call: Call) -> Value:
    """Values divided by their norm along the last dimension, which is at least `_LEAST_NORM`."""
    x = call.own(0)
    total = call.emit(op.sum(call.emit(op.multiply(x, x)), -1, keepdims=True))
    norm = call.emit(op.maximum(call.emit(op.sqrt(total)), number(_LEAST_NORM)))
    return own(call, op.divide(x, norm))


def prelu(call: Call) -> Value:
    """PReLU, with a slope for each channel, or of any shape."""
    alpha = None if call.value(1).known is None else call.array(1)
    channels = call.shape(0)[-1]
    if alpha is None or alpha.size not in (1, channels) or (alpha.size > 1 and alpha.shape[-1] != channels):
        below = call.emit(op.multiply(call.own(0), call.own(1)))
        return own(call, op.where(call.emit(op.less(call.own(0), number(0))), below, call.own(0)))
    slopes = np.ascontiguousarray(np.broadcast_to(alpha.reshape(-1), (channels,)), np.float32)
    return own(call, op.nn.prelu(call.own(0), relax.const(slopes), len(call.shape(0)) - 1))


def cast(call: Call) -> Value:
    """Conversion to another dtype; numbers of float16 are kept in float32."""
    if call.dtype == "float16":
        return own(call, op.astype(call.emit(op.astype(call.own(0), "float16")), "float32"))
    return own(call, op.astype(call.own(0), call.known_dtype()))


def as_it_is(call: Call) -> Value:
    """QUANTIZE and DEQUANTIZE: operands are already real values, and the output is rounded afterwards."""
    value = call.value(0)
    if value.nchw is not None:
        return Value(nchw=value.nchw)
    return Value(own=call.own(0))


def select(call: Call) -> Value:
    """One of two values for each element, by a condition."""
    return own(call, op.where(call.own(0), call.own(1), call.own(2)))


def sum_of(call: Call) -> Value:
    """The sum of any number of operands."""
    return own(call, reduce(lambda a, b: call.emit(op.add(a, b)), (call.own(i) for i in range(len(call.values)))))


# ---- bits and steps


def right_shift(call: Call) -> Value:
    """Bits moved to the right, the sign's with them: at least by none, at most by all but the sign."""
    x, by, most = call.own(0), call.own(1), np.iinfo(call.value(0).dtype).bits - 1
    least, most = (relax.const(n, call.value(1).dtype) for n in (0, most))
    return own(call, op.right_shift(x, call.emit(op.maximum(call.emit(op.minimum(by, most)), least))))


def left_shift(call: Call) -> Value:
    """Bits moved to the left. As StableHLO has it, nothing is left of a number that moves by all its bits, or by less
    than none; LiteRT leaves both undefined.
    """
    x, by, bits = call.own(0), call.own(1), np.iinfo(call.value(0).dtype).bits
    none, most, all_of_them = (relax.const(n, call.value(1).dtype) for n in (0, bits - 1, bits))
    moved = call.emit(op.left_shift(x, call.emit(op.maximum(call.emit(op.minimum(by, most)), none))))
    valid = call.emit(op.logical_and(call.emit(op.greater_equal(by, none)), call.emit(op.less(by, all_of_them))))
    return own(call, op.where(valid, moved, relax.const(0, call.value(0).dtype)))


def bits_of_both(call: Call) -> Value:
    """The bits that both have; of truths, whether both are true."""
    both = op.logical_and if call.value(0).dtype == "bool" else op.bitwise_and
    return own(call, both(call.own(0), call.own(1)))


def rounded_to_steps(call: Call) -> Value:
    """FAKE_QUANT: values rounded to the steps of an integer, whose range is moved so that zero is one of them."""
    low, high, bits = (call.options[name] for name in ("min", "max", "num_bits"))
    least, most = int(call.options["narrow_range"]), 2**bits - 1
    if not (2 <= bits <= 16 and low < high):
        raise ValueError(f"{bits} bits from {low} to {high}")
    step = (np.float32(high) - np.float32(low)) / np.float32(most - least)
    zero = int(np.clip(np.floor(least - np.float32(low) / step + 0.5), least, most))
    low, high = (np.float32(end - zero) * step for end in (least, most))
    x = call.emit(op.clip(call.own(0), float(low), float(high)))
    steps = call.emit(op.multiply(call.emit(op.subtract(x, number(low))), number(np.float32(1) / step)))
    steps = call.emit(op.floor(call.emit(op.add(steps, number(0.5)))))
    return own(call, op.add(call.emit(op.multiply(steps, number(step))), number(low)))


def bucketize(call: Call) -> Value:
    """How many of an option's boundaries are no larger than each value."""
    boundaries = np.array(call.options["boundaries"], np.float32)
    if not boundaries.size or not (boundaries[1:] >= boundaries[:-1]).all():
        raise ValueError("boundaries that are not in order")
    x = call.own(0)
    x = x if call.value(0).dtype == "float32" else call.emit(op.astype(x, "float32"))

    def nest(data: te.Tensor, ends: te.Tensor) -> te.Tensor:
        def count(*at):
            i = te.reduce_axis((0, boundaries.size), "i")
            return te.sum((ends(i) <= data(*at)).astype("int32"), axis=i)

        return te.compute(data.shape, count, "buckets")

    return own(call, call.bb.emit_te(nest, x, relax.const(boundaries), primfunc_name_hint="buckets"))


def bitcast(call: Call) -> Value:
    """The same bits as a number of another dtype of the same size."""
    dtype = call.known_dtype()
    if np.dtype(dtype).itemsize != np.dtype(call.value(0).dtype).itemsize:
        raise ValueError(f"the bits of {call.value(0).dtype} as {dtype}")

    def nest(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *at: tirx.reinterpret(dtype, data(*at)), "bits")

    return own(call, call.bb.emit_te(nest, call.own(0), primfunc_name_hint="bits"))
