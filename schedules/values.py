"""Arithmetic of kernels as TIR expressions: constants, conversions, multiply-adds, activations and the epilogue."""

from __future__ import annotations

import math

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_mobilenet import dtypes
from tvm_mobilenet.kinds import activation as words
from tvm_mobilenet.kinds import exponential as EXP
from tvm_mobilenet.layer import Layer

DIVIDED = ("sigmoid", "silu")  # activations with a division
STEPS = 8  # vector instructions of `reciprocal`
_ESTIMATE = 0x7EF311C7  # its bits, less those of a float32, are about those of the float's reciprocal
_WHOLE = 1.5 * 2.0**23  # near this number, float32 holds only integers
CLAMPS = ("none", "relu", "relu6")  # their bounds are exact in every dtype, so they may follow a conversion


def const(value, dtype: str):
    """A constant of a kernel."""
    return tirx.const(value, dtype)


def cast(value, dtype: str):
    """A scalar or vector converted to a dtype, or unchanged if it already has it."""
    own, _, lanes = str(value.ty).partition("x")
    return value if own == dtype else value.astype(dtype + ("x" + lanes if lanes else ""))


def broadcast(value, count: int):
    """A scalar in every lane; a vector unchanged."""
    return value if count == 1 or "x" in str(value.ty) else tirx.Broadcast(value, count)


def fixed(layer: Layer) -> bool:
    """Whether every build of a layer has to round alike. Then LLVM gets no choice, since it would contract a product
    and a sum in some kernels and not in others.
    """
    return dtypes.of(layer.dtype).fused


def intrinsic(name: str, *operands):
    """An LLVM intrinsic whose operands and result all have one type, of vectors or scalars."""
    return tirx.call_llvm_pure_intrin(str(operands[0].ty), name, *operands)


def lanes_of(value) -> int:
    """The number of lanes of an expression."""
    return int(str(value.ty).partition("x")[2] or 1)


def multiply_add(total, left, right, dtype: str, count: int = 1):
    """``total + left * right`` in a dtype, in ``count`` lanes; rounded once if the dtype asks for it."""
    left, right = cast(left, dtype), cast(right, dtype)
    if not dtypes.of(dtype).fused:
        return total + left * right
    return fused(total, left, right, count)


def fused(total, left, right, count: int = 1):
    """``total + left * right``, rounded once."""
    return intrinsic("llvm.fma", *(broadcast(value, count) for value in (left, right, total)))


def alone(layer: Layer, product):
    """A product that LLVM may not contract with a following sum, if the layer's steps are `fixed`."""
    return intrinsic("llvm.arithmetic.fence", product) if fixed(layer) else product


def exponential(layer: Layer, x):
    """exp(x) of float32 by the steps of `kinds.exponential`, rounded by `fused` if the layer's steps are `fixed`."""
    count = lanes_of(x)

    def vector(value, dtype="float32"):
        return broadcast(const(value, dtype), count)

    x = T.max(vector(EXP.LOWEST), T.min(vector(EXP.HIGHEST), x))  # this order of operands keeps NaN
    n = x * vector(EXP.PER_LN2)
    if fixed(layer):
        n = intrinsic("llvm.roundeven", n)
    else:  # roundeven would be a library call on such a core: adding this number rounds too
        n = intrinsic("llvm.arithmetic.fence", n + vector(_WHOLE)) - vector(_WHOLE)

    def plus(total, left, right):
        return fused(total, left, right, count) if fixed(layer) else total + left * right

    r = x
    for part in EXP.LN2:
        r = plus(r, n, vector(-part))
    p = vector(EXP.COEFFICIENTS[0])
    for coefficient in EXP.COEFFICIENTS[1:]:
        p = plus(vector(coefficient), p, r)
    y = plus(r, p, intrinsic("llvm.arithmetic.fence", r * r))
    exponent = (cast(n, "int32") + vector(127, "int32")) << vector(23, "int32")
    return (y + vector(1.0)) * tirx.reinterpret(str(x.ty), exponent)


