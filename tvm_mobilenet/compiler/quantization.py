"""Scales and zero points of a network's values, found from their ranges on images.

The network runs in float32 on each image. The following steps use the ratio of a layer's output to its rounding noise,
measured on a few of the images:

1. factors of channels, if these are unevenly large (``equalization.py``); 2. the range of each value, among the
candidates of three methods (``ranges.py``). For each candidate the following layers are computed up to the next
activations, since these decide how much of the value matters (``range_choice.py``); 3. shifts of biases that correct
the mean error of rounded weights (Nagel et al., 2019), if they help; 4. for the record, the final ratio of each layer,
and the share of its output that is clipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tvm_mobilenet.compiler import equalization, range_choice
from tvm_mobilenet.compiler.calibration import images_of
from tvm_mobilenet.compiler.equalization import decibels, spread
from tvm_mobilenet.compiler.float_run import AT_ONCE, has_inner, outputs, products, rounded, walk
from tvm_mobilenet.compiler.ranges import METHODS, Histogram
from tvm_mobilenet.passes import equalize, moved
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.quantize import Quality, Quantization, Scale, integral
from tvm_mobilenet.passes.whole_weights import whole_weights

IMAGES = 64  # photographs and crops, if the user gives none
SAMPLE = AT_ONCE  # number of them on which choices are tried
AUTO = "auto"


def decide(network) -> Quantization:
    """The scales of a network in float32, on the images of its options.

    Parameters
    ----------
    network : Network

    Raises
    ------
    TvmMobilenetError
        An image or the file of ``--quantization`` cannot be read, or this file belongs to another network.
    """
    options = network.options
    if options.quantization is not None:
        from tvm_mobilenet.compiler.quantization_file import read

        return replace(read(options.quantization, network.graph), io=options.io)
    inputs, images = images_of(network, options, IMAGES)
    bounds = {}
    if network.image is not None:
        bounds[network.signature.inputs[0].value] = network.image.preprocess.bounds
    found = scales_of(network.graph, inputs, images, options.calibration_method or AUTO, bounds)
    return replace(found, io=options.io)


def scales_of(
    graph: LayerGraph,
    inputs: Sequence[tuple[np.ndarray, ...]],
    images: str = "",
    method: str = AUTO,
    bounds: Mapping[str, tuple[float, float]] | None = None,
) -> Quantization:
    """The scales of a graph in float32.

    Parameters
    ----------
    inputs : sequence of tuples of ndarray
        Each the network's inputs.
    images : str
        A description of the inputs.
    method : str
        ``auto``, or one of ``ranges.METHODS`` for all values. The sums that a layer rounds before a table or an
        addition are never stored; their ranges are chosen among all methods.
    bounds : mapping of str to (float, float)
        The range of values whose least and largest are known, such as normalised bytes of an image.
    """
    sample = spread(inputs, SAMPLE)
    factors = equalization.found(graph, inputs, SAMPLE)
    graph = equalize.run(graph, factors)
    seen, inner, means = _seen(graph, inputs)
    for value, (low, high) in (bounds or {}).items():
        seen[value].low, seen[value].high = min(low, seen[value].low), max(high, seen[value].high)
    methods = dict.fromkeys(seen, METHODS if method == AUTO else (method,)) | dict.fromkeys(inner, METHODS)
    methods |= dict.fromkeys(bounds or {}, ("minmax",))
    found, found_inner = range_choice.chosen(graph, sample, seen, inner, methods)
    scales = moved.agreed(graph, {value: one.scale for value, one in found.items()}, _computes)
    scales_inner = {name: one.scale for name, one in found_inner.items()}
    ways = {value: one.method for value, one in found.items()}
    shifts = _shifts(graph, sample, scales, means)
    made = Quantization(
        scales,
        scales_inner,
        shifts,
        images,
        factors={value: tuple(map(float, one)) for value, one in factors.items()},
        method=method,
    )
    clipped = {value: histogram.clipped(scales[value]) for value, histogram in seen.items()}
    return replace(made, layers=_quality(graph, sample, made, ways, clipped))


def _seen(graph: LayerGraph, inputs: Sequence) -> tuple[dict, dict, dict]:
    """Histograms of values, and of values before a table or an addition; means of the channels of data."""
    seen: dict[str, Histogram] = {port.value: Histogram() for port in graph.signature.inputs}
    inner: dict[str, Histogram] = {}
    means: dict[str, np.ndarray] = {}
    for one in inputs:
        for port, x in zip(graph.signature.inputs, one, strict=True):
            seen[port.value].add(np.asarray(x))

    def visit(call: LayerCall, operands: list, own: list, made: list) -> None:
        layer = call.layer
        for data, before, output in zip(operands, own, made, strict=True):
            seen.setdefault(call.output, Histogram()).add(output)
            if not integral(layer) or layer.weight_shape is None:
                continue
            axes = (0, 2, 3) if layer.input_layout == "NCHW" else (0, 1, 2)
            mean = data[0].reshape(layer.input_shape).mean(axes, np.float64) / len(inputs)
            means[call.name] = means.get(call.name, 0.0) + mean
            if has_inner(call):
                inner.setdefault(call.name, Histogram()).add(before)

    walk(graph, inputs, visit)
    return seen, inner, means


def _shifts(graph: LayerGraph, sample: Sequence, scales: Mapping[str, Scale], means: Mapping) -> dict:
    """`shift_of` for each layer that it brings nearer to its float32 output."""
    shifts: dict[str, tuple[float, ...]] = {}

    def visit(call: LayerCall, operands: list, _own: list, _outputs: list) -> None:
        if call.name not in means or call.name in shifts:
            return
        given = scales[call.inputs[0]]
        shift = shift_of(call, given, means[call.name])
        whole, steps = whole_weights(call, given)
        weight = (whole * steps[:, None]).reshape(call.weight.shape)
        added = np.array(shift, np.float32).reshape(1, -1, 1, 1)
        without = with_shift = 0.0
        for one in operands:
            off = products(call, one, weight, given).numpy() - products(call, one, call.weight, None).numpy()
            without += float(np.square(off, dtype=np.float64).sum())
            with_shift += float(np.square(off + added, dtype=np.float64).sum())
        if with_shift < without:
            shifts[call.name] = shift

    walk(graph, sample, visit)
    return shifts


def shift_of(call: LayerCall, given: Scale, means: np.ndarray) -> tuple[float, ...]:
    """The correction of a layer's biases such that rounded weights do not shift the mean of its sums.

    Parameters
    ----------
    means : (channels,) float64
        The means of its data.

    Returns
    -------
    tuple of float
        In whole units of the sum, so that CPUs that add in another order find the same, except for rare ties.
    """
    whole, steps = whole_weights(call, given)
    lost = call.weight.reshape(len(whole), -1).astype(np.float64) - whole * steps[:, None]
    layer, taps = call.layer, call.layer.kernel[0] * call.layer.kernel[1]
    of_group = layer.channels // layer.groups
    first = np.arange(layer.out_channels) // (layer.out_channels // layer.groups) * of_group
    by_tap = np.repeat(means[first[:, None] + np.arange(of_group)], taps, 1)
    unit = given.step * steps
    return tuple(float(f"{x:.6g}") for x in np.rint((lost * by_tap).sum(1) / unit) * unit)


def _quality(graph: LayerGraph, sample: Sequence, made: Quantization, ways: Mapping, clipped: Mapping) -> dict:
    """For each layer of the rounded network: the ratio of its output to the noise of all layers up to it."""
    kept = _rounded_values(graph)
    right: dict[str, list[np.ndarray]] = {}
    found: dict[str, Quality] = {}
    weights = {}
    for call in graph.calls:
        if integral(call.layer) and call.layer.weight_shape is not None:
            whole, steps = whole_weights(call, made.scales[call.inputs[0]])
            bias = call.bias + np.array(made.shifts.get(call.name, 0.0))
            weights[call.name] = call.replace(bias=bias), (whole * steps[:, None]).reshape(call.weight.shape)

    def run(call: LayerCall, operands: list) -> tuple[np.ndarray, np.ndarray]:
        changed, weight = weights.get(call.name, (call, None))
        own, output = outputs(changed, operands, weight, made.inner.get(call.name) if weight is not None else None)
        return own, rounded(output, made.scales[call.output]) if call.output in kept else output

    def compare(call: LayerCall, _operands: list, _own: list, outputs_: list) -> None:
        pairs = list(zip(outputs_, right.pop(call.name), strict=True))
        dots = [sum(_dot(a.ravel(), b.ravel()) for a, b in pick) for pick in _three(pairs)]
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in pairs)
        norm = float(np.sqrt(dots[1]) * np.sqrt(dots[2]))
        found[call.name] = Quality(
            call.source,
            call.layer.name,
            ways[call.output] if call.output in kept else "",
            round(decibels(dots[2], noise), 1),
            round(dots[0] / norm, 4) if norm else 1.0,
            float(f"{clipped[call.output]:.2g}") if call.output in kept else 0.0,
        )

    first = {p.value: [] for p in graph.signature.inputs}
    for one in sample:
        for port, x in zip(graph.signature.inputs, one, strict=True):
            first[port.value].append(rounded(np.asarray(x), made.scales[port.value] if port.value in kept else None))
    walk(graph, sample, lambda call, _o, _own, made_: right.__setitem__(call.name, made_))
    walk(graph, list(zip(*first.values(), strict=True)), compare, run)
    return found


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """A dot product of float32, summed in float64 if it would overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.vdot(a, b))
    return found if np.isfinite(found) else float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


def _three(pairs: list) -> tuple[list, list, list]:
    return pairs, [(a, a) for a, _ in pairs], [(b, b) for _, b in pairs]


def _rounded_values(graph: LayerGraph) -> set[str]:
    """The values that are int8 tensors: outputs of integer layers, except scores, and values that an integer layer
    reads.
    """
    moving = moved.between(graph, _computes)
    calls = [call for call in graph.calls if _computes(call) or call.name in moving]
    ends = {port.value for port in graph.signature.outputs}
    return {v for call in calls for v in call.inputs} | {call.output for call in calls if call.output not in ends}


def _computes(call: LayerCall) -> bool:
    """Whether a layer of the float32 graph computes in integers."""
    return integral(call.layer)
