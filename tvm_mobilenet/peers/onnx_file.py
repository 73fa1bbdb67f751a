"""A network's layers as an ONNX file; in int8 as ONNX Runtime's quantizer writes them, values quantized when they are
written and dequantized for each reader (QDQ)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.kinds.activation import PER_CHANNEL, parsed
from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.peers.contents import Content, Contents, Output, Unknown

_UNSIGNED = ("x86_64", "AMD64")
_TWO = {"add": "Add", "sub": "Sub", "mul": "Mul", "scale": "Mul"}
_ACTIVATIONS = {  # operator, further operands, attributes
    "relu": ("Relu", (), {}),
    "relu6": ("Clip", ("zero", "six"), {}),
    "hardswish": ("HardSwish", (), {}),
    "hardsigmoid": ("HardSigmoid", (), {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", (), {}),
}


@dataclass(frozen=True)
class _Value:
    """A value of the file; with a scale it is int8."""

    name: str
    scale: Scale | None = None


class _File:
    """Nodes and constants; ``zero``: the number in the file of an int8 zero, of the file's dtype of values."""

    def __init__(self, zero: np.generic):
        self.nodes, self.constants, self._zero = [], [], zero

    def constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def written(self, name: str, scale: Scale | None) -> _Value:
        """A float value, in int8 if it gets a scale."""
        if scale is None:
            return _Value(name)
        self.constant(f"{name}.step", np.array(scale.step, np.float32))
        self.constant(f"{name}.zero", np.array(scale.zero + int(self._zero), self._zero.dtype))
        return _Value(self.node("QuantizeLinear", [name, f"{name}.step", f"{name}.zero"], f"{name}.whole"), scale)

    def read(self, value: _Value) -> str:
        """A value in float. Each reader gets its own conversion, since ONNX Runtime does not compute readers of a
        shared one in int8."""
        if value.scale is None:
            return value.name
        ends = [value.name.replace(".whole", end) for end in (".step", ".zero")]
        return self.node("DequantizeLinear", [value.name, *ends], f"{value.name}.{len(self.nodes)}")

    def parameter(self, name: str, array: np.ndarray, steps: np.ndarray | None) -> str:
        """A weight or bias, output channels first; in integers with a step for each channel."""
        if steps is None:
            return self.constant(name, array.astype(np.float32))
        ends = [self.constant(f"{name}.step", steps), self.constant(f"{name}.zero", np.zeros(len(steps), array.dtype))]
        return self.node("DequantizeLinear", [self.constant(f"{name}.whole", array), *ends], name, axis=0)


