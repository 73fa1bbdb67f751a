"""Convolutions that are neither depthwise nor pointwise."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import conv2d, convolved, convolved_in_steps, filters, squares


def _formula(layer, cost) -> int:
    """Each group reads its share of the input channels."""
    kernel, size = squares(layer)
    return round(cost.standard(kernel, layer.channels / layer.groups, layer.out_channels, size))


def _pattern(make, call):
    found = conv2d(make, call)
    if found.depthwise or found.product:
        return None
    return make.feature_map(call, found.layer(make, "conv"), found.x, weight=found.weight)


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
        patterns={"nn.conv2d": _pattern},
        reference=convolved,
        stepped=convolved_in_steps,
    )
)
