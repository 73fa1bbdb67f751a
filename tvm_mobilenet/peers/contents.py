"""The contents of another engine's file of a network: its layers, and in int8 each value's scale.

Batch normalisation is folded into the layers, as in each engine's own converter. In int8 they have the build's weights,
biases and scales, so an engine computes the same as the build except for its own rounding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.kinds.activation import SLOPES
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.passes.quantize import DTYPE, HIGH, LOW, Scale


class Unknown(Exception):
    """The writers do not support a layer."""


@dataclass(frozen=True)
class Content:
    """One layer of a file.

    Parameters
    ----------
    name : str
    layer : Layer
        The layer in float32, for any dtype of the file.
    inputs, output
        Values, as in a ``LayerCall``.
    given, found : (int, int, int, int)
        Batch, height, width and channels of its data, and of its output.
    weight, bias : ndarray or None
        float32; int8 and int32.
    last : bool
        Whether the network returns it, possibly through a softmax, and no other layer reads it.
    activation : str
        ``none`` if rounding to int8 clamps to the same range.
    steps : (out_channels,) float32, optional
        Steps of the weights in int8.
    own, out : Scale, optional
        Scales of its sums before a residual, and of its output.
    slopes : (out_channels,) float32, optional
        Of a PReLU.
    """

    name: str
    layer: Layer
    inputs: tuple[str, ...]
    output: str
    given: tuple[int, int, int, int]
    found: tuple[int, int, int, int]
    weight: np.ndarray | None
    bias: np.ndarray | None
    last: bool
    activation: str
    steps: np.ndarray | None = None
    own: Scale | None = None
    out: Scale | None = None
    slopes: np.ndarray | None = None

    @property
    def dense(self) -> bool:
        """Whether a file has it as a dense layer; inside of a network it is a convolution of one pixel."""
        return self.layer.declared.images and self.last

    @property
    def pools(self) -> bool:
        """Whether it is a pool."""
        return self.layer.declared.windowed and not self.layer.weight_shape

    @property
    def softmax(self) -> bool:
        """Whether it is a softmax over the channels."""
        return self.layer.declared.function == "softmax"

    @property
    def mean(self) -> bool:
        """Whether it is the mean of all positions."""
        return self.pools and self.layer.op == "avg" and self.layer.kernel == self.given[1:3]

    @property
    def two(self) -> str:
        """The operator of its second operand: ``add``, ``sub``, ``mul`` or ``scale``; a residual has ``add``."""
        if self.layer.residual != "none":
            return "add"
        return self.layer.op if len(self.inputs) > 1 else ""

    @property
    def before_two(self) -> str:
        """The activation before its second operand."""
        return self.activation if self.layer.residual == "after" or not self.two else "none"

    @property
    def after_two(self) -> str:
        """The activation after its second operand."""
        return "none" if self.layer.residual == "after" or not self.two else self.activation

    @property
    def square(self) -> np.ndarray:
        """A convolution's weight as ``(out, in / groups, height, width)``."""
        return self.weight.reshape(*self.weight.shape, 1, 1) if self.weight.ndim == 2 else self.weight


@dataclass(frozen=True)
class Output:
    """An output of a file: its value, and whether the network returns it channels-last.

    Parameters
    ----------
    shape : tuple of int
        The network's shape: four sizes for an image, else batch and values.
    """

    value: str
    shape: tuple[int, ...]
    channels_last: bool


@dataclass(frozen=True)
class Contents:
    """The contents of a network's file.

    Parameters
    ----------
    layers : list of Content
    image : str
        The input's value.
    shape : (int, int, int)
        Of it: channels, height, width.
    batch : int
        Of it.
    channels_last : bool
        Of it.
    outputs : tuple of Output
    scale : Scale or None
        Of the input, in int8.
    """

    layers: list[Content]
    image: str
    shape: tuple[int, int, int]
    batch: int
    channels_last: bool
    outputs: tuple[Output, ...]
    scale: Scale | None = None


