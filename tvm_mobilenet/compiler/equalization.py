"""The choice of equalization factors for a network's values, by their effect on the layers that read them.

Full factors would give every channel the whole int8 range. But they make the weights of one output uneven, and these
are rounded too. They also fit the calibration images only: a channel that is small on these is clipped if another image
makes it large. So each group of values is tried without factors, with their square roots, and with their fourth roots.
The choice is the one with the best signal over rounding noise in the layers that read the values. docs/results/int8.md
has the effect on two trained networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tvm_mobilenet.compiler.float_run import products, rounded, walk
from tvm_mobilenet.compiler.ranges import scale_of
from tvm_mobilenet.passes import equalize
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Scale, integral
from tvm_mobilenet.passes.whole_weights import whole_weights

POWERS = (0.0, 0.25, 0.5)  # exponents of the factors that would make all channels equal
MOST = 4.0  # limit of a factor: a channel that no image changed may change on others
BITS = 2  # significant bits of a factor after its first: coarse, so that every CPU finds the same


def found(
    graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], sample: Sequence[tuple[np.ndarray, ...]]
) -> dict[str, np.ndarray]:
    """The factors (channels,) of each value.

    Parameters
    ----------
    inputs : sequence of tuples of ndarray
        The inputs that give the range of each channel.
    sample : sequence of tuples of ndarray
        A few inputs, on which factors are tried.
    """
    groups = [g for g in equalize.groups(graph) if all(integral(c.layer) for c in graph.calls if c.name in g.readers)]
    if not groups:
        return {}
    ends = _ends(graph, inputs, {value for group in groups for value in group.values})
    of_value = {value: number for number, group in enumerate(groups) for value in group.values}
    tried = [[_factors(group, ends, power) for power in POWERS] for group in groups]
    scales = [
        [_scale(group, ends, factors) for factors in options] for group, options in zip(groups, tried, strict=True)
    ]
    heights = np.zeros((len(groups), len(POWERS)))

    def visit(call: LayerCall, operands: list, _own: list, _outputs: list) -> None:
        for place, value in enumerate(call.inputs):
            if value in of_value:
                number = of_value[value]
                for i, factors in enumerate(tried[number]):
                    heights[number, i] += height(call, place, operands, scales[number][i], factors)

    walk(graph, sample, visit)
    chosen = [highest(row) for row in heights]
    return {
        value: tried[number][chosen[number]]
        for number, group in enumerate(groups)
        for value in group.values
        if np.any(tried[number][chosen[number]] != 1)
    }


def height(
    call: LayerCall, place: int, operands: list[list[np.ndarray]], scale: Scale, factors: np.ndarray | None = None
) -> float:
    """The ratio of a layer's output, as far as one of its operands determines it, to the noise that rounding adds, in
    dB.

    Parameters
    ----------
    place : int
        The place of the operand. The data of a layer with weights is multiplied by them, rounded too; other operands
        count as they are.
    operands : list of lists of ndarray
        The operands of the call, for each of several inputs.
    """
    through = place == 0 and call.layer.weight_shape is not None
    if through:
        changed = call if factors is None else call.replace(weight=equalize.read_by(call, factors))
        whole, steps = whole_weights(changed, scale)
        weight = (whole * steps[:, None]).reshape(call.weight.shape)
    signal = noise = 0.0
    for one in operands:
        if through:
            right = products(call, one, call.weight, None).numpy()
            made = products(call, one, weight, scale, factors).numpy()
        else:
            right = one[place]
            made = (
                rounded(right * factors.astype(np.float32), scale) / factors
                if factors is not None
                else (rounded(right, scale))
            )
        signal += float(np.square(right, dtype=np.float64).sum())
        noise += float(np.square(made - right, dtype=np.float64).sum())
    return decibels(signal, noise)


def highest(heights: np.ndarray) -> int:
    """The first option that no other exceeds by more than a tenth of a dB: ties are decided alike on every CPU."""
    return int(np.argmax(heights > heights.max() - 0.1))


def decibels(signal: float, noise: float) -> float:
    """A ratio of sums of squares; at most 120, the limit of float32."""
    if not signal:
        return 0.0
    return min(120.0, 10 * math.log10(signal / max(noise, signal * 1e-12)))


def _ends(graph: LayerGraph, inputs: Sequence, values: set[str]) -> dict[str, np.ndarray]:
    """The least and the largest value of each channel: (2, channels)."""
    ends: dict[str, np.ndarray] = {}

    def visit(call: LayerCall, _operands: list, _own: list, outputs: list) -> None:
        if call.output in values:
            for output in outputs:
                flat = output.reshape(-1, call.layer.out_channels)
                new = np.stack([flat.min(0), flat.max(0)]).astype(np.float64)
                known = ends.setdefault(call.output, new)
                ends[call.output] = np.stack([np.minimum(known[0], new[0]), np.maximum(known[1], new[1])])

    walk(graph, inputs, visit)
    return ends


def _factors(group: equalize.Group, ends: dict[str, np.ndarray], power: float) -> np.ndarray:
    largest = np.max([np.abs(ends[value]).max(0) for value in group.values], 0)
    top = float(largest.max())
    factors = np.clip((top / np.maximum(largest, top / MOST**2)) ** power, 1.0, MOST)
    mantissa, exponent = np.frexp(factors)
    kept = np.ldexp(np.floor(mantissa * (1 << (BITS + 1))) / (1 << (BITS + 1)), exponent)
    return np.maximum(kept, 1.0)


def _scale(group: equalize.Group, ends: dict[str, np.ndarray], factors: np.ndarray) -> Scale:
    """One scale for all values of a group with these factors. A scale for each value would be more accurate, but the
    comparison is fair.
    """
    low = min(float((ends[value][0] * factors).min()) for value in group.values)
    high = max(float((ends[value][1] * factors).max()) for value in group.values)
    low, high = min(low, 0.0), max(high, 0.0)
    return scale_of(low, high) if high > low else Scale(1.0, 0)
