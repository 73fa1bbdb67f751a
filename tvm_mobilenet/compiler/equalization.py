"""The choice of equalization factors for a network's values, by their effect on the layers that read them.

Full factors would give every channel the whole int8 range. But they make the weights of one output uneven, and these
are rounded too. They also fit the calibration images only: a channel that is small on these is clipped if another image
makes it large. So each group of values is tried with several powers of the full factors, by cross-validation: factors
and scales of one half of the images are judged on the other half. The choice is the power with the best signal over
noise in the layers that read the values. docs/results/int8.md has the effect on two trained networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tvm_mobilenet.compiler.float_run import products, rounded, walk
from tvm_mobilenet.compiler.ranges import scale_of
from tvm_mobilenet.passes import equalize
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Scale, integral
from tvm_mobilenet.passes.whole_weights import whole_weights

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # exponents of the factors that would make all channels equal
MOST = 4.0  # limit of a factor; with 6 and 8 torchvision's v2 has the same signal to noise
TINY = 1e-30
OUTPUT, SUMS = "output", "sums"
Key = tuple[str, str]  # a value, and `OUTPUT` or `SUMS`: what its layer writes, or has before it adds a residual
BITS = 2  # significant bits of a factor after its first: coarse, so that every CPU finds the same


def found(graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], count: int) -> dict[str, np.ndarray]:
    """The factors (channels,) of each value.

    Parameters
    ----------
    inputs : sequence of tuples of ndarray
        The inputs that give the range of each channel.
    count : int
        The number of inputs on which factors are tried; the first half of them are of the inputs at even places, the
        second of those at odd ones.
    """
    groups = [g for g in equalize.groups(graph) if all(integral(c.layer) for c in graph.calls if c.name in g.readers)]
    if not groups:
        return {}
    of_value = {value: number for number, group in enumerate(groups) for value in group.values}
    halves = inputs[::2], inputs[1::2] or inputs
    ends = [_ends(graph, half, set(of_value)) for half in halves]
    noise = np.zeros((len(groups), len(POWERS)))
    for half, seen in zip(halves, reversed(ends), strict=True):
        tried = [[_Tried(group, seen, power) for power in POWERS] for group in groups]

        def visit(call: LayerCall, operands: list, _own: list, _outputs: list, tried: list = tried) -> None:
            for place, value in enumerate(call.inputs):
                if value in of_value:
                    noise[of_value[value]] += _noise(call, place, operands, tried[of_value[value]])

        walk(graph, spread(half, count // len(halves)), visit)
    chosen = [POWERS[highest(np.array([decibels(1.0, one) for one in row]))] for row in noise]
    every = {key: _wider(*(one[key] for one in ends)) for key in ends[0]}
    factors = [factors_of(group, every, power) for group, power in zip(groups, chosen, strict=True)]
    return {
        value: own for group, own in zip(groups, factors, strict=True) if np.any(own != 1) for value in group.values
    }


def spread(inputs: Sequence, count: int) -> list:
    """``count`` inputs at even distances from the first to the last, so that all photographs of a repeated list are
    included.
    """
    of, count = len(inputs) - 1, min(count, len(inputs))
    return [inputs[round(i * of / max(1, count - 1))] for i in range(count)]


class _Tried:
    """Factors (channels,) of a group, and the scale of its values with them. A scale for each value would be more
    accurate, but the comparison is fair.
    """

    def __init__(self, group: equalize.Group, ends: Mapping[Key, np.ndarray], power: float):
        self.factors = factors_of(group, ends, power)
        scaled = [ends[value, OUTPUT] * self.factors for value in group.values]
        low, high = (
            min(0.0, *(float(one[0].min()) for one in scaled)),
            max(0.0, *(float(one[1].max()) for one in scaled)),
        )
        self.scale = scale_of(low, high) if high > low else Scale(1.0, 0)


def _noise(call: LayerCall, place: int, operands: list[list[np.ndarray]], tried: Sequence[_Tried]) -> np.ndarray:
    """The noise that rounding adds with each of several factors to a layer's output, as far as one of its operands
    determines it: over the signal.

    Parameters
    ----------
    place : int
        The place of the operand. The data of a layer with weights is multiplied by them, rounded too; other operands
        count as they are.
    operands : list of lists of ndarray
        The operands of the call, for each of several inputs.
    """
    through = place == 0 and call.layer.weight_shape is not None
    weights = [_rounded_weight(call, one) for one in tried] if through else []
    signal, noise = 0.0, np.zeros(len(tried))
    for own in operands:
        right = products(call, own, call.weight, None).numpy() if through else own[place]
        signal += float(np.square(right, dtype=np.float64).sum())
        for i, one in enumerate(tried):
            if through:
                made = products(call, own, weights[i], one.scale, one.factors).numpy()
            else:
                made = rounded(right * one.factors.astype(np.float32), one.scale) / one.factors
            noise[i] += float(np.square(made - right, dtype=np.float64).sum())
    return noise / signal if signal else noise


def _rounded_weight(call: LayerCall, tried: _Tried) -> np.ndarray:
    whole, steps = whole_weights(call.replace(weight=equalize.read_by(call, tried.factors)), tried.scale)
    return (whole * steps[:, None]).reshape(call.weight.shape)


def highest(heights: np.ndarray) -> int:
    """The first option that no other exceeds by more than a tenth of a dB: ties are decided alike on every CPU."""
    return int(np.argmax(heights > heights.max() - 0.1))


def decibels(signal: float, noise: float) -> float:
    """A ratio of sums of squares; at most 120, the limit of float32."""
    if not signal:
        return 0.0
    return min(120.0, 10 * math.log10(signal / max(noise, signal * 1e-12)))


def _ends(graph: LayerGraph, inputs: Sequence, values: set[str]) -> dict[Key, np.ndarray]:
    """The least and the largest of each channel, (2, channels): of values, and of sums before a residual is added."""
    ends: dict[Key, np.ndarray] = {}

    def visit(call: LayerCall, _operands: list, own: list, outputs: list) -> None:
        if call.output not in values:
            return
        arrays = {OUTPUT: outputs} if call.layer.residual == "none" else {OUTPUT: outputs, SUMS: own}
        for what, of_inputs in arrays.items():
            for one in of_inputs:
                flat = one.reshape(-1, call.layer.out_channels)
                new = np.stack([flat.min(0), flat.max(0)]).astype(np.float64)
                ends[call.output, what] = _wider(ends.get((call.output, what), new), new)

    walk(graph, inputs, visit)
    return ends


def _wider(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The ends (2, channels) of two ranges together."""
    return np.stack([np.minimum(a[0], b[0]), np.maximum(a[1], b[1])])


def factors_of(group: equalize.Group, ends: Mapping[Key, np.ndarray], power: float) -> np.ndarray:
    """The factors of a group, which extend the range of none of its values or their sums.

    A channel's share is the part that it takes of the range above or below zero, the largest of all ranges of the
    group. Its full factor is one over the share. A channel that was zero on all images keeps its size.
    """
    share = np.zeros(group.channels)
    for key, (low, high) in ends.items():
        if key[0] in group.values:
            for side in (np.maximum(-low, 0.0), np.maximum(high, 0.0)):
                share = np.maximum(share, side / max(float(side.max()), TINY))
    full = np.where(share > 0, 1 / np.maximum(share, TINY), 1.0)
    mantissa, exponent = np.frexp(np.clip(full**power, 1.0, MOST))
    return np.maximum(np.ldexp(np.floor(mantissa * (1 << (BITS + 1))) / (1 << (BITS + 1)), exponent), 1.0)