def write(network: Contents, architecture: str) -> bytes:
    """The file of a network for CPUs of an architecture, as Python's ``platform.machine`` names it.

    On x86-64 int8 values are written as uint8, 128 more, because ONNX Runtime's kernels there convert a signed value
    with two readers to float32.
    """
    from onnx import TensorProto, helper

    unsigned = architecture in _UNSIGNED
    file, (c, h, w) = _File(np.uint8(128) if unsigned else np.int8(0)), network.shape
    shape = [network.batch, h, w, c] if network.channels_last else [network.batch, c, h, w]
    port, x = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape), "image"
    if network.channels_last:
        x = file.node("Transpose", [x], "first", perm=[0, 3, 1, 2])
    file.constant("zero", np.array(0, np.float32))
    file.constant("six", np.array(6, np.float32))
    values, rows = {network.image: file.written(x, network.scale)}, set()
    for content in network.layers:
        x = _layer(file, content, values)
        values[content.output] = _Value(x) if content.last else file.written(x, content.out)
        if content.dense or (content.softmax and content.inputs[0] in rows):
            rows.add(content.output)  # has two dimensions
    found = [_returned(file, output, values[output.value].name, output.value in rows) for output in network.outputs]
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, output.shape)
        for name, output in zip(found, network.outputs, strict=True)
    ]
    graph = helper.make_graph(file.nodes, "network", [port], ports, file.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _returned(file: _File, output: Output, x: str, row: bool) -> str:
    """The name of an output of the file, as the network returns it."""
    name = f"output.{len(file.nodes)}"
    if output.channels_last:
        return file.node("Transpose", [x], name, perm=[0, 2, 3, 1])
    if row == (len(output.shape) == 2):
        return x
    return file.node("Reshape", [x, file.constant(f"{name}.shape", np.array(output.shape, np.int64))], name)


def _layer(file: _File, content: Content, values: dict[str, _Value]) -> str:
    """The nodes of a layer; its output in float."""
    given, *others = (values[name] for name in content.inputs)
    x = file.read(given)
    if content.layer.weight_shape:
        x = _weighted(file, content, x, given.scale)
    elif content.pools:
        x = _pool(file, content, x)
    elif content.softmax:
        x = file.node("Softmax", [x], f"{content.name}.out", axis=1)
    x = _activated(file, content, content.before_two, x)
    for other in others:
        if content.layer.weight_shape:
            x = file.read(file.written(x, content.own))
        x = file.node(_TWO[content.two], [x, file.read(other)], f"{content.name}.{content.two}")
    return _activated(file, content, content.after_two, x)


def _activated(file: _File, content: Content, activation: str, x: str) -> str:
    name, (kind, numbers) = f"{content.name}.act", parsed(activation)
    if kind == "none":
        return x
    if kind == "silu":
        return file.node("Mul", [x, file.node("Sigmoid", [x], f"{name}.sigmoid")], name)
    if kind == PER_CHANNEL:
        slopes = content.slopes.reshape((-1,) if content.dense else (-1, 1, 1)).astype(np.float32)
        return file.node("PRelu", [x, file.constant(f"{name}.slopes", slopes)], name)
    if kind == "leaky":
        return file.node("LeakyRelu", [x], name, alpha=numbers[0])
    if kind == "clip":
        ends = [
            file.constant(f"{name}.{end}", np.array(number, np.float32)) if np.isfinite(number) else ""
            for end, number in zip(("low", "high"), numbers, strict=True)
        ]
        return file.node("Clip", [x, *ends], name)
    if numbers:
        share = file.node("HardSigmoid", [x], f"{name}.share", alpha=numbers[0], beta=numbers[1])
        return file.node("Mul", [x, share], name)
    op, operands, attributes = _ACTIVATIONS[activation]
    return file.node(op, [x, *operands], name, **attributes)


def _pool(file: _File, content: Content, x: str) -> str:
    layer, name = content.layer, f"{content.name}.out"
    if content.mean:
        return file.node("GlobalAveragePool", [x], name)
    window = _window(layer)
    if layer.op == "max":
        return file.node("MaxPool", [x], name, **window)
    if window.pop("dilations") != [1, 1]:
        raise Unknown(f"{content.name} is {layer.name}")
    return file.node("AveragePool", [x], name, count_include_pad=int(layer.op == "avg"), **window)


def _window(layer) -> dict:
    return {
        "kernel_shape": list(layer.kernel),
        "strides": list(layer.stride),
        "pads": list(layer.padding),
        "dilations": list(layer.dilation),
    }


def _weighted(file: _File, content: Content, x: str, given: Scale | None) -> str:
    layer, steps = content.layer, content.steps
    of_bias = None if steps is None else steps * np.float32(given.step)
    operands = [
        file.parameter(f"{content.name}.weight", content.weight if content.dense else content.square, steps),
        file.parameter(f"{content.name}.bias", content.bias, of_bias),
    ]
    if content.dense:
        flat = file.read(file.written(file.node("Flatten", [x], f"{content.name}.flat"), given))
        return file.node("Gemm", [flat, *operands], f"{content.name}.out", transB=1)
    return file.node("Conv", [x, *operands], f"{content.name}.out", group=layer.groups, **_window(layer))
