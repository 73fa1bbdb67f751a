"""QuantizeLinear and DequantizeLinear of ONNX files, and the errors for other quantized files.

Files with scales at their activations and weights (QDQ) are supported: each pair of nodes becomes Relax's ``quantize``
and ``dequantize``, which `passes.given_scales` reads. In a graph whose products read no dequantized values such a node
is arithmetic like any other, and so is one that belongs to no pair: of integers that an input gives, or with a scale
that is computed. Other ways of quantization are errors with a remedy.
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
# operators of ONNX Runtime's own that TVM's importer knows
OF_MICROSOFT = {"Attention", "BiasGelu", "EmbedLayerNormalization", "FastGelu", "Gelu", "MatMulInteger16"}
OF_MICROSOFT |= {"SkipLayerNormalization"}
_QDQ = "quantize the float32 model again with quant_format=QuantFormat.QDQ (onnxruntime.quantization.quantize_static)"
_FLOAT = "give the float32 model with --dtype int8 and --calibrate FOLDER, or quantize it statically to QDQ"
_OTHERS = {
    "ConvInteger": ("dynamically", _FLOAT),
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
        if node.op_type in PAIR or (node.domain == _MICROSOFT and node.op_type in OF_MICROSOFT):
            node.domain = ""
        elif node.op_type in _OTHERS:
            how, hint = _OTHERS[node.op_type]
            how = f"quantized {how}" if how else "quantized in operators of their own (QOperator)"
            raise TvmMobilenetError(f"{path} is {how}: {node.op_type} at {node.name or node.output[0]}", hint)


def paired(graph: onnx.GraphProto) -> set[str]:
    """The outputs of the quantize and dequantize nodes that belong to pairs of a quantized network."""
    constants = {i.name for i in graph.initializer}
    found: set[str] = set()
    moved: set[str] = set()  # dequantized values, also after a change of their order or shape
    of_network = False
    for node in graph.node:
        if node.op_type == PAIR[0] and node.input[1] in constants:
            found.add(node.output[0])
        elif node.op_type == PAIR[1] and node.input[1] in constants and node.input[0] in constants | found:
            found.add(node.output[0])
            moved.add(node.output[0])
        elif node.op_type in ("Reshape", "Transpose") and node.input[0] in moved:
            moved.add(node.output[0])
        elif node.op_type in _PRODUCTS:
            of_network = of_network or not moved.isdisjoint(node.input)
    return found if of_network else set()


_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


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
    pairs = paired(graph)
    made = {o: node for node in graph.node if node.op_type == PAIR[0] for o in node.output if o in pairs}
    for node in graph.node:
        for name in node.input if node.op_type != PAIR[1] else ():
            if name in made:
                whole = made[name].name or name
                raise TvmMobilenetError(
                    f"{node.op_type} at {node.name or node.output[0]} reads the integers of {whole}: a "
                    "dequantize between them is missing",
                    _QDQ,
                )


def arithmetic(bb: relax.BlockBuilder, node: onnx.NodeProto, inputs, attrs: dict) -> relax.Expr:
    """A quantize or dequantize node that belongs to no pair, as Relax's arithmetic.

    Parameters
    ----------
    inputs : sequence of relax.Expr
        Data, scale, and zero point if there is one. Each may be computed.
    """
    op = relax.op
    data, scale = inputs[0], inputs[1]
    zero = inputs[2] if len(inputs) > 2 else None
    shape = [int(d) for d in data.ty.shape]
    axis, block = int(attrs.get("axis", 1)), int(attrs.get("block_size", 0))

    def along(x: relax.Expr) -> relax.Expr:
        """A scale or zero point, which one value, each channel or each block has."""
        sizes = [int(d) for d in x.ty.shape]
        if len(sizes) == 1 and sizes[0] > 1:
            return bb.emit(op.reshape(x, [-1 if i == axis % len(shape) else 1 for i in range(len(shape))]))
        if len(sizes) > 1 and block:
            whole = bb.emit(op.repeat(x, block, axis))
            return bb.emit(op.strided_slice(whole, [axis % len(shape)], [0], [shape[axis]]))
        return bb.emit(op.reshape(x, []))

    if not str(scale.ty.dtype).startswith("float"):
        scale = bb.emit(op.astype(scale, "float32"))
    kind = str(scale.ty.dtype)
    if node.op_type == PAIR[1]:
        x = bb.emit(op.astype(data, kind))
        if zero is not None:
            x = bb.emit(op.subtract(x, along(bb.emit(op.astype(zero, kind)))))
        return op.multiply(x, along(scale))
    named = attrs.get("output_dtype", 0)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(named).name if named else "uint8"
    dtype = dtype if zero is None else str(zero.ty.dtype)
    x = data if str(data.ty.dtype) == kind else bb.emit(op.astype(data, kind))
    whole = bb.emit(op.round(bb.emit(op.divide(x, along(scale)))))
    if zero is not None:
        whole = bb.emit(op.add(whole, along(bb.emit(op.astype(zero, kind)))))
    ends = np.iinfo(dtype)
    return op.astype(bb.emit(op.clip(whole, float(ends.min), float(ends.max))), dtype)


def converted(node: onnx.NodeProto, inputs, attrs: dict) -> relax.Expr:
    """A quantize or dequantize node of a pair in Relax.

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
