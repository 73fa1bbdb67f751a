"""Depthwise convolutions: one filter a channel."""

from __future__ import annotations

import math

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import convolution, convolved, filters


def _formula(layer, cost) -> int:
    kernel, size = math.sqrt(math.prod(layer.kernel)), math.sqrt(layer.out_height * layer.out_width * layer.batch)
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
        body=convolution,
    )
)
