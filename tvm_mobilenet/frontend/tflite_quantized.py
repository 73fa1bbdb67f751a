"""Quantized TFLite files: the supported ways of quantization, and the form of integers in Relax.

Every int8 or uint8 value with a scale becomes Relax's ``quantize`` and ``dequantize``, as in ONNX files, and
`passes.given_scales` reads them. TFLite defines the computation between them: sums in int32, with biases in units of
data and weight. Values of 16 bits, and all those of a network whose layers have no weights of bytes, are real values
that are rounded to the steps of their integers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tvm import relax, te, tirx

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend.scales import checked
from tvm_mobilenet.frontend.tflite_graph import Graph
from tvm_mobilenet.frontend.tflite_tensors import Tensor
from tvm_mobilenet.frontend.tflite_values import INTEGERS

BYTES = ("int8", "uint8")
ROUNDED = (*BYTES, "int16")
_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_WEIGHTED = {"CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "FULLY_CONNECTED": (0, 1), "TRANSPOSE_CONV": (2, 1)}
_FLOAT = (
    "convert the float32 model without optimizations, and give it with --dtype int8 and --calibrate FOLDER; or convert "
    "it with a representative_dataset, so that activations are int8 too"
)
_BITS = "convert it with target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"


def check(graph: Graph, path: Path) -> None:
    """Refuse a network with dynamic quantization, or with integers of another size than one or two bytes.

    Raises
    ------
    TvmMobilenetError
        The message names the way of quantization and the remedy.
    """
    tensors = graph.tensors
    for tensor in tensors:
        if tensor.data is None and tensor.quantized and tensor.dtype not in (*ROUNDED, "int32"):
            raise TvmMobilenetError(f"{path}: activations are {tensor.dtype}: {tensor.name}", _BITS)
    for operator in graph.operators:
        at = _WEIGHTED.get(operator.name)
        if at and max(at) < len(operator.inputs):
            data, weight = (tensors[operator.inputs[i]] for i in at)
            if _whole(weight) and not data.quantized:
                where = f"{operator.name} at {operator.place}"
                dynamic = f"{path} is quantized dynamically: {where} has weights in {weight.dtype}"
                raise TvmMobilenetError(dynamic, _FLOAT)


def computes_in_bytes(graph: Graph) -> bool:
    """Whether a layer has data and weights of bytes."""
    tensors = graph.tensors
    for operator in graph.operators:
        if operator.name in _LAYERS and len(operator.inputs) > 1:
            data, weight = (tensors[i] for i in operator.inputs[:2])
            if data.quantized and data.dtype in BYTES and data.data is None and _whole(weight):
                return True
    return False


def rounded(bb, tensor: Tensor, x: relax.Expr, kept: bool) -> list[relax.Var]:
    """A value as the integers of its tensor, and their real values; the latter alone unless the integers are kept.

    Raises
    ------
    TvmMobilenetError
        Its scale or zero point is invalid; the message gives place and reason.
    """
    scale, zero, axis = scales_of(tensor, tuple(int(d) for d in x.ty.shape))
    if kept and tensor.dtype in BYTES:
        given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(tensor.dtype))
        whole = bb.emit(relax.op.quantize(x, *given, axis=axis, out_dtype=tensor.dtype))
        return [whole, bb.emit(relax.op.dequantize(whole, *given, axis=axis))]
    if scale.ndim:
        raise TvmMobilenetError(f"{tensor.name} is an activation with a scale a channel", _BITS)
    ends, step, point = np.iinfo(tensor.dtype), np.float32(scale), int(zero)

    def nest(data: te.Tensor) -> te.Tensor:
        def nearest(*at):
            least, most = (tirx.const(float(end - point), data.dtype) for end in (ends.min, ends.max))
            whole = tirx.round(data(*at) / tirx.const(float(step), data.dtype))
            return tirx.max(tirx.min(whole, most), least) * tirx.const(float(step), data.dtype)

        return te.compute(data.shape, nearest, "steps")

    return [bb.emit_te(nest, x, primfunc_name_hint="steps")]


def scales_of(tensor: Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale, zero point and axis of a value, checked."""
    given = tensor.scales
    return checked(f"{tensor.name}", shape, given.scale, given.zero, given.axis, tensor.dtype, INTEGERS)


def _whole(tensor: Tensor) -> bool:
    """Whether a constant has integers that represent real values."""
    return tensor.data is not None and tensor.dtype in (*BYTES, "int16") and tensor.scales is not None