def contents(network, dtype: str) -> Contents:
    """The layers of a network in a dtype, if the writers support all of them.

    Parameters
    ----------
    network : Network
        The network; for int8 it must be built in int8.
    dtype : str

    Raises
    ------
    Unknown
        A layer is not supported or has no scales, or an input or output is neither an image nor a row of values.
    """
    graph = network.original or network.graph
    scales = network.precision if dtype == DTYPE else None
    for call in graph.calls:
        (_check_integer if scales else _check)(call)
    whole = {call.name: call for call in network.graph.calls} if scales else {}
    image, first = _image(graph)
    sizes, layers, readers = {image: (first.batch, first.height, first.width, first.channels)}, [], graph.readers()
    ends = _ends(graph, readers)
    for call in graph.calls:
        given = sizes[call.inputs[0]]
        sizes[call.output] = found = _size(call, given)
        of_int8 = _integer(call, whole[call.name], scales) if scales else {}
        described = {
            "layer": call.layer,
            "weight": call.weight,
            "bias": call.bias,
            "activation": call.layer.activation,
            "slopes": call.constants.get(SLOPES),
        } | of_int8
        about = {"inputs": call.inputs, "output": call.output, "given": given, "found": found}
        layers.append(Content(call.name, **about, last=call.output in ends, **described))
    if scales and (len(ends) != 1 or not layers[-1].last):
        raise Unknown("its output in int8 is not one, of the last layer")
    return Contents(
        layers,
        image,
        (first.channels, first.height, first.width),
        first.batch,
        first.input_layout == "NHWC",
        tuple(_output(port, sizes) for port in graph.signature.outputs),
        scales and scales.scales[image],
    )


def _image(graph) -> tuple[str, Layer]:
    """The value of the image, and a layer that reads it."""
    if len(graph.signature.inputs) != 1:
        raise Unknown(f"it has {len(graph.signature.inputs)} inputs")
    image = graph.signature.inputs[0].value
    layers = [call.layer for call in graph.calls if call.inputs[0] == image]
    if not layers or not layers[0].declared.windowed:
        raise Unknown("its input is not an image")
    return image, layers[0]


def _ends(graph, readers: Counter) -> set[str]:
    """Values that the network returns and no layer reads, except a softmax that it returns too."""
    ends = {port.value for port in graph.signature.outputs if readers[port.value] == 1}
    of = {call.output: call for call in graph.calls}
    before = {of[v].inputs[0] for v in ends if v in of and of[v].layer.declared.function == "softmax"}
    return ends | {value for value in before if readers[value] == 1}


def _size(call, given: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Batch, height, width and channels of a layer's output; a product of pixels keeps those of its data."""
    layer = call.layer
    if not layer.declared.pixels:
        if given != (layer.batch, layer.height, layer.width, layer.channels):
            raise Unknown(f"{call.name} reads {given} as another shape: {layer.name}")
        return layer.batch, layer.out_height, layer.out_width, layer.out_channels
    flat = layer.declared.images and (given[0], given[1] * given[2] * given[3]) == (layer.height, layer.channels)
    if not flat and (given[0] * given[1] * given[2], given[3]) != (layer.height, layer.channels):
        raise Unknown(f"{call.name} reads {given} as another shape: {layer.name}")
    if flat and given[1:3] != (1, 1):
        raise Unknown(f"{call.name} reads all positions of an image as one row: {layer.name}")
    return (*given[:3], layer.out_channels)


def _output(port, sizes: dict[str, tuple[int, int, int, int]]) -> Output:
    batch, height, width, channels = sizes[port.value]
    if port.shape == (batch, channels, height, width):
        return Output(port.value, port.shape, False)
    if port.shape == (batch, height, width, channels):
        return Output(port.value, port.shape, True)
    if (height, width) == (1, 1) and port.shape == (batch, channels):
        return Output(port.value, port.shape, False)
    raise Unknown(f"its output {port.name} of shape {port.shape} is neither an image nor a row of values")


def _check(call) -> None:
    """Refuse a layer that no writer supports; a single writer may support fewer."""
    layer = call.layer
    ok = layer.dtype == "float32" and not (layer.reads or layer.writes or layer.body) and layer.op != "pixels"
    declared = layer.declared
    if not ok or not (layer.weight_shape or declared.windowed or declared.identity or declared.function == "softmax"):
        raise Unknown(f"{call.name} is {layer.name}")


def _check_integer(call) -> None:
    layer = call.layer
    written = layer.dtype == "float32"  # as the model has it
    if written and layer.declared.identity and layer.op == "add" and layer.activation == "none":
        return
    whole = layer.op == "avg" and layer.kernel == (layer.height, layer.width)
    plain = layer.dilation == (1, 1) and (layer.declared.groups == "channels" or layer.groups == 1)
    known = written and layer.activation in ("none", "relu", "relu6") and plain and (layer.weight_shape or whole)
    if not known or (layer.residual != "none" and layer.activation != "none") or layer.batch != 1:
        raise Unknown(f"{call.name} is {layer.name}")


def _integer(call, whole, quantization) -> dict:
    """The int8 data of a layer: ``call`` is the model's layer, ``whole`` the build's."""
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
    return {"weight": weight, "bias": bias, "activation": activation, "steps": steps, "own": own, "out": out}
