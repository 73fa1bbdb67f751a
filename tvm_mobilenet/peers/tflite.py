"""Write a network's layers as a TFLite file, channels-last, with LiteRT's schema.

TFLite has only SAME padding (as much as needed, more at the end) and VALID. Other paddings, such as PyTorch's with
stride 2, become a PAD before a VALID convolution. XNNPACK runs the two together.

In int8 all values between the layers are int8 with their scales. TFLite's dense layers write only int8, so the scores,
which a build writes as float32, are rounded to int8 once more.
"""

from __future__ import annotations

import numpy as np

from tvm_mobilenet.kinds.activation import PER_CHANNEL, parsed
from tvm_mobilenet.kinds.windows import same_padding
from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.peers.contents import Content, Contents, Unknown


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

    def operator(self, name: str, inputs: list[int], output: int, kind: str = "", **options) -> int:
        """An operator by its name in the schema, with the options of a kind if it has any; its output."""
        code, s = getattr(self.s.BuiltinOperator, name), self.s
        if code not in self._codes:
            entry = s.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode = code, min(code, 127)
            entry.version = _VERSIONS.get(name, 1) if self.integers else 1
            self._codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        new = s.OperatorT()
        new.opcodeIndex, new.inputs, new.outputs = self._codes[code], inputs, [output]
        if kind:
            given = getattr(s, f"{kind}T")()
            for option, value in options.items():
                setattr(given, option, value)
            new.builtinOptionsType, new.builtinOptions = getattr(s.BuiltinOptions, kind), given
        self.graph.operators.append(new)
        return output

    def activation(self, name: str) -> int:
        return getattr(self.s.ActivationFunctionType, name.upper())


