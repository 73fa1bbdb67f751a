"""Weights as whole numbers, and what these let a kernel do.

A network that is quantized here has steps to the measure of the kernels: four products of a matrix product and three
taps of a depthwise filter fit an int16. One that comes quantized has those of its file. Its weights may be -128, so
that two products of bytes overflow an int16, and less their zero points they may need two bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall

if TYPE_CHECKING:
    from tvm_mobilenet.passes.quantize import Scale

LOW, HIGH = -128, 127
STEPS = 127  # of a weight: -128 is left out, so that two products fit an int16
SHORT = 255  # of the magnitudes of weights whose products with int8 are summed in an int16
GROUPS = {"products": 4, "taps": 3, "conv": 2}  # what an int16 sums; two without -128 fit whatever they are
LEAST = 2.0**-60


def whole_weights(call: LayerCall, given: Scale) -> tuple[np.ndarray, np.ndarray]:
    """The weights (n, taps) of a layer as whole numbers, and their steps (n,)."""
    weight, bias = call.weight.astype(np.float64), call.bias.astype(np.float64)
    flat = weight.reshape(len(weight), -1)
    if call.marks is not None and call.marks.steps is not None:
        return _given(flat, np.array(call.marks.steps), bias / given.step)
    steps = steps_of(call.layer.replace(group=group_of(call.layer)), flat, bias / given.step)
    return np.clip(np.rint(flat / steps[:, None]), -STEPS, STEPS), steps


def _given(flat: np.ndarray, steps: np.ndarray, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The whole numbers of which weights were made, less their zero points, and their steps; a channel of zeros has a
    step of its own.

    Parameters
    ----------
    flat : (n, taps) float64
    steps : (n,) float64
        The file's.
    biases : (n,) float64
        Over the scale of the data.
    """
    steps = np.where(np.abs(flat).max(1) > 0, steps, np.maximum(np.abs(biases) / (1 << 30), LEAST))
    return np.rint(flat / steps[:, None]), steps


def summed(layer: Layer, weights: np.ndarray) -> Layer:
    """The layer with as many products in an int16 as its weights (n, taps) allow; with weights of two bytes where they
    are beyond an int8."""
    if weights.min(initial=0) < LOW or weights.max(initial=0) > HIGH:
        return layer.replace(group=0, weights="int16")
    while layer.group > 1 and np.abs(grouped(layer, weights)).sum(2).max() > SHORT:
        layer = layer.replace(group=layer.group - 1 if layer.declared.groups == "channels" else layer.group // 2)
    return layer


def group_of(layer: Layer) -> int:
    """How many products an int16 sums, of a layer whose weights are made for it; 0: none does."""
    if layer.declared.pixels:
        return GROUPS["products"]
    if layer.declared.groups == "channels":
        return GROUPS["taps"]
    return GROUPS["conv"] if layer.groups == 1 else 0


def steps_of(layer: Layer, flat: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The step of each output channel: its largest weight in `STEPS`, the groups that an int16 sums within `SHORT`, and
    its bias within an int32. Rounded up to 12 bits.

    Parameters
    ----------
    flat : (n, taps) float64
    biases : (n,) float64
        Over the scale of the data.
    """
    steps = np.abs(flat).max(1) / STEPS
    if layer.group:
        sums = np.abs(grouped(layer, flat)).sum(2).max(1)
        steps = np.maximum(steps, sums / (SHORT - layer.group / 2))
    steps = np.maximum(steps, np.abs(biases) / (1 << 30))
    return rounded_up(np.maximum(steps, LEAST))


def grouped(layer: Layer, flat: np.ndarray) -> np.ndarray:
    """Weights (n, groups, members) by the groups that are summed in an int16, zeros where there are none.

    Of a matrix product the members are eight apart (``schedules/integer_products.py``), of a depthwise filter
    neighbours, and so of a convolution's taps and channels, channels fastest.
    """
    n, taps = flat.shape
    if layer.declared.groups == "any":
        flat = flat.reshape(n, layer.channels // layer.groups, -1).transpose(0, 2, 1).reshape(n, taps)
    if layer.declared.pixels:
        block = 8 * layer.group
        padded = np.pad(flat, ((0, 0), (0, -taps % block)))
        return padded.reshape(n, -1, layer.group, 8).transpose(0, 1, 3, 2).reshape(n, -1, layer.group)
    return np.pad(flat, ((0, 0), (0, -taps % layer.group))).reshape(n, -1, layer.group)


def rounded_up(values: np.ndarray, bits: int = 12) -> np.ndarray:
    """To so many significant bits, so that what differs in its last digits from CPU to CPU becomes equal."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.ceil(mantissa * (1 << bits)) / (1 << bits), exponent)
