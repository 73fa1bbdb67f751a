"""What a layer computes, in plain Relax operators.

The body of every layer's private function: slow, obviously right, and legal in TVM's stock pipeline on any target. It
turns to NCHW inside and back, because only there does every convolution (grouped, depthwise, dilated) legalize.
"""

from __future__ import annotations

from tvm import relax

from tvm_mobilenet.layer import Layer

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def body(layer: Layer, data: relax.Expr, *operands: relax.Expr) -> relax.Expr:
    """The layer's output, ``layer.output_shape``, from data, weight and bias if it has them, and second operand."""
    op = relax.op
    if layer.kind in ("pointwise", "dense"):
        m, k = layer.height, layer.channels
        rows = op.reshape(data, (m, k))
        out = op.add(op.matmul(rows, op.permute_dims(operands[0])), operands[1])
        out = op.reshape(out, layer.output_shape)
        return _epilogue(layer, out, operands[2:])
    if layer.kind == "softmax":
        return op.nn.softmax(data, axis=-1)

    x = data if layer.input_layout == "NCHW" else op.permute_dims(data, _TO_NCHW)
    weight, bias = operands[:2] if layer.weight_shape else (None, None)
    second = operands[2:] if layer.weight_shape else operands
    if layer.output_layout == "NHWC" or layer.op == "scale":
        second = [op.permute_dims(s, _TO_NCHW) for s in second]
    window = {"strides": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
    if layer.kind in ("conv", "depthwise"):
        x = op.nn.conv2d(x, weight, groups=layer.groups, **window)
        x = op.add(x, op.reshape(bias, (1, layer.out_channels, 1, 1)))
    elif layer.kind == "pool" and layer.op == "avg":
        x = op.nn.avg_pool2d(x, layer.kernel, count_include_pad=True, **window)
    elif layer.kind == "pool":
        x = op.nn.max_pool2d(x, layer.kernel, **window)
    elif layer.op in ("add", "sub", "mul", "scale"):
        binary = {"add": op.add, "sub": op.subtract, "mul": op.multiply, "scale": op.multiply}[layer.op]
        x, second = binary(x, second[0]), second[1:]
    x = _epilogue(layer, x, second)
    return x if layer.output_layout == "NCHW" else op.permute_dims(x, _TO_NHWC)


def activation(name: str, x: relax.Expr, dtype: str) -> relax.Expr:
    """One of `tvm_mobilenet.layer.ACTIVATIONS`, by the definitions of PyTorch, of a tensor of this dtype."""
    op = relax.op

    def const(value: float) -> relax.Expr:
        return relax.const(value, dtype)

    if name in ("hardswish", "hardsigmoid"):
        gate = op.multiply(op.clip(op.add(x, const(3.0)), 0, 6), const(1 / 6))
        return op.multiply(x, gate) if name == "hardswish" else gate
    return {
        "none": lambda: x,
        "relu": lambda: op.nn.relu(x),
        "relu6": lambda: op.clip(x, 0, 6),
        "sigmoid": lambda: op.sigmoid(x),
        "silu": lambda: op.multiply(x, op.sigmoid(x)),
    }[name]()


def _epilogue(layer: Layer, x: relax.Expr, second) -> relax.Expr:
    if layer.residual == "before":
        x = relax.op.add(x, second[0])
    x = activation(layer.activation, x, layer.accumulator_dtype)
    if layer.residual == "after":
        x = relax.op.add(x, second[0])
    return x
