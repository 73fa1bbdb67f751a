"""ONNX's operators on the bits of values: shifts by any number, and values of another dtype with the same bits."""

from __future__ import annotations

import numpy as np
import onnx
from tvm import relax, te, tirx

from tvm_mobilenet.frontend.onnx_arguments import text


def _bit_shift(bb, inputs, attrs, otherwise):
    """Shifted values; 0 if no bit of a value is left, and the sign of a negative one that is shifted right."""
    x, by = inputs
    dtype = str(x.ty.dtype)
    bits = 8 * np.dtype(dtype).itemsize
    kept = bb.emit(relax.op.logical_and(*(bb.emit(one) for one in _within(by, 0, bits, dtype))))
    made = bb.emit(otherwise(type(inputs)([x, bb.emit(relax.op.where(kept, by, relax.const(0, dtype)))])))
    rest = relax.const(0, dtype)
    if dtype.startswith("int") and text(attrs.get("direction", "LEFT")) == "RIGHT":
        rest = bb.emit(relax.op.right_shift(x, relax.const(bits - 1, dtype)))
    return relax.op.where(kept, made, rest)


def _within(x: relax.Expr, low: int, end: int, dtype: str) -> tuple[relax.Expr, relax.Expr]:
    return relax.op.greater_equal(x, relax.const(low, dtype)), relax.op.less(x, relax.const(end, dtype))


def _bit_cast(bb, inputs, attrs, otherwise):
    """The bits of each value as a value of another dtype of the same size."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(int(attrs["to"])).name
    own = str(inputs[0].ty.dtype)
    if np.dtype(dtype).itemsize != np.dtype(own).itemsize:
        raise ValueError(f"{own} and {dtype} differ in size")

    def nest(data: te.Tensor) -> te.Tensor:
        return te.compute(data.shape, lambda *at: tirx.reinterpret(dtype, data(*at)), "bits")

    return bb.emit_te(nest, inputs[0], primfunc_name_hint="bits")


CONVERTERS = {"BitShift": _bit_shift, "BitCast": _bit_cast}
