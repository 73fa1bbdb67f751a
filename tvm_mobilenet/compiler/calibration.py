"""The magnitudes of a network's values on images, which decide the layers that a narrow dtype can compute.

The network runs in float32, layer by layer. A partial sum is at most as large as the sum of the magnitudes of all its
terms; a second convolution, of the magnitudes of data and weights, computes this bound. If it is above the limit of the
dtype, the partial sums themselves are computed, in the order in which kernels add: bias first, then k ascending, taps
row by row. A layer stays in float32 if its largest partial sum is above the limit, or if it reads or writes a value
above the limit. Those values stay in float32 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tvm_mobilenet import kinds
from tvm_mobilenet.kinds import activation
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.passes import chosen_layers, precision
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph
from tvm_mobilenet.passes.precision import LargestSum, Precision

IMAGES = 8  # photographs and crops, if the user gives none


def decide(network) -> Precision:
    """The decisions about a network's dtypes, for the dtype of its options.

    Parameters
    ----------
    network : Network
        In float32.

    Raises
    ------
    TvmMobilenetError
        A weight is out of the dtype's range; ``--accumulate`` names no layer; an image cannot be read.
    """
    options, graph = network.options, network.graph
    sums = chosen_layers.named(graph, options.accumulate) if options.accumulate else ()
    precision.run(graph, Precision(options.dtype, options.io))  # refuse constants out of range before the slow part
    inputs, images = images_of(network, options)
    limit = precision.limit_of(options.dtype)
    largest, values = measure(graph, inputs, limit)
    above = {name for name, most in values.items() if not most <= limit}
    wide = [
        found.layer
        for found, call in zip(largest, graph.calls, strict=True)
        if not found.value <= limit or above.intersection((*call.inputs, call.output))
    ]
    return Precision(
        options.dtype, options.io, sums, tuple(wide), tuple(v for v in values if v in above), tuple(largest), images
    )


def images_of(network, options: ModelOptions, count: int = IMAGES) -> tuple[list[tuple[np.ndarray, ...]], str]:
    """The inputs to run, and a description of them."""
    if not options.calibrate:
        if network.image is None:
            found = network.inputs(count)
            return found, f"{len(found)} arrays of noise"
        found = replace(network, options=replace(options, input=None)).inputs(count)
        what = f"{len(found)} photographs that ship, and crops of them"
        if options.input is None:
            return found, what
        return [*network.inputs(count), *found], f"--input and {what}"  # one image alone shows too small a range
    from tvm_mobilenet.compiler.calibration_inputs import given_inputs

    return given_inputs(network, options.calibrate)


def measure(
    graph: LayerGraph, inputs: Sequence[tuple[np.ndarray, ...]], limit: float
) -> tuple[list[LargestSum], dict[str, float]]:
    """The largest partial sums of each layer, and the largest magnitude of each value.

    Parameters
    ----------
    inputs : sequence of tuples of ndarray
        All inputs of the network, for each run.
    limit : float
        Partial sums are computed for a layer whose bound exceeds it.
    """
    most = dict.fromkeys((call.name for call in graph.calls), 0.0)
    exact = dict.fromkeys(most, True)
    values: dict[str, float] = {}
    for one in inputs:
        held = {port.value: np.asarray(x) for port, x in zip(graph.signature.inputs, one, strict=True)}
        for call, spent in graph.in_order():
            operands = [held[value] for value in call.inputs]
            held[call.output], largest, known = _run(call, operands, limit)
            given = max(map(_largest, operands))
            if given > largest:
                largest, known = given, True
            if largest > most[call.name]:
                most[call.name], exact[call.name] = largest, known
            for value in spent:
                values[value] = max(values.get(value, 0.0), _largest(held.pop(value)))
        for value, array in held.items():
            values[value] = max(values.get(value, 0.0), _largest(array))
    found = [LargestSum(c.name, c.source, float(f"{most[c.name]:.6g}"), exact[c.name]) for c in graph.calls]
    return found, values


def outputs(graph: LayerGraph, inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """The outputs of a graph in float32, layer by layer."""
    held = {port.value: np.asarray(x) for port, x in zip(graph.signature.inputs, inputs, strict=True)}
    for call, spent in graph.in_order():
        held[call.output] = _run(call, [held[value] for value in call.inputs])[0]
        for value in spent:
            del held[value]
    return [held[port.value].reshape(port.shape) for port in graph.signature.outputs]


def _largest(array) -> float:
    """The largest magnitude; infinite if any value is NaN."""
    found = float(np.abs(array).max(initial=0.0))
    return found if np.isfinite(found) else float("inf")


def _run(call: LayerCall, operands: list[np.ndarray], limit: float | None = None) -> tuple[np.ndarray, float, bool]:
    """A layer's output in float32, the largest magnitude of its partial sums and epilogue, and whether that magnitude
    is exact. Without a limit, partial sums are left out.
    """
    import torch

    layer = call.layer
    if layer.body is not None:
        output = by_its_nest(call, operands)
        return output, _largest(output), True
    x, weight, bias, other, residual = tensors_of(call, operands)
    with torch.no_grad():
        define = kinds.of(layer.kind).reference
        y = define(layer, x, weight, bias, other)
        largest, exact = float(y.abs().max()), True
        if weight is not None and limit is not None:
            bound = float(define(layer, x.abs(), weight.abs(), bias.abs(), None).max())
            if bound > limit:
                bound = max(largest, _partial_sums(layer, x, weight, bias))
            else:
                exact = False
            largest = bound
        if layer.residual == "before":
            y = y + residual
            largest = max(largest, float(y.abs().max()))
        y = activated(call, y)
        if layer.residual == "after":
            y = y + residual
        largest = max(largest, float(y.abs().max()))
    return array_of(layer, y), largest if np.isfinite(largest) else float("inf"), exact


def by_its_nest(call: LayerCall, operands: list[np.ndarray]) -> np.ndarray:
    """The output of a generic layer in float32."""
    body = call.layer.body
    shaped = [x.reshape(shape) for x, shape in zip(operands, body.operands, strict=True)]
    return np.asarray(body.reference(*shaped, *call.constants.values()), np.float32)


def tensors_of(call: LayerCall, operands: list[np.ndarray]) -> tuple:
    """Data, weight, bias, second operand and residual as PyTorch tensors, float32, channels second; None for each that
    a layer lacks.
    """
    import torch

    layer, (data, *second) = call.layer, operands
    x = channels_second(data.reshape(layer.input_shape), layer.input_layout)
    other = residual = None
    if second and layer.residual == "none":
        gate = layer.op == "scale"
        other = channels_second(second[0].reshape(layer.second_shape), "NHWC" if gate else layer.input_layout)
    elif second:
        residual = channels_second(second[0].reshape(layer.output_shape), layer.output_layout)
    weight, bias = (
        None if a is None else torch.from_numpy(np.asarray(a, np.float32)) for a in (call.weight, call.bias)
    )
    return x, weight, bias, other, residual


def array_of(layer: Layer, y) -> np.ndarray:
    """A layer's output, given as a tensor with channels second, in the layer's layout."""
    return (y if layer.output_layout == "NCHW" else y.permute(0, 2, 3, 1)).contiguous().numpy()


def channels_second(array: np.ndarray, layout: str):
    """An array in this layout as a float32 tensor of PyTorch, channels second."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(array, np.float32))
    return x if layout == "NCHW" else x.permute(0, 3, 1, 2)


