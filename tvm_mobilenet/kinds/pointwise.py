"""Pointwise (1x1) convolutions and dense layers: matrix products of pixels, or of images, with a weight."""

from __future__ import annotations

import math

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import convolved, matrix


def _formula(layer, cost) -> int:
    return round(cost.pointwise(layer.channels, layer.out_channels, math.sqrt(layer.height * layer.batch)))


_PRODUCT = {
    "schedule": "pointwise",
    "keeps_channels": False,
    "pixels": True,
    "weight_shape": matrix,
    "formula": _formula,
    "reference": convolved,
}

register(Kind(name="pointwise", short="pw", with_rows="conv", pitched=True, streams="anywhere", **_PRODUCT))
register(Kind(name="dense", **_PRODUCT))
