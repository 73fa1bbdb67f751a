"""Depthwise convolutions: one filter a channel."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import convolved, filters, squares


def _formula(layer, cost) -> int:
    kernel, size = squares(layer)
    return round(cost.depthwise(kernel, layer.channels, size))


register(
    Kind(
        name="depthwise",
        short="dw",
        schedule="depthwise",
        groups="channels",
        windowed=True,
        pitched=True,
        streams="anywhere",
        weight_shape=filters,
        formula=_formula,
        reference=convolved,
    )
)