def activated(call: LayerCall, y):
    """A layer's activation or softmax, applied to a tensor with channels second."""
    import torch

    if call.layer.declared.function == "softmax":
        return y.softmax(1)
    slopes = call.constants.get(activation.SLOPES)
    return activation.definition(call.layer.activation, y, None if slopes is None else torch.from_numpy(slopes))


def _partial_sums(layer: Layer, x, weight, bias) -> float:
    """The largest magnitude of a layer's partial sums, in the order of kernels; ``x``: (N, C, H, W)."""
    import torch
    import torch.nn.functional as F

    if layer.declared.pixels:
        weight = weight.reshape(*weight.shape[:2], 1, 1)
    out, inner, rows, columns = weight.shape
    top, left, bottom, right = layer.padding
    x = F.pad(x, (left, right, top, bottom))
    height, width = (layer.height, 1) if layer.declared.pixels else (layer.out_height, layer.out_width)
    of_group = out // layer.groups
    total = bias.reshape(1, out, 1, 1).expand(len(x), out, height, width).clone()
    largest = float(total.abs().max())
    channels = torch.arange(out) // of_group * inner
    for row in range(rows):
        for column in range(columns):
            at = row * layer.dilation[0], column * layer.dilation[1]
            window = x[
                :,
                :,
                at[0] : at[0] + layer.stride[0] * (height - 1) + 1 : layer.stride[0],
                at[1] : at[1] + layer.stride[1] * (width - 1) + 1 : layer.stride[1],
            ]
            for k in range(inner):
                taken = window[:, k : k + 1] if layer.groups == 1 else window[:, channels + k]
                total += taken * weight[:, k, row, column].reshape(1, out, 1, 1)
                largest = max(largest, float(total.abs().max()))
    return largest