_FUSED = ("none", "relu", "relu6")  # activations that are part of an operator
_TWO = {"add": ("ADD", "AddOptions"), "sub": ("SUB", "SubOptions")} | dict.fromkeys(
    ("mul", "scale"), ("MUL", "MulOptions")
)
_VERSIONS = {  # operator versions for int8, from TFLite's table
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
    shape = (network.batch, height, width, channels)
    image = x = file.tensor(shape)
    if network.scale:
        x = file.operator("QUANTIZE", [image], file.tensor(shape, network.scale), "QuantizeOptions")
    values, scales = {network.image: x}, {network.image: network.scale}
    for content in network.layers:
        values[content.output] = _layer(file, content, values, scales[content.inputs[0]])
        scales[content.output] = content.out
    outputs = [values[output.value] for output in network.outputs]
    if network.scale:
        outputs = [
            file.operator("DEQUANTIZE", [x], file.tensor(file.graph.tensors[x].shape), "DequantizeOptions")
            for x in outputs
        ]
    file.graph.inputs, file.graph.outputs = [image], outputs
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(file.model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _layer(file: _File, content: Content, values: dict, given: Scale | None) -> int:
    """The operators of a layer; its output. ``given``: the scale of its data."""
    layer, x = content.layer, values[content.inputs[0]]
    own = content.own if content.two and layer.weight_shape else content.out
    inside = content.before_two if content.before_two in _FUSED else "none"
    if content.dense:
        x = file.operator(
            "FULLY_CONNECTED",
            [x, *_parameters(file, content, content.weight, given)],
            file.tensor((content.found[0], layer.out_channels), own),
            "FullyConnectedOptions",
            fusedActivationFunction=file.activation(inside),
        )
    elif content.pools:
        x = _pool(file, content, x, inside, own)
    elif layer.weight_shape:
        x = _convolution(file, content, x, inside, given, own)
    elif content.softmax:
        shape = file.graph.tensors[x].shape
        x = file.operator("SOFTMAX", [x], file.tensor(shape), "SoftmaxOptions", beta=1.0)
    else:
        inside = "none"
    x = _activated(file, content, "none" if inside != "none" else content.before_two, x)
    if not content.two:
        return x
    after = content.after_two if content.after_two in _FUSED else "none"
    name, kind = _TWO[content.two]
    operands = [x, values[content.inputs[1]]]
    x = file.operator(
        name, operands, file.tensor(content.found, content.out), kind, fusedActivationFunction=file.activation(after)
    )
    return _activated(file, content, "none" if after != "none" else content.after_two, x)


def _activated(file: _File, content: Content, activation: str, x: int) -> int:
    """An activation as separate operators. TFLite has no hard sigmoid, so it becomes a clamped sum times a sixth."""
    if activation == "none":
        return x
    kind, numbers = parsed(activation)
    shape = file.graph.tensors[x].shape

    def apply(name: str, operands: list[int], kind: str = "", **options) -> int:
        return file.operator(name, operands, file.tensor(shape), kind, **options)

    def constant(value: float) -> int:
        return file.constant(np.array([value], np.float32))

    def clamped(x: int, low: float, high: float) -> int:
        if np.isfinite(low):
            x = apply("MAXIMUM", [x, constant(low)], "MaximumMinimumOptions")
        return apply("MINIMUM", [x, constant(high)], "MaximumMinimumOptions") if np.isfinite(high) else x

    if kind == PER_CHANNEL:
        return apply("PRELU", [x, file.constant(content.slopes.reshape((1,) * (len(shape) - 2) + (-1,)))])
    if kind == "leaky":
        return apply("LEAKY_RELU", [x], "LeakyReluOptions", alpha=numbers[0])
    if kind == "clip":
        return clamped(x, *numbers)
    if numbers:
        line = apply("MUL", [x, constant(numbers[0])], "MulOptions")
        line = apply("ADD", [line, constant(numbers[1])], "AddOptions")
        return apply("MUL", [x, clamped(line, 0, 1)], "MulOptions")
    if activation == "hardswish":
        return apply("HARD_SWISH", [x], "HardSwishOptions")
    if activation == "hardsigmoid":
        x = apply("ADD", [x, constant(3)], "AddOptions", fusedActivationFunction=file.activation("relu6"))
        return apply("MUL", [x, constant(1 / 6)], "MulOptions")
    if activation in ("sigmoid", "silu"):
        gate = apply("LOGISTIC", [x])
        return gate if activation == "sigmoid" else apply("MUL", [x, gate], "MulOptions")
    return apply(activation.upper(), [x])


def _pool(file: _File, content: Content, x: int, inside: str, own: Scale | None) -> int:
    layer = content.layer
    if content.mean and inside == "none":
        axes = file.constant(np.array([1, 2], np.int32))
        return file.operator("MEAN", [x, axes], file.tensor(content.found, own), "ReducerOptions", keepDims=True)
    same, _ = _padding(file, layer, content.given[1:3])
    counted = any(layer.padding) and (layer.op == "avg" or (layer.op == "mean" and not same))
    if layer.dilation != (1, 1) or counted:  # TFLite's averages count no padding
        raise Unknown(f"{content.name} is {layer.name}")
    x, padding = _padded(file, content, x, own, np.finfo(np.float32).min if layer.op == "max" else 0)
    return file.operator(
        "MAX_POOL_2D" if layer.op == "max" else "AVERAGE_POOL_2D",
        [x],
        file.tensor(content.found, own),
        "Pool2DOptions",
        padding=padding,
        strideH=layer.stride[0],
        strideW=layer.stride[1],
        filterHeight=layer.kernel[0],
        filterWidth=layer.kernel[1],
        fusedActivationFunction=file.activation(inside),
    )


def _parameters(file: _File, content: Content, weight: np.ndarray, given: Scale | None, axis: int = 0) -> list[int]:
    """The constants of a layer: its weights, with output channels along an axis, and its biases."""
    steps = content.steps
    of_bias = None if steps is None else steps * np.float32(given.step)
    return [file.constant(weight, steps, axis), file.constant(content.bias, of_bias)]


def _convolution(file: _File, content: Content, x: int, inside: str, given: Scale | None, written: Scale | None) -> int:
    layer = content.layer
    x, padding = _padded(file, content, x, given)
    weight, options = content.square, {}
    if layer.declared.groups == "channels" or (layer.groups > 1 and layer.groups == layer.channels):
        name, kind, axis = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions", 3
        options = {"depthMultiplier": layer.out_channels // layer.channels}
        weight = weight.transpose(1, 2, 3, 0)
    else:
        name, kind, axis, weight = "CONV_2D", "Conv2DOptions", 0, weight.transpose(0, 2, 3, 1)
    return file.operator(
        name,
        [x, *_parameters(file, content, weight, given, axis)],
        file.tensor(content.found, written),
        kind,
        padding=padding,
        strideH=layer.stride[0],
        strideW=layer.stride[1],
        dilationHFactor=layer.dilation[0],
        dilationWFactor=layer.dilation[1],
        fusedActivationFunction=file.activation(inside),
        **options,
    )


def _padding(file: _File, layer, size: tuple[int, int]) -> tuple[bool, int]:
    """Whether TFLite's SAME is a layer's padding, and its word: SAME or VALID."""
    before, after = zip(*map(same_padding, size, layer.kernel, layer.stride, layer.dilation), strict=True)
    if tuple(layer.padding) == (*before, *after):
        return True, file.s.Padding.SAME
    return False, file.s.Padding.VALID


def _padded(file: _File, content: Content, x: int, given: Scale | None, value: float = 0) -> tuple[int, int]:
    """The data of a window, with a PAD before it if neither SAME nor VALID fits; and the word."""
    (batch, height, width, channels), (top, left, bottom, right) = content.given, content.layer.padding
    same, word = _padding(file, content.layer, (height, width))
    if not same and any(content.layer.padding):
        edges = file.constant(np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32))
        padded = file.tensor((batch, height + top + bottom, width + left + right, channels), given)
        if value:
            operands = [x, edges, file.constant(np.array([value], np.float32))]
            return file.operator("PADV2", operands, padded, "PadV2Options"), word
        x = file.operator("PAD", [x, edges], padded, "PadOptions")
    return x, word
