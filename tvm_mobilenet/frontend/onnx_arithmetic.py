"""Converters for ONNX's operators on single values, beside those of `onnx_bits`."""

from __future__ import annotations

import numpy as np
from tvm import relax

from tvm_mobilenet.frontend.onnx_arguments import const_like


def _power(bb, inputs, attrs, otherwise):
    """A power whose exponent may be of another dtype. ONNX Runtime computes that of integers in float64."""
    base, exponent = inputs
    dtype = str(base.ty.dtype)
    wide = dtype if dtype.startswith("float") else "float64"
    base, exponent = (x if str(x.ty.dtype) == wide else bb.emit(relax.op.astype(x, wide)) for x in inputs)
    made = otherwise(type(inputs)([base, exponent]))
    return made if wide == dtype else relax.op.astype(bb.emit(made), dtype)


def _remainder(bb, inputs, attrs, otherwise):
    """A remainder with the divisor's sign, also of a divisor that is infinite."""
    x, divisor = inputs
    made = bb.emit(otherwise(inputs))
    if attrs.get("fmod", 0) or not str(x.ty.dtype).startswith("float"):
        return made
    apart = bb.emit(relax.op.less(bb.emit(relax.op.multiply(x, divisor)), const_like(x, 0.0)))
    far = bb.emit(relax.op.where(apart, divisor, x))
    return relax.op.where(bb.emit(relax.op.isinf(divisor)), far, made)


def _shrink(bb, inputs, attrs, otherwise):
    """``x - bias`` above ``lambd``, ``x + bias`` below ``-lambd``, else 0."""
    x, edge, bias = inputs[0], float(attrs.get("lambd", 0.5)), float(attrs.get("bias", 0.0))
    above, below = bb.emit(relax.op.subtract(x, const_like(x, bias))), bb.emit(relax.op.add(x, const_like(x, bias)))
    rest = bb.emit(relax.op.where(bb.emit(relax.op.less(x, const_like(x, -edge))), below, const_like(x, 0.0)))
    return relax.op.where(bb.emit(relax.op.greater(x, const_like(x, edge))), above, rest)


def _celu(bb, inputs, attrs, otherwise):
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))``, as the operator's definition has it."""
    x, alpha = inputs[0], float(attrs.get("alpha", 1.0))
    grown = bb.emit(relax.op.exp(bb.emit(relax.op.multiply(x, const_like(x, 1 / alpha)))))
    below = bb.emit(relax.op.multiply(bb.emit(relax.op.subtract(grown, const_like(x, 1.0))), const_like(x, alpha)))
    return relax.op.add(
        bb.emit(relax.op.nn.relu(x)), bb.emit(relax.op.minimum(below, const_like(x, 0.0)))
    )  # exp may overflow to infinity for large x; its minimum with 0 is 0


def _swish(bb, inputs, attrs, otherwise):
    x, alpha = inputs[0], float(attrs.get("alpha", 1.0))
    scaled = x if alpha == 1.0 else bb.emit(relax.op.multiply(x, const_like(x, alpha)))
    return relax.op.multiply(x, bb.emit(relax.op.sigmoid(scaled)))


def _is_infinite(bb, inputs, attrs, otherwise):
    """TVM's importer ignores that one of both infinities may be meant alone."""
    signs = [s for s, name in ((1, "detect_positive"), (-1, "detect_negative")) if attrs.get(name, 1)]
    if not signs:
        return relax.const(np.zeros([int(d) for d in inputs[0].ty.shape], bool), "bool")
    if len(signs) == 2:
        return otherwise(inputs)
    return relax.op.equal(inputs[0], const_like(inputs[0], signs[0] * np.inf))


CONVERTERS = {
    "Pow": _power,
    "Mod": _remainder,
    "Shrink": _shrink,
    "Celu": _celu,
    "Swish": _swish,
    "IsInf": _is_infinite,
}
