"""Tables for int8 activations that are not clamps: 256 values, computed when the network is built.

A network that comes quantized may have an activation that its own runtime computes in integers, with slightly different
rounding: TFLite's hard-swish and leaky ReLU. Its table then has the values of that runtime.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tvm_mobilenet.kinds.activation import parsed
from tvm_mobilenet.kinds.integers import TABLE

if TYPE_CHECKING:
    from tvm_mobilenet.passes.quantize import Scale

LOW, HIGH = -128, 127
TFLITE = "tflite"  # the runtime whose tables are used
_EIGHT_BITS = 256
_HALF, _LOW16, _HIGH16 = 1 << 15, -(1 << 15), (1 << 15) - 1


def table(activation: str, before: Scale, after: Scale, whose: str = "") -> np.ndarray:
    """The int8 value of an activation for each int8 value of its input.

    Parameters
    ----------
    whose : str
        `TFLITE` for the values that this runtime computes; otherwise each value is the nearest int8.
    """
    if (activation, whose) == ("hardswish", TFLITE):
        return _hardswish_of_tflite(before, after)
    kind, numbers = parsed(activation)
    if (kind, whose) == ("leaky", TFLITE) and _in_bits(factors := _leaky_factors(before, after, *numbers)):
        return _leaky_of_tflite(before, after, factors)
    x = (np.arange(LOW, LOW + TABLE) - before.zero) * before.step
    return after.of(_applied(activation, x)).astype(np.int8)


_FUNCTIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def _applied(activation: str, x: np.ndarray) -> np.ndarray:
    kind, numbers = parsed(activation)
    if not numbers:
        return _FUNCTIONS[kind](x)
    if kind == "clip":
        return np.clip(x, *numbers)
    return np.where(x > 0, x, x * numbers[0]) if kind == "leaky" else x * np.clip(numbers[0] * x + numbers[1], 0, 1)


def _hardswish_of_tflite(before: Scale, after: Scale) -> np.ndarray:
    """Hard-swish in int16, as ``reference_ops::HardSwish`` of TensorFlow Lite defines it."""
    x = (np.arange(LOW, LOW + TABLE) - before.zero) << 7
    fine = np.float32(before.step) * np.float32(1 / 128)
    by, shift = _multiplier(float(fine / np.float32(after.step)))
    gate_by, gate_shift = _multiplier(float(fine / np.float32(3 / 32768)))
    gate = x
    if gate_shift > 0:
        gate = np.clip(gate << (gate_shift - 1), _LOW16, _HIGH16)
    gate = _product(gate, gate_by)
    if gate_shift > 0:
        gate = np.clip(gate << 1, _LOW16, _HIGH16)
    gate = _shifted(gate, max(0, -gate_shift))
    gate = (gate + _HALF) >> 1  # from -1..1 to 0..1
    made = np.fix(gate * _product(x, by) / (1 << 15)).astype(np.int64)  # towards zero
    return np.clip(_shifted(made, -shift) + after.zero, LOW, HIGH).astype(np.int8)


def _leaky_factors(before: Scale, after: Scale, slope: float) -> tuple[float, float]:
    """Units of the output for a unit of positive inputs, and of negative ones."""
    factor = float(np.float32(before.step) / np.float32(after.step))
    return factor, factor * slope


def _in_bits(factors: tuple[float, float]) -> bool:
    """Whether XNNPACK, by which TensorFlow Lite computes a leaky ReLU, takes these factors: from 1/256 to 128."""
    return all(1 / _EIGHT_BITS <= abs(factor) <= _EIGHT_BITS / 2 for factor in factors)


def _leaky_of_tflite(before: Scale, after: Scale, factors: tuple[float, float]) -> np.ndarray:
    """A leaky ReLU with factors in units of 1/256."""
    x = np.arange(LOW, LOW + TABLE) - before.zero
    by = np.where(x >= 0, *(round(_EIGHT_BITS * factor) for factor in factors))
    made = (x * by + _EIGHT_BITS // 2) // _EIGHT_BITS
    return np.clip(made + after.zero, LOW, HIGH).astype(np.int8)


def _multiplier(factor: float) -> tuple[int, int]:
    """A factor as an int16 in units of 1/32768, and a power of two."""
    mantissa, exponent = math.frexp(factor)
    whole = math.floor(mantissa * (1 << 31) + 0.5)
    if whole == 1 << 31:
        whole, exponent = whole // 2, exponent + 1
    return min((whole + _HALF) >> 16, _HIGH16), exponent


def _product(x: np.ndarray, by: int) -> np.ndarray:
    """Products of int16 in units of 1/32768, halves rounded up."""
    return np.clip((x * by + (1 << 14)) >> 15, _LOW16, _HIGH16)


def _shifted(x: np.ndarray, bits: int) -> np.ndarray:
    """``x`` divided by a power of two, halves rounded away from zero."""
    if bits <= 0:
        return x
    rest, most = x & ((1 << bits) - 1), ((1 << bits) - 1) >> 1
    return (x >> bits) + (rest > most + (x < 0))
