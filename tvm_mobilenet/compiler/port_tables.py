"""The runtime's data about a network's inputs and outputs beyond their shapes; `tables` writes it as C.

The data has the encoding of integer ports, and the magnitude above which an input is refused. It also has tables from
the bytes of an image to values of the input, one for each channel. If the first step only quantizes the input to int8,
a second table gives the result of that step, and a run from pixels skips the step. Both tables come from the same
float32 values, so their results agree.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.encoding import Pixels, Whole


def of(network, plan) -> dict:
    """The data of a network and its plan.

    Parameters
    ----------
    network : Network
    plan : Plan
    """
    signature = network.signature
    ports = (*signature.inputs, *signature.outputs)
    return {
        "encodings": [
            p.encoding and [p.encoding.scales, p.encoding.zeros, getattr(p.encoding, "axis", 0)] for p in ports
        ],
        "largest": [_largest(network, port) for port in signature.inputs],
        "input": None if network.image is None else _input(network),
        "first": None if network.image is None else _first(network, plan),
    }


def _largest(network, port) -> float:
    """The largest magnitude that an input may have, for all layers that read it."""
    readers = (call.layer for call in network.layers if port.value in call.inputs)
    own = (dtypes.of(layer.parts[0].dtype if layer.parts else layer.dtype) for layer in readers)
    ends = [dtype.input_end for dtype in own if not dtype.integer]
    return float(min([dtypes.of("float32").input_end, *ends]))


def _real(network) -> np.ndarray:
    """(channels, 256) float32: the real value of each byte."""
    how = network.image.preprocess
    return Pixels(how.mean, how.std, 0).table


def _input(network) -> dict:
    """The table of the input, and the place of its values."""
    port, how = network.signature.inputs[0], network.image.preprocess
    values = _real(network)
    if isinstance(port.encoding, Whole):
        values = port.encoding.stored(values)
    elif isinstance(port.encoding, Pixels):
        values = np.tile(np.arange(256, dtype=np.uint8), (how.channels, 1))
    else:
        values = port.stored(values)
    return _told(values, _strides(how.layout, how.size, how.channels, how.channels))


def _first(network, plan) -> dict | None:
    """The table for the output of the first step; None if the step does more, or other steps read the input too."""
    step, how, port = plan.steps[0], network.image.preprocess, network.signature.inputs[0]
    layer, (data, *_, output) = Layer.parse(step.layer), step.operands
    readers = sum(t.space == "input" for other in plan.steps for t in other.operands)
    whole = layer.dtype == layer.output_dtype == "int8" and layer.op in layer.declared.unary
    if (
        not whole
        or layer.op == "rescale"
        or layer.activation != "none"
        or readers != 1
        or data.space != "input"
        or output.space != "arena"
    ):
        return None
    if layer.input_layout == layer.output_layout and not layer.output_pitch and not layer.input_pitch:
        strides = _strides(how.layout, how.size, how.channels, how.channels)
    elif layer.output_layout == "NHWC" and layer.channels == how.channels and (layer.height, layer.width) == how.size:
        strides = _strides("NHWC", how.size, how.channels, layer.output_row)
    else:
        return None
    call = next(call for call in network.layers if call.name == step.parts[0].name)
    if layer.op == "pixels":
        values = call.constants["table"]
    elif layer.reads == "float32":
        values = Whole(float(call.constants["scale"][0]), int(call.constants["ends"][1])).stored(_real(network))
    else:
        values = port.encoding.stored(_real(network))
    return {**_told(values.astype(np.int8), strides), "operand": len(step.operands) - 1}


def _strides(layout: str, size: tuple[int, int], channels: int, row: int) -> list[int]:
    """The distance in values from one pixel, channel, row and image to the next."""
    height, width = size
    if layout == "NCHW":
        return [1, height * width, width, channels * height * width]
    return [row, 1, width * row, height * width * row]


def _told(values: np.ndarray, strides: list[int]) -> dict:
    bits = values.view(np.uint16) if values.dtype == np.float16 else values
    return {"bytes": values.itemsize, "values": [v.item() for v in bits.ravel()], "strides": strides}
