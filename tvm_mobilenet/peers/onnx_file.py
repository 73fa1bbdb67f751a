"""A network's layers as an ONNX file; in int8 as ONNX Runtime's quantizer writes them, values quantized when they are
written and dequantized for each reader (QDQ)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.peers.contents import Content, Contents

_UNSIGNED = ("x86_64", "AMD64")


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
        """A value in float. Two readers that share one conversion keep ONNX Runtime from computing them in int8."""
        if value.scale is None:
            return value.name
        ends = [value.name.replace(".whole", end) for end in (".step", ".zero")]
        return self.node("DequantizeLinear", [value.name, *ends], f"{value.name}.{len(self.nodes)}")

    def parameter(self, name: str, array: np.ndarray, steps: np.ndarray | None) -> str:
        """A weight or bias, output channels first; in integers with a step for each of those."""
        if steps is None:
            return self.constant(name, array.astype(np.float32))
        ends = [self.constant(f"{name}.step", steps), self.constant(f"{name}.zero", np.zeros(len(steps), array.dtype))]
        return self.node("DequantizeLinear", [self.constant(f"{name}.whole", array), *ends], name, axis=0)


def write(network: Contents, architecture: str) -> bytes:
    """The file of a network for CPUs of an architecture, as Python's ``platform.machine`` names it.

    On x86-64 values in int8 are written as uint8, 128 more: of a signed value that two layers read ONNX Runtime's
    kernels there make float32.
    """
    from onnx import TensorProto, helper

    unsigned = architecture in _UNSIGNED
    file, (c, h, w) = _File(np.uint8(128) if unsigned else np.int8(0)), network.shape
    shape = [1, h, w, c] if network.channels_last else [1, c, h, w]
    port, x = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape), "image"
    if network.channels_last:
        x = file.node("Transpose", [x], "first", perm=[0, 3, 1, 2])
    file.constant("zero", np.array(0, np.float32))
    file.constant("six", np.array(6, np.float32))
    values = {network.image: file.written(x, network.scale)}
    for content in network.layers:
        x = _layer(file, content, values)
        values[content.output] = _Value(x) if content.last else file.written(x, content.out)
    graph = helper.make_graph(
        file.nodes, "network", [port], [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)], file.constants
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def _layer(file: _File, content: Content, values: dict[str, _Value]) -> str:
    """The nodes of a layer; its output in float."""
    given, *others = (values[name] for name in content.inputs)
    x = file.read(given)
    if content.layer.weight_shape:
        x = _weighted(file, content, x, given.scale)
    elif content.pools:
        x = file.node("GlobalAveragePool", [x], f"{content.name}.out")
    for other in others:
        if content.layer.weight_shape:
            x = file.read(file.written(x, content.own))
        x = file.node("Add", [x, file.read(other)], f"{content.name}.sum")
    if content.activation == "none":
        return x
    operands = [x] if content.activation == "relu" else [x, "zero", "six"]
    return file.node("Relu" if content.activation == "relu" else "Clip", operands, f"{content.name}.act")


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
    window = {"kernel_shape": list(layer.kernel), "strides": list(layer.stride), "pads": list(layer.padding)}
    return file.node("Conv", [x, *operands], f"{content.name}.out", group=layer.groups, **window)
