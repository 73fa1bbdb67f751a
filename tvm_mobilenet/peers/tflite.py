"""A network's layers as a TFLite file, channels-last; written with the schema that LiteRT brings.

TFLite knows padding only as SAME (as much as needed, more at the end) and VALID; what a layer pads otherwise, as
PyTorch does with stride 2, is a PAD before a VALID convolution. XNNPACK takes the two together.

In int8 all values between the layers are int8 with their scales. Its dense layers write int8 alone, so that the scores,
which a build writes as float32, are rounded to int8 once more.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.peers.contents import Content, Contents


class _File:
    """Tensors and operators; dtypes are those of TFLite's schema ``s``."""

    def __init__(self, integers: bool):
        from ai_edge_litert import schema_py_generated as s

        self.s, self.integers = s, integers
        self.model, self.graph = s.ModelT(), s.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [s.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.name = [], [], "network"
        self._codes: dict[int, int] = {}
        types = s.TensorType
        self._types = {"float32": types.FLOAT32, "int32": types.INT32, "int8": types.INT8}

    def tensor(self, dims, scale: Scale | None = None) -> int:
        """A value: int8 if it has a scale."""
        return self._tensor(dims, "float32" if scale is None else "int8", scale and ([scale.step], [scale.zero], 0))

    def constant(self, data: np.ndarray, steps: np.ndarray | None = None, axis: int = 0) -> int:
        """A constant; of integers with steps along an axis."""
        data = data if data.dtype == np.int32 or steps is not None else data.astype(np.float32)
        parameters = None if steps is None else (steps.tolist(), [0] * len(steps), axis)
        index = self._tensor(data.shape, data.dtype.name, parameters)
        content = self.s.BufferT()
        content.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
        self.graph.tensors[index].buffer = len(self.model.buffers)
        self.model.buffers.append(content)
        return index

    def _tensor(self, dims, dtype: str, parameters: tuple | None) -> int:
        new = self.s.TensorT()
        new.name, new.shape, new.buffer = f"t{len(self.graph.tensors)}", [int(d) for d in dims], 0
        new.type = self._types[dtype]
        if parameters:
            new.quantization = given = self.s.QuantizationParametersT()
            given.scale, given.zeroPoint, given.quantizedDimension = parameters
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, kind: str, **options) -> int:
        """An operator by its name in the schema, with the options of a kind; its output."""
        code, s = getattr(self.s.BuiltinOperator, name), self.s
        if code not in self._codes:
            entry = s.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            entry.version = _VERSIONS.get(name, 1) if self.integers else 1
            self._codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        new, given = s.OperatorT(), getattr(s, f"{kind}T")()
        for option, value in options.items():
            setattr(given, option, value)
        new.opcodeIndex, new.inputs, new.outputs = self._codes[code], inputs, [output]
        new.builtinOptionsType, new.builtinOptions = getattr(s.BuiltinOptions, kind), given
        self.graph.operators.append(new)
        return output

    def activation(self, content: Content) -> int:
        return getattr(self.s.ActivationFunctionType, content.activation.upper())


_VERSIONS = {  # that take int8, by TFLite's table of versions
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "ADD": 2,
    "MEAN": 2,
    "PAD": 2,
    "DEQUANTIZE": 2,
}


def write(network: Contents) -> bytes:
    """The file of a network."""
    import flatbuffers

    channels, height, width = network.shape
    file = _File(network.scale is not None)
    shape = (1, height, width, channels)
    image = x = file.tensor(shape)
    if network.scale:
        x = file.operator("QUANTIZE", [image], file.tensor(shape, network.scale), "QuantizeOptions")
    values, scales = {network.image: (x, (height, width))}, {network.image: network.scale}
    for content in network.layers:
        values[content.output] = x, _ = _layer(file, content, values, scales[content.inputs[0]])
        scales[content.output] = content.out
    if network.scale:
        shape = file.graph.tensors[x].shape
        x = file.operator("DEQUANTIZE", [x], file.tensor(shape), "DequantizeOptions")
    file.graph.inputs, file.graph.outputs = [image], [x]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _layer(file: _File, content: Content, values: dict, given: Scale | None) -> tuple[int, tuple[int, int]]:
    """The operators of a layer; its output, and height and width of that. ``given``: the scale of its data."""
    layer = content.layer
    x, size = values[content.inputs[0]]
    two = len(content.inputs) > 1
    written = content.own if two and layer.weight_shape else content.out
    if content.dense:
        x = file.operator(
            "FULLY_CONNECTED",
            [x, *_parameters(file, content, content.weight, given)],
            file.tensor((1, layer.out_channels), written),
            "FullyConnectedOptions",
            fusedActivationFunction=file.activation(content),
        )
    elif content.pools:
        size = 1, 1
        axes = file.constant(np.array([1, 2], np.int32))
        x = file.operator("MEAN", [x, axes], file.tensor((1, layer.channels), written), "ReducerOptions")
    elif layer.weight_shape:
        x, size = _convolution(file, content, x, size, given, written)
    if two:
        output = file.tensor((1, *size, layer.out_channels), content.out)
        x = file.operator("ADD", [x, values[content.inputs[1]][0]], output, "AddOptions")
    return x, size


def _parameters(file: _File, content: Content, weight: np.ndarray, given: Scale | None, axis: int = 0) -> list[int]:
    """The constants of a layer: its weights, whose output channels lie along an axis, and its biases."""
    steps = content.steps
    of_bias = None if steps is None else steps * np.float32(given.step)
    return [file.constant(weight, steps, axis), file.constant(content.bias, of_bias)]


def _convolution(
    file: _File, content: Content, x: int, size: tuple[int, int], given: Scale | None, written: Scale | None
) -> tuple[int, tuple[int, int]]:
    layer = content.layer
    x, size, padding = _padded(file, layer, x, size, given)
    weight, options = content.square, {}
    if layer.declared.groups == "channels":
        name, kind, axis, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", 3, {"depthMultiplier": 1}
        weight = weight.transpose(1, 2, 3, 0)
    else:
        name, kind, axis, weight = "CONV_2D", "Conv2DOptions", 0, weight.transpose(0, 2, 3, 1)
    if not layer.declared.with_rows:  # which keeps the size of what it reads
        size = layer.out_height, layer.out_width
    x = file.operator(
        name,
        [x, *_parameters(file, content, weight, given, axis)],
        file.tensor((1, *size, layer.out_channels), written),
        kind,
        padding=padding,
        strideH=layer.stride[0],
        strideW=layer.stride[1],
        dilationHFactor=1,
        dilationWFactor=1,
        fusedActivationFunction=file.activation(content),
        **options,
    )
    return x, size


def _padded(file: _File, layer, x: int, size: tuple[int, int], given: Scale | None) -> tuple[int, tuple[int, int], int]:
    """What a convolution reads, with a PAD before it where TFLite has no word for its padding; its size; the word."""
    top, left, bottom, right = layer.padding
    same = [
        max(0, (-(-n // stride) - 1) * stride + k - n)
        for n, stride, k in zip(size, layer.stride, layer.kernel, strict=True)
    ]
    if (top, left, bottom, right) == (same[0] // 2, same[1] // 2, -(-same[0] // 2), -(-same[1] // 2)):
        return x, size, file.s.Padding.SAME
    edges = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
    size = size[0] + top + bottom, size[1] + left + right
    if edges.any():
        padded = file.tensor((1, *size, layer.channels), given)
        x = file.operator("PAD", [x, file.constant(edges)], padded, "PadOptions")
    return x, size, file.s.Padding.VALID
