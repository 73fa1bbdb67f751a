"""Activations of int8 values that are no clamps: a table, whose 256 values are computed when the network is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvm_mobilenet.kinds.integers import TABLE

if TYPE_CHECKING:
    from tvm_mobilenet.passes.quantize import Scale

LOW = -128


def table(activation: str, before: Scale, after: Scale) -> np.ndarray:
    """What an activation makes of each int8 value."""
    x = (np.arange(LOW, LOW + TABLE) - before.zero) * before.step
    return after.of(_FUNCTIONS[activation](x)).astype(np.int8)


_FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}
