"""What a layer computes, in plain Relax operators.

The body of every layer's private function: slow, obviously right, and legal in TVM's stock pipeline on any target. It
turns to NCHW inside and back, because only there does every convolution (grouped, depthwise, dilated) legalize.
"""

from __future__ import annotations

from tvm import relax

from tvm_mobilenet import kinds
from tvm_mobilenet.layer import Layer

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def body(layer: Layer, data: relax.Expr, *operands: relax.Expr) -> relax.Expr:
    """The layer's output, ``layer.output_shape``, from data, weight and bias if it has them, and second operand."""
    op, kind = relax.op, kinds.of(layer.kind)
    constants, second = operands[: len(layer.constants)], operands[len(layer.constants) :]
    if kind.pixels:
        out = kind.body(layer, op.reshape(data, (layer.height, layer.channels)), *constants)
        return _epilogue(layer, op.reshape(out, layer.output_shape), second)

    x = data if layer.input_layout == "NCHW" else op.permute_dims(data, _TO_NCHW)
    if layer.output_layout == "NHWC" or layer.op == "scale":
        second = [op.permute_dims(s, _TO_NCHW) for s in second]
    own = () if layer.residual != "none" else second
    x = kind.body(layer, x, *constants, *own)
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
