"""The network's inputs and outputs in a dtype other than float32, as ``--io`` requests.

`precision` handles ``float16``, which layers of float16 read and write. This module handles integers:

- ``int8``, for networks in int8: inputs and outputs have the scales and zero points of the values behind them.
- ``uint8``: the input of a network that takes images is their bytes, in the graph's layout and encoded as `Pixels`. A
  float stem reads the bytes itself. In an int8 network one copy converts them to int8 with a table for each channel, to
  the values that float32 inputs would give. Inputs that are not images, and the outputs of a network in int8, are int8
  plus 128. Outputs of a float network stay as they are.

`wanted` marks, before quantization, the outputs that become int8. `run` does the rest after all layers have their
dtypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.preprocess import Preprocess
from tvm_mobilenet.passes.encoding import Pixels, Whole
from tvm_mobilenet.passes.layer_graph import LayerCall, LayerGraph, Port, copying

FLOAT = "float32"
WHOLE = ("int8", "uint8")


def wanted(graph: LayerGraph, dtype: str, io: str) -> LayerGraph:
    """A float32 graph whose outputs are marked as int8, if layers in ``dtype`` can write it."""
    if io not in WHOLE or not dtypes.of(dtype).integer:
        return graph
    outputs = (replace(p, dtype="int8") if p.dtype == FLOAT else p for p in graph.signature.outputs)
    return LayerGraph(graph.calls, replace(graph.signature, outputs=tuple(outputs)))


def run(graph: LayerGraph, io: str, scales: Mapping | None = None, image=None) -> LayerGraph:
    """The graph with the inputs and int8 outputs that ``io`` requests.

    Parameters
    ----------
    graph : LayerGraph
        A graph whose layers already have their dtypes.
    scales : mapping of str to quantize.Scale, optional
        The scale of each value of an int8 network.
    image : models.preprocess.Preprocess, optional
        The preprocessing from an image to the input; None if the inputs are not images.

    Raises
    ------
    TvmMobilenetError
        The layers need float values, which such an input cannot give.
    """
    if io not in WHOLE:
        return graph
    made = _Ends(graph, io, scales, image)
    return made.run()


def assumed_image(graph: LayerGraph) -> Preprocess | None:
    """An arbitrary preprocessing for a graph whose only input has the shape of an image. Costs do not depend on its
    figures.
    """
    ports = graph.signature.inputs
    shape = ports[0].shape
    likely = len(ports) == 1 and len(shape) == 4 and shape[1] in (1, 3)
    return Preprocess(shape[2:], channels=shape[1]) if likely else None


class _Ends:
    def __init__(self, graph: LayerGraph, io: str, scales: Mapping | None, image):
        self.graph, self.io, self.scales, self.image = graph, io, scales, image
        self.before: list[LayerCall] = []
        self.after: list[LayerCall] = []
        self.calls = list(graph.calls)
        self.values: dict[str, str] = {}  # the value that readers get in place of another

    def run(self) -> LayerGraph:
        inputs = tuple(self._input(p) if p.dtype == FLOAT else p for p in self.graph.signature.inputs)
        outputs = tuple(self._output(p) for p in self.graph.signature.outputs)
        calls = (*self.before, *(call for call in self.calls if call is not None), *self.after)
        signature = replace(self.graph.signature, inputs=inputs, outputs=outputs)
        return LayerGraph(tuple(self._named(call) for call in calls), signature)

    def _named(self, call: LayerCall) -> LayerCall:
        return call.replace(inputs=tuple(self.values.get(value, value) for value in call.inputs))

    # ---- inputs

    def _input(self, port: Port) -> Port:
        if self.io == "uint8" and self.image is not None:
            axis = len(port.shape) - 1 if self.image.layout == "NHWC" else 1
            port = replace(port, dtype="uint8", encoding=Pixels(self.image.mean, self.image.std, axis))
        elif self.scales is None:
            raise TvmMobilenetError(
                f"--io {self.io}: input {port.name} {port.shape} is not an image, and the layers compute in floats, "
                "which have no scale",
                "leave out --io; or build with --dtype int8",
            )
        else:
            own = self._scale(port)
            port = replace(port, dtype=self.io, encoding=own if self.io == "int8" else own.as_uint8)
        for number, call in enumerate(self.calls):
            if port.value in call.inputs:
                self.calls[number] = self._reader(call, port)
        return port

    def _scale(self, port: Port) -> Whole:
        """The scale of an input: from the calls that quantize it, else from calibration."""
        for call in self.graph.calls:
            if port.value in call.inputs and _quantizes(call.layer):
                return _made(call)
        scale = self.scales.get(port.value)
        if scale is None:
            raise TvmMobilenetError(
                f"--io {self.io}: input {port.name} has no scale: the network came quantized and reads it in float",
                "leave out --io",
            )
        return Whole(scale.step, scale.zero)

    def _reader(self, call: LayerCall, port: Port) -> LayerCall | None:
        """A call that reads a port of integers in place of float32; None if the call is no longer needed."""
        layer = call.layer
        if _quantizes(layer):
            return self._quantizing(call, port)
        if isinstance(port.encoding, Pixels) and self._reads_bytes(layer, port):
            return self._reading_bytes(call, port.encoding)
        if self.scales is None:
            raise TvmMobilenetError(
                f"--io {self.io}: {layer.name} (from {call.source or call.name}) reads input {port.name} as floats; "
                "among float layers only convolutions can read an image's bytes",
                "leave out --io; or build with --dtype int8",
            )
        inputs = tuple(self._floats(port) if value == port.value else value for value in call.inputs)
        return call.replace(inputs=inputs)

    def _quantizing(self, call: LayerCall, port: Port) -> LayerCall | None:
        layer, encoding = call.layer, port.encoding
        if isinstance(encoding, Pixels):
            return self._of_pixels(call, port, _made(call))
        if self.io == "int8" and layer.input_layout == layer.output_layout and not layer.output_pitch:
            self.values[call.output] = port.value
            return None
        layer = layer.replace(reads="" if self.io == "int8" else self.io)
        made = LayerCall(call.name, layer, call.source, call.inputs, {}, call.output)
        return made.replace(ends=np.array([0, 0, -128, 127]))

    def _of_pixels(self, call: LayerCall, port: Port, scale: Whole) -> LayerCall:
        """A copy of an image's bytes as int8, in place of a copy of floats. The pass that made it knew no image, so the
        shape of the image is restored.
        """
        layer = call.layer.replace(op="pixels", reads="uint8")
        if layer.input_shape != port.shape:
            layer = self._whole_image(port).replace(op="pixels", dtype="int8", reads="uint8")
        table = scale.stored(port.encoding.table)
        return LayerCall(call.name, layer, call.source, call.inputs, {}, call.output).replace(table=table)

    def _whole_image(self, port: Port) -> Layer:
        """A copy of an image that keeps its layout."""
        (n, a, b, c), planes = port.shape, port.encoding.axis == 1
        height, width, channels = (b, c, a) if planes else (a, b, c)
        layout = "NCHW" if planes else "NHWC"
        return Layer(
            kind="elementwise",
            op="none",
            batch=n,
            height=height,
            width=width,
            channels=channels,
            out_channels=channels,
            input_layout=layout,
            output_layout=layout,
        )

    @staticmethod
    def _reads_bytes(layer: Layer, port: Port) -> bool:
        """Whether a float layer can read an image's bytes: the image must be its data, and not another operand."""
        known = layer.kind == "conv" and not dtypes.of(layer.dtype).integer and layer.input_dtype == FLOAT
        axis = 1 if layer.input_layout == "NCHW" else 3
        return known and layer.input_shape == port.shape and axis == port.encoding.axis

    @staticmethod
    def _reading_bytes(call: LayerCall, encoding: Pixels) -> LayerCall:
        factor = np.array(encoding.scales)
        pixels = np.stack([factor, -np.array(encoding.mean) / np.array(encoding.std)])
        return call.replace(layer=call.layer.replace(reads="uint8"), pixels=pixels)

    def _floats(self, port: Port) -> str:
        """The port's values as float32, converted once for all their readers."""
        name = f"{port.value}_f32"
        if name not in (call.name for call in self.before):
            whole, scale = self._whole(port), self._scale(port)
            layer = copying(port.shape, "int8").replace(writes=FLOAT)
            constants = {"scale": np.array([scale.step]), "ends": np.array([scale.zero, 0, -128, 127])}
            source = f"{port.name} as {FLOAT}"
            self.before.append(LayerCall(name, layer, source, (whole,), {}, name).replace(**constants))
        return name

    def _whole(self, port: Port) -> str:
        """The port's values as int8."""
        if port.dtype == "int8":
            return port.value
        name = f"{port.value}_whole"
        if name not in (call.name for call in self.before):
            call = LayerCall(name, copying(port.shape, "int8"), f"{port.name} as int8", (port.value,), {}, name)
            if isinstance(port.encoding, Pixels):
                call = self._of_pixels(call, port, self._scale(port))
            else:
                call = call.replace(layer=call.layer.replace(reads="uint8"), ends=np.array([0, 0, -128, 127]))
            self.before.append(call)
        return name

    # ---- outputs

    def _output(self, port: Port) -> Port:
        if self.io != "uint8" or port.dtype != "int8" or port.encoding is None:
            return port
        name = f"{port.value}_u8"
        if name not in (call.name for call in self.after):
            layer = copying(port.shape, "int8").replace(writes="uint8")
            call = LayerCall(name, layer, f"{port.name} as uint8", (port.value,), {}, name)
            self.after.append(call.replace(ends=np.array([0, 0, -128, 127])))
        return replace(port, value=name, dtype="uint8", encoding=port.encoding.as_uint8)


def _quantizes(layer: Layer) -> bool:
    """Whether a layer only quantizes float32 to int8."""
    return layer.copies and layer.activation == "none" and layer.dtype == "int8" and layer.reads == FLOAT


def _made(call: LayerCall) -> Whole:
    """The scale of the output of such a layer."""
    return Whole(float(call.constants["scale"][0]), int(call.constants["ends"][1]))
