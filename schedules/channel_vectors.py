"""The constants of float layers with one value for each output channel: the bias, and the slopes of a PReLU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.layer import Layer


def arguments(layer: Layer) -> list[tuple]:
    """Name, shape and dtype of each that the layer has, in the order of its kernel's arguments."""
    return [(name, *layer.constants[name]) for name in ("bias", SLOPES) if name in layer.constants]


def packed(layer: Layer, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The data of `arguments`."""
    return [arrays[name].astype(dtype) for name, _, dtype in arguments(layer)]
