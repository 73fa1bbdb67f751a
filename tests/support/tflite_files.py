"""TFLite files of a few operators, written with the schema that LiteRT brings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


class Net:
    """A graph under construction. Values are numbers of tensors.

    Scales are pairs of scale and zero point, for constants also arrays of them and an axis.
    """

    def __init__(self):
        self.s = pytest.importorskip("ai_edge_litert.schema_py_generated")
        s = self.s
        self.model, self.graph = s.ModelT(), s.SubGraphT()
        self.model.version, self.model.buffers, self.model.operatorCodes = 3, [s.BufferT()], []
        self.model.subgraphs = [self.graph]
        self.graph.tensors, self.graph.operators, self.graph.inputs = [], [], []

    def value(self, shape, dtype="float32", scale=None, name=None, signature=None, data=None) -> int:
        new, s = self.s.TensorT(), self.s
        new.name, new.shape, new.buffer = name or f"t{len(self.graph.tensors)}", [int(d) for d in shape], 0
        new.type, new.shapeSignature = getattr(s.TensorType, dtype.upper()), signature
        if scale is not None:
            new.quantization = given = s.QuantizationParametersT()
            steps, zeros, *axis = scale
            given.scale = np.atleast_1d(np.asarray(steps, np.float32))
            given.zeroPoint = np.broadcast_to(np.asarray(zeros, np.int64), given.scale.shape).copy()
            given.quantizedDimension = axis[0] if axis else 0
        if data is not None:
            content = s.BufferT()
            content.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            new.buffer = len(self.model.buffers)
            self.model.buffers.append(content)
        self.graph.tensors.append(new)
        return len(self.graph.tensors) - 1

    def input(self, shape, dtype="float32", scale=None, name="x", signature=None) -> int:
        found = self.value(shape, dtype, scale, name, signature)
        self.graph.inputs.append(found)
        return found

    def constant(self, data, scale=None, name=None) -> int:
        data = np.asarray(data)
        return self.value(data.shape, data.dtype.name, scale, name, data=data)

    def op(self, name, inputs, outputs, kind=None, **options):
        """An operator by its name; ``kind``: of its options, ``Conv2D``. Its outputs, one alone if there is one."""
        s, new = self.s, self.s.OperatorT()
        code = s.OperatorCodeT()
        number = getattr(s.BuiltinOperator, name)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), LEAST.get(name, 1)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        if any(self.graph.tensors[i].type == s.TensorType.INT8 for i in (*inputs, *outputs) if i >= 0):
            code.version = VERSIONS.get(name, 2)
        new.opcodeIndex, new.inputs, new.outputs = len(self.model.operatorCodes), list(inputs), outputs
        self.model.operatorCodes.append(code)
        if kind:
            given = getattr(s, f"{kind}OptionsT")()
            for option, value in options.items():
                assert hasattr(given, option), option
                setattr(given, option, value)
            if hasattr(s.BuiltinOptions, f"{kind}Options"):
                new.builtinOptionsType, new.builtinOptions = getattr(s.BuiltinOptions, f"{kind}Options"), given
            else:
                new.builtinOptions2Type, new.builtinOptions2 = getattr(s.BuiltinOptions2, f"{kind}Options"), given
        self.graph.operators.append(new)
        return outputs if len(outputs) != 1 else outputs[0]

    def body(self, make, *inputs) -> int:
        """The number of another graph, ``make(values)`` of inputs with these shapes and dtypes."""
        main, self.graph = self.graph, self.s.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs = [], [], []
        self.model.subgraphs.append(self.graph)
        number = len(self.model.subgraphs) - 1
        values = [self.input(shape, dtype, name=f"{number}.{i}") for i, (shape, dtype) in enumerate(inputs)]
        made = make(*values)
        self.graph.outputs = made if isinstance(made, list) else [made]
        self.graph = main
        return number

    def of_two(self, name, dtype="float32", kind=None, **options) -> int:
        """The number of a graph of one operator of two single numbers."""
        out = "bool" if name == "STABLEHLO_COMPARE" else dtype
        return self.body(
            lambda a, b: self.op(name, [a, b], self.value((), out), kind, **options), ((), dtype), ((), dtype)
        )

    def bytes(self, *outputs: int) -> bytes:
        import flatbuffers

        self.graph.outputs = list(outputs)
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def save(self, path: Path, *outputs: int) -> Path:
        path.write_bytes(self.bytes(*outputs))
        return path

    # ---- what networks are made of

    def conv(self, x, weight, bias, shape, scale=None, dtype="float32", depthwise=False, **options) -> int:
        """A convolution: weight and bias are tensors."""
        given = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1, "padding": 0, **options}
        if depthwise:
            given.setdefault("depthMultiplier", 1)
        name, kind = ("DEPTHWISE_CONV_2D", "DepthwiseConv2D") if depthwise else ("CONV_2D", "Conv2D")
        inputs = [x, weight, *([] if bias is None else [bias])]
        return self.op(name, inputs, self.value(shape, dtype, scale), kind, **given)


LEAST = {"BROADCAST_TO": 2}  # version that LiteRT has
VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "QUANTIZE": 1,
    "HARD_SWISH": 1,
}  # that take int8
