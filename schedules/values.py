"""Arithmetic of kernels as expressions: constants, conversions, multiply-adds, activations and the epilogue."""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer


def const(value, dtype: str):
    """A constant of a kernel."""
    return tirx.const(value, dtype)


def cast(value, dtype: str):
    """A scalar or vector as values of a dtype; one that is of it already stays as it is."""
    own, _, lanes = str(value.ty).partition("x")
    return value if own == dtype else value.astype(dtype + ("x" + lanes if lanes else ""))


def broadcast(value, count: int):
    """A scalar in every lane; a vector as it is."""
    return value if count == 1 or "x" in str(value.ty) else tirx.Broadcast(value, count)


def multiply_add(total, left, right, dtype: str, count: int = 1):
    """``total + left * right`` in a dtype, of ``count`` lanes; rounded once where the dtype asks for it."""
    left, right = cast(left, dtype), cast(right, dtype)
    if not dtypes.of(dtype).fused:
        return total + left * right
    vector = dtype if count == 1 else f"{dtype}x{count}"
    operands = (broadcast(value, count) for value in (left, right, total))
    return tirx.call_llvm_pure_intrin(vector, "llvm.fma", *operands)


def activate(name: str, x, dtype: str):
    """The activation of an expression of this dtype.

    The hard ones follow MobileNetV3 (Howard et al., 2019): hard-sigmoid is relu6(x + 3) / 6, hard-swish x times that.
    """
    zero, three, six, sixth = (const(v, dtype) for v in (0.0, 3.0, 6.0, 1 / 6))
    if name == "none":
        return x
    if name == "relu":
        return T.max(x, zero)
    if name == "relu6":
        return T.max(T.min(x, six), zero)
    if name == "hardsigmoid":
        return T.max(T.min(x + three, six), zero) * sixth
    if name == "hardswish":
        return x * (T.max(T.min(x + three, six), zero) * sixth)
    if name in ("sigmoid", "silu"):
        wide = dtypes.of(dtype).wide
        one, zero, y = const(1.0, wide), const(0.0, wide), cast(x, wide)
        sigmoid = one / (one + tirx.exp(zero - y))
        return cast(sigmoid if name == "sigmoid" else y * sigmoid, dtype)
    raise ValueError(f"unknown activation {name!r}")


def epilogue(layer: Layer, x, residual):
    """Residual add and activation, in the layer's order. ``residual()`` reads the second operand's element."""
    dtype = layer.accumulator_dtype
    if layer.residual == "before":
        x = x + cast(residual(), dtype)
    x = activate(layer.activation, x, dtype)
    if layer.residual == "after":
        x = x + cast(residual(), dtype)
    return x
