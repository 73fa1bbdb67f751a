"""What goes into another engine's file of a network: its layers, and of one in int8 each value's scale.

Layers are those after batch normalisation is folded, as each engine's own converter leaves such a network. In int8 they
have the build's weights, biases and scales, so that an engine computes what the build does, but for its own rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.quantize import DTYPE, HIGH, LOW, Scale


class Unknown(Exception):
    """A layer that the writers do not know."""


@dataclass(frozen=True)
class Content:
    """One layer of a file.

    Parameters
    ----------
    name : str
    layer : Layer
        In float32, whatever the file computes in.
    inputs, output
        Values, as a ``LayerCall`` has them.
    weight, bias : ndarray or None
        float32; int8 and int32.
    last : bool
        It writes the network's output.
    activation : str
        ``none`` where rounding to int8 clamps as much.
    steps : (out_channels,) float32, optional
        Of the weights in int8.
    own, out : Scale, optional
        Of its sums before a residual, and of what it writes.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    output: str
    weight: np.ndarray | None
    bias: np.ndarray | None
    last: bool
    activation: str
    steps: np.ndarray | None = None
    own: Scale | None = None
    out: Scale | None = None

    @property
    def dense(self) -> bool:
        """Whether a file has it as a dense layer: one in the middle is a convolution of one pixel."""
        return self.layer.declared.images and self.last

    @property
    def pools(self) -> bool:
        """Whether it is the mean of all positions."""
        return self.layer.declared.windowed and not self.layer.weight_shape

    @property
    def square(self) -> np.ndarray:
        """A convolution's weight as ``(out, in / groups, height, width)``."""
        return self.weight.reshape(*self.weight.shape, 1, 1) if self.weight.ndim == 2 else self.weight


@dataclass(frozen=True)
class Contents:
    """A network for a file.

    Parameters
    ----------
    layers : list of Content
    image : str
        The input's value.
    shape : (int, int, int)
        Of it: channels, height, width.
    channels_last : bool
        Of it.
    scale : Scale or None
        Of it, in int8.
    """

    layers: list[Content]
    image: str
    shape: tuple[int, int, int]
    channels_last: bool
    scale: Scale | None = None


def contents(network, dtype: str) -> Contents:
    """The layers of a network in a dtype, when the writers know them all.

    Parameters
    ----------
    network : Network
        For int8 one that is built so.
    dtype : str

    Raises
    ------
    Unknown
        They do not know one, or it has no scales.
    """
    graph = network.original or network.graph
    for call in graph.calls:
        _check(call)
    scales = network.precision if dtype == DTYPE else None
    whole = {call.name: call for call in network.graph.calls} if scales else {}
    first, last = graph.calls[0].layer, graph.calls[-1]
    image = graph.calls[0].inputs[0]
    return Contents(
        [
            _integer(call, whole[call.name], scales, call is last)
            if scales
            else Content(
                call.name,
                call.layer,
                call.inputs,
                call.output,
                call.weight,
                call.bias,
                call is last,
                call.layer.activation,
            )
            for call in graph.calls
        ],
        image,
        (first.channels, first.height, first.width),
        first.input_layout == "NHWC",
        scales and scales.scales[image],
    )


def _check(call) -> None:
    layer = call.layer
    written = layer.dtype == "float32"  # as the model has it
    if written and layer.declared.identity and layer.op == "add" and layer.activation == "none":
        return
    whole = layer.op == "avg" and layer.kernel == (layer.height, layer.width)
    plain = layer.dilation == (1, 1) and (layer.declared.groups == "channels" or layer.groups == 1)
    known = written and layer.activation in ("none", "relu", "relu6") and plain and (layer.weight_shape or whole)
    if not known or (layer.residual != "none" and layer.activation != "none") or layer.batch != 1:
        raise Unknown(f"{call.name} is {layer.name}")


def _integer(call, whole, quantization, last: bool) -> Content:
    """A layer in int8: ``call`` as the model has it, ``whole`` as the build computes it."""
    if whole.layer.dtype != DTYPE:
        raise Unknown(f"{call.name} computes in {whole.layer.dtype}")
    given, out = quantization.scales[call.inputs[0]], quantization.scales[call.output]
    own = quantization.inner.get(call.name) or out
    weight = bias = steps = None
    if call.layer.weight_shape:
        weight = whole.weight.reshape(call.weight.shape)
        sums = weight.reshape(len(weight), -1).astype(np.int64).sum(1)
        bias = (whole.bias + given.zero * sums).astype(np.int32)
        to = own.step if whole.layer.output_dtype == DTYPE else 1.0
        steps = (whole.constants["scale"].astype(np.float64) * to / given.step).astype(np.float32)
    ends = whole.constants.get("ends", (0, 0, LOW, HIGH))
    vacuous = tuple(ends[2:4]) == (LOW, HIGH)
    activation = "none" if vacuous else call.layer.activation
    return Content(call.name, call.layer, call.inputs, call.output, weight, bias, last, activation, steps, own, out)
