"""Element-wise layers: an activation alone, or two operands.

``none``: no second operand. ``add``, ``sub``, ``mul``: a second operand of the same shape. ``scale``: the second
operand is one value a channel, (batch, 1, 1, channels): squeeze-and-excite.
"""

from __future__ import annotations

import operator

from tvm_mobilenet.kinds import Kind, register

_OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "scale": operator.mul}


def _reference(layer, x, weight, bias, second):
    return x if layer.op == "none" else _OPERATORS[layer.op](x, second)


register(
    Kind(
        name="elementwise",
        short="ew",
        schedule="elementwise",
        ops=("none", *_OPERATORS),
        identity="none",
        writes_nchw=True,
        pitched=True,
        reference=_reference,
    )
)
