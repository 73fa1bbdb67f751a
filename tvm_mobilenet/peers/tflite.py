"""A network's layers as a TFLite file, channels-last; written with the schema that LiteRT brings.

TFLite knows padding only as SAME (as much as needed, more at the end) and VALID; what a layer pads otherwise, as
PyTorch does with stride 2, is a PAD before a VALID convolution. XNNPACK takes the two together.
"""

from __future__ import annotations

import numpy as np


def write(calls, name: str, shape: tuple[int, int, int]) -> bytes:
    """The file of ``calls``, whose input is the value ``name`` of ``shape`` (channels, height, width).

    In one piece: a list of operators, each in the words of that file format.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    ops, kinds = s.BuiltinOperator, s.BuiltinOptions
    model, graph = s.ModelT(), s.SubGraphT()
    model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, [s.BufferT()], [], [graph]
    graph.tensors, graph.operators, graph.name = [], [], "network"
    codes: dict[int, int] = {}

    def tensor(dims, data: np.ndarray | None = None) -> int:
        new = s.TensorT()
        new.name, new.shape, new.buffer = f"t{len(graph.tensors)}", [int(d) for d in dims], 0
        new.type = s.TensorType.INT32 if data is not None and data.dtype == np.int32 else s.TensorType.FLOAT32
        if data is not None:
            content = s.BufferT()
            content.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            new.buffer = len(model.buffers)
            model.buffers.append(content)
        graph.tensors.append(new)
        return len(graph.tensors) - 1

    def operator(code: int, inputs: list[int], dims, kind: int, given) -> int:
        if code not in codes:
            entry = s.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
            codes[code] = len(model.operatorCodes)
            model.operatorCodes.append(entry)
        new = s.OperatorT()
        new.opcodeIndex, new.inputs, new.outputs = codes[code], inputs, [tensor(dims)]
        new.builtinOptionsType, new.builtinOptions = kind, given
        graph.operators.append(new)
        return new.outputs[0]

    channels, height, width = shape
    values = {name: (tensor((1, height, width, channels)), (height, width))}
    graph.inputs = [values[name][0]]
    acts = {
        "none": s.ActivationFunctionType.NONE,
        "relu": s.ActivationFunctionType.RELU,
        "relu6": s.ActivationFunctionType.RELU6,
    }
    for call in calls:
        layer = call.layer
        x, (h, w) = values[call.inputs[0]]
        if layer.declared.images and call is calls[-1]:  # one in the middle is a convolution of one pixel
            given = s.FullyConnectedOptionsT()
            given.fusedActivationFunction = acts[layer.activation]
            weight = tensor(call.weight.shape, call.weight.astype(np.float32))
            x = operator(
                ops.FULLY_CONNECTED,
                [x, weight, tensor(call.bias.shape, call.bias.astype(np.float32))],
                (1, layer.out_channels),
                kinds.FullyConnectedOptions,
                given,
            )
        elif layer.declared.windowed and not layer.weight_shape:
            given, (h, w) = s.ReducerOptionsT(), (1, 1)
            x = operator(
                ops.MEAN,
                [x, tensor((2,), np.array([1, 2], np.int32))],
                (1, layer.channels),
                kinds.ReducerOptions,
                given,
            )
        elif layer.weight_shape:
            top, left, bottom, right = layer.padding
            same = [
                max(0, (-(-size // stride) - 1) * stride + k - size)
                for size, stride, k in zip((h, w), layer.stride, layer.kernel, strict=True)
            ]
            padding = s.Padding.SAME
            if (top, left, bottom, right) != (same[0] // 2, same[1] // 2, -(-same[0] // 2), -(-same[1] // 2)):
                padding = s.Padding.VALID
                edges = np.array([[0, 0], [top, bottom], [left, right], [0, 0]], np.int32)
                h, w = h + top + bottom, w + left + right
                if edges.any():
                    x = operator(
                        ops.PAD,
                        [x, tensor((4, 2), edges)],
                        (1, h, w, layer.channels),
                        kinds.PadOptions,
                        s.PadOptionsT(),
                    )
            weight = call.weight if call.weight.ndim == 4 else call.weight[:, :, None, None]
            if layer.declared.groups == "channels":
                code, kind, given = ops.DEPTHWISE_CONV_2D, kinds.DepthwiseConv2DOptions, s.DepthwiseConv2DOptionsT()
                given.depthMultiplier, weight = 1, weight.transpose(1, 2, 3, 0)
            else:
                code, kind, given = ops.CONV_2D, kinds.Conv2DOptions, s.Conv2DOptionsT()
                weight = weight.transpose(0, 2, 3, 1)
            given.padding, (given.strideH, given.strideW) = padding, layer.stride
            given.dilationHFactor = given.dilationWFactor = 1
            given.fusedActivationFunction = acts[layer.activation]
            if not layer.declared.with_rows:  # which keeps the size of what it reads
                h, w = layer.out_height, layer.out_width
            x = operator(
                code,
                [
                    x,
                    tensor(weight.shape, weight.astype(np.float32)),
                    tensor(call.bias.shape, call.bias.astype(np.float32)),
                ],
                (1, h, w, layer.out_channels),
                kind,
                given,
            )
        if len(call.inputs) > 1:
            given = s.AddOptionsT()
            operands = [x, values[call.inputs[1]][0]]
            x = operator(ops.ADD, operands, (1, h, w, layer.out_channels), kinds.AddOptions, given)
        values[call.output] = x, (h, w)
    graph.outputs = [x]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
