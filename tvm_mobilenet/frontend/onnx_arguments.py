"""Attributes and constant operands of an ONNX node, as its converter reads them."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

OUTPUTS = "number of outputs"  # among the attributes of a node


def is_empty(expr: relax.Expr) -> bool:
    """Whether an operand is a constant without values, which stands for one that is left out."""
    return isinstance(expr, tvm.ir.Constant) and expr.value.numpy().size == 0


def text(value) -> str:
    """An attribute that is a text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def array_of(expr: relax.Expr) -> np.ndarray:
    """The array of a constant; a ValueError if it is none."""
    if not isinstance(expr, tvm.ir.Constant):
        raise ValueError("an argument that is not constant")
    return expr.value.numpy()


def const_like(x: relax.Expr, value: float) -> relax.Expr:
    """A number in the dtype of a tensor."""
    return relax.const(float(value), str(x.ty.dtype))
