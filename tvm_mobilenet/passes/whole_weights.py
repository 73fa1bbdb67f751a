"""Weights as integers, and the ways of summing that they allow.

A network that is quantized here gets steps that suit the kernels: four products of a matrix product, or three taps of a
depthwise filter, fit an int16. A network that comes quantized has the steps of its file. Its weights may be -128, so
the sum of two products of bytes may overflow an int16. After subtraction of their zero points they may need two bytes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.layer_graph import LayerCall

if TYPE_CHECKING:
    from tvm_mobilenet.passes.quantize import Scale

LOW, HIGH = -128, 127
STEPS = 127  # largest weight: without -128, two products fit an int16
SHORT = 255  # largest sum of magnitudes of the weights whose products with int8 are summed in an int16
GROUPS = {"products": 4, "taps": 3, "conv": 2}  # products in an int16; any two without -128 fit
APART = 8  # channels from one of these products to the next where a kernel multiplies whole vectors: its int16 lanes
LEAST = 2.0**-60


def whole_weights(call: LayerCall, given: Scale) -> tuple[np.ndarray, np.ndarray]:
    """The weights (n, taps) of a layer as integers, and their steps (n,)."""
    weight, bias = call.weight.astype(np.float64), call.bias.astype(np.float64)
    flat = weight.reshape(len(weight), -1)
    if call.marks is not None and call.marks.steps is not None:
        return _given(flat, np.array(call.marks.steps), bias / given.step)
    steps = steps_of(call.layer.replace(group=group_of(call.layer)), flat, bias / given.step)
    return np.clip(np.rint(flat / steps[:, None]), -STEPS, STEPS), steps


def _given(flat: np.ndarray, steps: np.ndarray, biases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The original integers of the weights, less their zero points, and their steps. A channel of zeros gets a new
    step.

    Parameters
    ----------
    flat : (n, taps) float64
    steps : (n,) float64
        The steps of the file.
    biases : (n,) float64
        Over the scale of the data.
    """
    steps = np.where(np.abs(flat).max(1) > 0, steps, np.maximum(np.abs(biases) / (1 << 30), LEAST))
    return np.rint(flat / steps[:, None]), steps


def summed(layer: Layer, weights: np.ndarray) -> Layer:
    """The layer with as many products in an int16 as its weights (n, taps) allow, and with weights of two bytes if they
    exceed an int8.
    """
    if weights.min(initial=0) < LOW or weights.max(initial=0) > HIGH:
        return layer.replace(group=0, weights="int16")
    while layer.group > 1 and _most(layer, weights) > SHORT:
        layer = layer.replace(group=layer.group - 1 if layer.declared.groups == "channels" else layer.group // 2)
    return layer


def group_of(layer: Layer) -> int:
    """The number of products that an int16 sums, for a layer whose weights are made for it; 0 if none."""
    if layer.declared.pixels:
        return GROUPS["products"]
    if layer.declared.groups == "channels" or layer.groups == layer.channels > 1:
        return GROUPS["taps"]
    return GROUPS["conv"] if layer.groups == 1 else 0


def steps_of(layer: Layer, flat: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """The step of each output channel, rounded up to 12 bits. It keeps the largest weight within `STEPS`, the groups
    that an int16 sums within `SHORT`, and the bias within an int32.

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
    """Weights (n, groups, members) by the groups that an int16 sums, padded with zeros.

    In a matrix product the members are eight apart (``schedules/integer_products.py``). In a depthwise filter they are
    neighbours, as in a convolution's taps and channels, with channels fastest.
    """
    n, taps = flat.shape
    if layer.declared.groups == "any":
        flat = flat.reshape(n, layer.channels // layer.groups, -1).transpose(0, 2, 1).reshape(n, taps)
    if layer.declared.pixels:
        block = 8 * layer.group
        padded = np.pad(flat, ((0, 0), (0, -taps % block)))
        return padded.reshape(n, -1, layer.group, 8).transpose(0, 1, 3, 2).reshape(n, -1, layer.group)
    return np.pad(flat, ((0, 0), (0, -taps % layer.group))).reshape(n, -1, layer.group)


def _most(layer: Layer, weights: np.ndarray) -> float:
    """The largest sum of magnitudes that an int16 may hold, in all ways in which kernels sum a convolution's products:
    neighbours, and where there are many channels those `APART`.
    """
    found = np.abs(grouped(layer, weights)).sum(2).max()
    if layer.declared.groups != "any" or layer.groups > 1 or layer.channels % (APART * layer.group):
        return found
    by_channel = np.abs(weights).reshape(len(weights), -1, layer.group, APART, math.prod(layer.kernel))
    return max(found, by_channel.sum(2).max())


def rounded_up(values: np.ndarray, bits: int = 12) -> np.ndarray:
    """Round up to so many significant bits, so that values that differ between CPUs in their last digits become
    equal.
    """
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.ceil(mantissa * (1 << bits)) / (1 << bits), exponent)