def activate(layer: Layer, x, dtype: str, then=None, slopes=None, quotient: str = ""):
    """The layer's activation of an expression of this dtype, plus the value that is added after it. ``slopes()`` reads
    the slopes of the expression's channels, for a PReLU. ``quotient``: that of `nest.core_choices`.

    Hard-sigmoid and hard-swish follow MobileNetV3 (Howard et al., 2019): relu6(x + 3) / 6, and x times that. If the
    layer's steps are `fixed`, their last product and the addition after it are rounded once.
    """
    name, numbers = words.parsed(layer.activation)
    zero, three, six, sixth = (const(v, dtype) for v in (0.0, 3.0, 6.0, 1 / 6))

    def added(value):
        return value if then is None else value + then

    def product(left, right):
        return fused(then, left, right, lanes_of(x)) if fixed(layer) and then is not None else added(left * right)

    if name == "none":
        return added(x)
    if name == "relu":
        return added(T.max(x, zero))
    if name == "relu6":
        return added(T.max(T.min(x, six), zero))
    if name == "hardsigmoid":
        return product(T.max(T.min(x + three, six), zero), sixth)
    if name == words.PER_CHANNEL:
        return added(_leaky(layer, x, cast(slopes(), dtype)))
    if name == "leaky":
        return added(_leaky(layer, x, const(numbers[0], dtype), numbers[0]))
    if name == "clip":
        return added(_clamped(x, numbers, dtype))
    if numbers:
        slope, offset = (broadcast(const(n, dtype), lanes_of(x)) for n in numbers)
        line = fused(offset, x, slope) if fixed(layer) else x * slope + offset
        return product(x, _clamped(line, (0.0, 1.0), dtype))
    if name == "hardswish":
        return product(x, T.max(T.min(x + three, six), zero) * sixth)
    if name in DIVIDED:
        return added(cast(_sigmoid(layer, cast(x, dtypes.of(dtype).wide), name == "silu", quotient), dtype))
    raise ValueError(f"unknown activation {name!r}")


def _leaky(layer: Layer, x, slope, number: float | None = None):
    """``x`` where it is positive, else times a slope; ``number`` is that slope, if it is known."""
    scaled = alone(layer, x * slope)
    if number is not None and number > 0:  # one instruction in place of a comparison and a choice
        return T.max(x, scaled) if number < 1 else T.min(x, scaled)
    return tirx.Select(x > broadcast(const(0.0, str(x.ty).partition("x")[0]), lanes_of(x)), x, scaled)


def _clamped(x, bounds: tuple[float, float], dtype: str):
    """``x`` within two bounds, of which one may be infinite."""
    low, high = bounds
    x = x if high == math.inf else T.min(x, const(high, dtype))
    return x if low == -math.inf else T.max(x, const(low, dtype))


def _sigmoid(layer: Layer, y, times_y: bool, quotient: str):
    wide = str(y.ty).partition("x")[0]
    one, zero = (broadcast(const(v, wide), lanes_of(y)) for v in (1.0, 0.0))
    below = one + exponential(layer, zero - y)
    if quotient != "steps":
        return (y if times_y else one) / below
    return y * reciprocal(below) if times_y else reciprocal(below)


def reciprocal(d):
    """1 / d of float32, to two units in the last place, for d from 1 to 2**125, above which it stays 2**-125.

    An estimate from the bits of d, a line in its logarithm, is within 5.1 %. A step of third order and one of second
    order follow.
    """
    like, count = str(d.ty), lanes_of(d)
    one = broadcast(const(1.0, "float32"), count)
    d = T.min(broadcast(const(2.0**125, "float32"), count), d)  # so that no estimate is below zero; this keeps NaN
    bits = tirx.reinterpret(like.replace("float", "int"), d)
    found = tirx.reinterpret(like, broadcast(const(_ESTIMATE, "int32"), count) - bits)
    rest = one - d * found
    found = found + found * (rest + rest * rest)
    return found + found * (one - d * found)


def epilogue(layer: Layer, x, residual, written: str, slopes=None, quotient: str = ""):
    """Residual add and activation, in the layer's order, as a value of the dtype that is written. ``residual()`` reads
    the element of the second operand, ``slopes()`` those of a PReLU. ``quotient``: that of `nest.core_choices`.
    """
    dtype = layer.accumulator_dtype
    if layer.residual == "before":
        x = x + cast(residual(), dtype)
    if fixed(layer) and layer.activation in CLAMPS and layer.residual != "after":
        return activate(layer, cast(x, written), written)  # the same value, with fewer vectors
    then = cast(residual(), dtype) if layer.residual == "after" else None
    y = activate(layer, x, dtype, then, slopes, quotient)
    return cast(y, written)
