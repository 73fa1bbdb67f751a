"""Scales and zero points of a network's values, from what they are on images.

The network runs in float32 on each image; of each value a histogram is kept. Ranges are tried: all values, all but a
few of the largest, and narrower ones; of them the one is taken that has the least mean square error, of rounding within
it and of what it clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvm_mobilenet import kinds
from tvm_mobilenet.compiler.calibration import activated, array_of, by_its_nest, images_of, tensors_of
from tvm_mobilenet.kinds.integers import CLAMPS
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Quantization, Scale, integral
from tvm_mobilenet.passes.whole_weights import HIGH, LOW, rounded_up, whole_weights

IMAGES = 32  # photographs and crops, where none are given
BINS = 2048
TAILS = (0.0, 1e-5, 1e-4, 1e-3)  # shares of values that a range may leave out
NARROWER = tuple(1 - i / 20 for i in range(1, 11))


class Histogram:
    """How often a value is how large; the range grows as values come."""

    def __init__(self):
        self.low, self.high, self.counts = 0.0, 0.0, np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        low, high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if (low, high) != (self.low, self.high):
            at, counts = self.centres, self.counts
            self.low, self.high, self.counts = low, high, np.zeros(BINS)
            if counts.any():
                self.counts += np.histogram(at, BINS, (low, high), weights=counts)[0]
        if self.high > self.low:
            self.counts += np.histogram(values, BINS, (self.low, self.high))[0]

    @property
    def centres(self) -> np.ndarray:
        width = (self.high - self.low) / BINS
        return self.low + width * (np.arange(BINS) + 0.5)

    def scale(self) -> Scale:
        """The scale with the least mean square error."""
        if self.high <= self.low:
            return Scale(1.0, 0)
        share = np.cumsum(self.counts) / self.counts.sum()
        ranges = []
        for tail in TAILS:
            low = self.centres[np.searchsorted(share, tail)] if tail else self.low
            high = self.centres[min(BINS - 1, np.searchsorted(share, 1 - tail))] if tail else self.high
            ranges.append((min(low, 0.0), max(high, 0.0)))
        ranges += [(self.low * part, self.high * part) for part in NARROWER]
        return min((scale_of(*r) for r in ranges if r[1] > r[0]), key=self._error)

    def _error(self, scale: Scale) -> float:
        at = self.centres
        low, high = ((end - scale.zero) * scale.step for end in (LOW, HIGH))
        inside = (at >= low - scale.step / 2) & (at <= high + scale.step / 2)
        clipped = np.clip(at, low, high) - at
        return float(self.counts @ np.where(inside, scale.step**2 / 12, clipped**2))


def scale_of(low: float, high: float) -> Scale:
    """The scale of a range that holds zero: 255 steps, zero one of them exactly."""
    step = float(rounded_up(np.array((high - low) / (HIGH - LOW))))
    return Scale(step, int(np.clip(np.rint(LOW - low / step), LOW, HIGH)))


def decide(network) -> Quantization:
    """The scales of a network in float32, on the images of its options.

    Parameters
    ----------
    network : Network

    Raises
    ------
    TvmMobilenetError
        An image cannot be read.
    """
    inputs, images = images_of(network, network.options, IMAGES)
    return replace(scales_of(network.graph, inputs, images), io=network.options.io)


def scales_of(graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], images: str = "") -> Quantization:
    """The scales of a graph in float32.

    Parameters
    ----------
    inputs : sequence of tuples of ndarray
        Each the network's inputs.
    images : str
        What they are, in words.
    """
    seen: dict[str, Histogram] = {}
    inner: dict[str, Histogram] = {}
    means: dict[str, np.ndarray] = {}
    for one in inputs:
        held = {port.value: np.asarray(x) for port, x in zip(graph.signature.inputs, one, strict=True)}
        for value, x in held.items():
            seen.setdefault(value, Histogram()).add(x)
        left = graph.readers()
        for call in graph.calls:
            before, held[call.output] = outputs(call, [held[value] for value in call.inputs])
            seen.setdefault(call.output, Histogram()).add(held[call.output])
            if integral(call.layer) and call.layer.weight_shape:
                x = held[call.inputs[0]].reshape(call.layer.input_shape)
                axes = (0, 2, 3) if call.layer.input_layout == "NCHW" else (0, 1, 2)
                means[call.name] = means.get(call.name, 0.0) + x.mean(axes, np.float64)
            if integral(call.layer) and has_inner(call):
                inner.setdefault(call.name, Histogram()).add(before)
            for value in call.inputs:
                left[value] -= 1
                if not left[value]:
                    del held[value]
    scales = {value: histogram.scale() for value, histogram in seen.items()}
    shifts = {
        call.name: shift_of(call, scales[call.inputs[0]], means[call.name] / len(inputs))
        for call in graph.calls
        if call.name in means
    }
    return Quantization(scales, {name: histogram.scale() for name, histogram in inner.items()}, shifts, images)


def shift_of(call: LayerCall, given: Scale, means: np.ndarray) -> tuple[float, ...]:
    """What a layer's biases get so that rounding its weights does not shift the mean of its sums (Nagel et al., 2019).

    Parameters
    ----------
    means : (channels,) float64
        Of its data.
    """
    whole, steps = whole_weights(call, given)
    lost = call.weight.reshape(len(whole), -1).astype(np.float64) - whole * steps[:, None]
    layer, taps = call.layer, call.layer.kernel[0] * call.layer.kernel[1]
    of_group = layer.channels // layer.groups
    first = np.arange(layer.out_channels) // (layer.out_channels // layer.groups) * of_group
    by_tap = np.repeat(means[first[:, None] + np.arange(of_group)], taps, 1)
    return tuple(float(f"{x:.6g}") for x in (lost * by_tap).sum(1))


def has_inner(call: LayerCall) -> bool:
    """Whether a layer's sums become int8 before they are its output."""
    layer = call.layer
    return bool(layer.weight_shape) and (layer.residual != "none" or layer.activation not in CLAMPS)


def outputs(call: LayerCall, operands: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """What a layer computes in float32: before table or residual, and in the end."""
    import torch

    layer = call.layer
    if layer.body is not None:
        output = by_its_nest(call, operands)
        return output, output
    x, weight, bias, other, residual = tensors_of(call, operands)
    with torch.no_grad():
        own = y = kinds.of(layer.kind).reference(layer, x, weight, bias, other)
        if layer.residual == "before":
            y = y + residual
        y = activated(layer, y)
        if layer.residual == "after":
            own, y = y, y + residual
    return array_of(layer, own), array_of(layer, y)
