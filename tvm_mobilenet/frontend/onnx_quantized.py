"""QuantizeLinear and DequantizeLinear of ONNX files, and the errors for other quantized files.

Files with scales at their activations and weights (QDQ) are supported: each pair of nodes becomes Relax's ``quantize``
and ``dequantize``, which `passes.given_scales` reads. Other ways of quantization are errors with a remedy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from tvm import relax

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend.scales import checked

PAIR = ("QuantizeLinear", "DequantizeLinear")
BYTES = ("int8", "uint8")
_MICROSOFT = "com.microsoft"
_QDQ = "quantize the float32 model again with quant_format=QuantFormat.QDQ (onnxruntime.quantization.quantize_static)"
_FLOAT = "give the float32 model with --dtype int8 and --calibrate FOLDER, or quantize it statically to QDQ"
_OTHERS = {
    **dict.fromkeys(("ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"), ("dynamically", _FLOAT)),
    **dict.fromkeys(("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat"), ("dynamically", _FLOAT)),
    **dict.fromkeys(("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"), ("in its weights only", _FLOAT)),
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearConcat"), ("", _QDQ)),
    **dict.fromkeys(("QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearSigmoid", "QGemm"), ("", _QDQ)),
    **dict.fromkeys(("QLinearSoftmax", "QLinearLeakyRelu", "QLinearConvTranspose", "QLinearReduceMean"), ("", _QDQ)),
}


def prepare(model: onnx.ModelProto, path: Path) -> None:
    """Convert quantize and dequantize nodes of ONNX Runtime's own domain to ONNX's, in place.

    Raises
    ------
    TvmMobilenetError
        The file is quantized in an unsupported way; the message names it and gives the remedy.
    """
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx", _MICROSOFT):
            continue
        if node.op_type in PAIR:
            node.domain = ""
        elif node.op_type in _OTHERS:
            how, hint = _OTHERS[node.op_type]
            how = f"quantized {how}" if how else "quantized in operators of their own (QOperator)"
            raise TvmMobilenetError(f"{path} is {how}: {node.op_type} at {node.name or node.output[0]}", hint)


def read_by_others(graph: onnx.GraphProto) -> set[str]:
    """The values that other nodes than quantize and dequantize read."""
    return {i for node in graph.node if node.op_type not in PAIR for i in node.input}


def leave_out_casts(graph: onnx.GraphProto) -> None:
    """Remove casts that change nothing, in place: PyTorch writes one before each dequantize."""
    dtypes = {i.name: i.data_type for i in graph.initializer}
    whole = {}
    for node in graph.node:
        if node.op_type == PAIR[0] and len(node.input) > 2:
            whole[node.output[0]] = dtypes.get(node.input[2])
    renamed, kept = {}, []
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        to = next((a.i for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast" and whole.get(node.input[0], 0) == to:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if renamed:
        del graph.node[:]
        graph.node.extend(kept)


def require_pairs(graph: onnx.GraphProto) -> None:
    """Refuse integers that another node than a dequantize reads.

    Raises
    ------
    TvmMobilenetError
        The message names both nodes.
    """
    made = {o: node for node in graph.node if node.op_type == PAIR[0] for o in node.output}
    for node in graph.node:
        for name in node.input if node.op_type != PAIR[1] else ():
            if name in made:
                whole = made[name].name or name
                raise TvmMobilenetError(
                    f"{node.op_type} at {node.name or node.output[0]} reads the integers of {whole}: a "
                    "dequantize between them is missing",
                    _QDQ,
                )


def converted(node: onnx.NodeProto, inputs, attrs: dict) -> relax.Expr:
    """A quantize or dequantize node in Relax.

    Parameters
    ----------
    inputs : sequence of relax.Expr
        Data, scale, and zero point if there is one.

    Raises
    ------
    TvmMobilenetError
        The scale or zero point is invalid, or does not fit the data; the message gives place and reason.
    """
    where = f"{node.op_type} at {node.name or node.output[0]}"
    data, scale = inputs[0], _constant(inputs[1], f"{where}: the scale")
    zero = _constant(inputs[2], f"{where}: the zero point") if len(inputs) > 2 and inputs[2] is not None else None
    if attrs.get("block_size", 0):
        raise TvmMobilenetError(f"{where} has scales of blocks", "quantize by tensor or by channel")
    if node.op_type == "QuantizeLinear":
        named = attrs.get("output_dtype", 0)
        known = onnx.helper.tensor_dtype_to_np_dtype(named).name if named else "uint8"
        dtype = known if zero is None else str(zero.dtype)
    else:
        dtype = str(data.ty.dtype)
        if zero is not None and str(zero.dtype) != dtype:
            raise TvmMobilenetError(
                f"{where}: the zero point is {zero.dtype}, the data {dtype}", "quantize the model again"
            )
    shape = tuple(int(d) for d in data.ty.shape)
    zero = np.zeros(scale.shape, dtype) if zero is None and dtype in BYTES else zero
    scale, zero, axis = checked(where, shape, scale, zero, int(attrs.get("axis", 1)), dtype)
    given = relax.const(scale.astype(np.float32)), relax.const(zero.astype(dtype))
    if node.op_type == "QuantizeLinear":
        return relax.op.quantize(data, *given, axis=axis, out_dtype=dtype)
    return relax.op.dequantize(data, *given, axis=axis)


def _constant(expr: relax.Expr, what: str) -> np.ndarray:
    value = getattr(expr, "value", None)
    if not hasattr(value, "numpy"):
        raise TvmMobilenetError(f"{what} is computed, not stored", "quantize the model statically: " + _FLOAT)
    return value.numpy()
