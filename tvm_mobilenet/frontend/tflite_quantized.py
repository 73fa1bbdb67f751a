"""Quantized TFLite files: the supported ways of quantization, and the form of integers in Relax.

Every int8 or uint8 value with a scale becomes Relax's ``quantize`` and ``dequantize``, as in ONNX files, and
`passes.given_scales` reads them. TFLite defines the computation between them: sums in int32, with biases in units of
data and weight.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend.scales import checked
from tvm_mobilenet.frontend.tflite_graph import Graph, Tensor

BYTES = ("int8", "uint8")
_WEIGHTED = {"CONV_2D": (0, 1), "DEPTHWISE_CONV_2D": (0, 1), "FULLY_CONNECTED": (0, 1), "TRANSPOSE_CONV": (2, 1)}
_FLOAT = (
    "convert the float32 model without optimizations, and give it with --dtype int8 and --calibrate FOLDER; or convert "
    "it with a representative_dataset, so that activations are int8 too"
)
_BITS = "convert it with target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]"


def check(graph: Graph, path: Path) -> None:
    """Refuse a network with only its weights quantized, with dynamic quantization, or with integers other than bytes.

    Raises
    ------
    TvmMobilenetError
        The message names the way of quantization and the remedy.
    """
    tensors = graph.tensors
    activations = [t for t in tensors if t.data is None and t.quantized]
    for tensor in activations:
        if tensor.dtype not in (*BYTES, "int32"):
            raise TvmMobilenetError(f"{path}: activations are {tensor.dtype}: {tensor.name}", _BITS)
    for operator in graph.operators:
        where = f"{operator.name} at {operator.place}"
        at = _WEIGHTED.get(operator.name)
        if at and max(at) < len(operator.inputs):
            data, weight = (tensors[operator.inputs[i]] for i in at)
            if _whole(weight) and not data.quantized:
                dynamic = f"{path} is quantized dynamically: {where} has weights in {weight.dtype}"
                raise TvmMobilenetError(dynamic, _FLOAT)
        if operator.name == "DEQUANTIZE" and _whole(tensors[operator.inputs[0]]) and not activations:
            raise TvmMobilenetError(f"{path} is quantized in its weights only: {where}", _FLOAT)


def rounded(bb, tensor: Tensor, x: relax.Expr) -> tuple[relax.Var, relax.Var]:
    """A value as the integers of its tensor, and their real values.

    Raises
    ------
    TvmMobilenetError
        Its scale or zero point is invalid; the message gives place and reason.
    """
    scale, zero, axis = scales_of(tensor, tuple(int(d) for d in x.ty.shape))
    given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(tensor.dtype))
    whole = bb.emit(relax.op.quantize(x, *given, axis=axis, out_dtype=tensor.dtype))
    return whole, bb.emit(relax.op.dequantize(whole, *given, axis=axis))


def scales_of(tensor: Tensor, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale, zero point and axis of a value, checked."""
    given = tensor.scales
    return checked(f"{tensor.name}", shape, given.scale, given.zero, given.axis, tensor.dtype)


def _whole(tensor: Tensor) -> bool:
    """Whether a constant has integers that represent real values."""
    return tensor.data is not None and tensor.dtype in (*BYTES, "int16") and tensor.scales is not None
