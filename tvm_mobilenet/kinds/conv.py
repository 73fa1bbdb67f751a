"""Convolutions that are neither depthwise nor pointwise."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import convolved, filters, squares


def _formula(layer, cost) -> int:
    """Of groups, each reads its share of the input channels."""
    kernel, size = squares(layer)
    return round(cost.standard(kernel, layer.channels / layer.groups, layer.out_channels, size))


register(
    Kind(
        name="conv",
        schedule="conv",
        groups="any",
        keeps_channels=False,
        windowed=True,
        writes_nchw=True,
        pitched=True,
        streams="first",
        weight_shape=filters,
        formula=_formula,
        reference=convolved,
    )
)
