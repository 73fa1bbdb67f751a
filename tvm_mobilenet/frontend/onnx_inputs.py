"""The inputs of an ONNX graph, with all sizes fixed.

A file may leave dimensions open, with a name (``dim_param``) or without, or even the rank. The axis and number of an
image's channels then follow from the first convolution that reads it, through transposes and operators that keep the
shape.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.frontend import sizes

# Operators whose output has the shape of their first input, or of the only input that is not constant.
_KEEPS_SHAPE = {
    "Add", "BatchNormalization", "Cast", "Clip", "DequantizeLinear", "Div", "Dropout", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Mul", "Pad", "QuantizeLinear", "Relu", "Sigmoid", "Sub", "Tanh",
}  # fmt: skip


def fix_inputs(
    graph: onnx.GraphProto, batch: int | None, size: tuple[int, int] | None, layout: str, path: Path
) -> None:
    """Fix the dimensions of every input, in place; the file's shapes of other values are dropped.

    Parameters
    ----------
    batch, size : int, (int, int), optional
        Batch size, height and width, as the user gave them.
    layout : str
        The layout of images, if the graph does not determine it.

    Raises
    ------
    TvmMobilenetError
        As for `sizes.fix`, and for an input that no image network has.
    """
    for value in graph.input:
        _check_holds_tensor(value, "input", "takes")
    for value in graph.output:
        if value.type.WhichOneof("value"):  # a file need not say it
            _check_holds_tensor(value, "output", "returns")
    inputs = [_input(graph, value, layout) for value in graph.input]
    for value, dims in zip(graph.input, sizes.fix(inputs, batch, size, path), strict=True):
        tensor = value.type.tensor_type
        sizes.check_input(value.name, dims, _dtype(tensor.elem_type))
        tensor.shape.CopyFrom(onnx.TensorShapeProto(dim=[{"dim_value": d} for d in dims]))
    # they may have the open dimensions; inference finds them again
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def _check_holds_tensor(value: onnx.ValueInfoProto, port: str, does: str) -> None:
    if (holds := value.type.WhichOneof("value")) != "tensor_type":
        what = (holds or "value of no type").removesuffix("_type").replace("_", " ")
        raise TvmMobilenetError(f"{port} {value.name!r} is a {what}", f"export a model that {does} tensors")


def _dtype(element: int) -> str:
    """The name of an element type: ``float32``; for types that numpy lacks, ONNX's own name, such as ``string``."""
    name = onnx.TensorProto.DataType.Name(element).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def _input(graph: onnx.GraphProto, value: onnx.ValueInfoProto, default: str) -> sizes.Input:
    """An input of the graph; a convolution fills in its channels, if possible."""
    shape = value.type.tensor_type.shape
    dims = [_dim(d) for d in shape.dim]
    axis, channels, rank = _channels(graph, value.name)
    if not value.type.tensor_type.HasField("shape") and rank:
        dims = [sizes.Free() for _ in range(rank)]
    if axis is None or len(dims) != 4:
        return sizes.Input(value.name, tuple(dims), sizes.layout_of(dims, default))
    if isinstance(dims[axis], sizes.Free) and dims[axis].allows(channels):
        dims[axis] = channels
    layout = next((name for name, places in sizes.PLACES.items() if places[0] == axis), default)
    return sizes.Input(value.name, tuple(dims), layout)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | sizes.Free:
    """A dimension. PyTorch's exporters write ``8*height`` if it must be a multiple."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return dim.dim_value
    multiple = re.fullmatch(r"(\d+)\s*\*\s*(\w+)", dim.dim_param)
    if multiple:
        return sizes.Free(multiple[2], int(multiple[1]))
    return sizes.Free(dim.dim_param if re.search(r"\w", dim.dim_param) else "")  # Paddle's '?' names nothing


def _channels(graph: onnx.GraphProto, name: str) -> tuple[int | None, int, int]:
    """Axis and number of an input's channels, and its rank, as the first convolution has them; (None, 0, rank or 0)."""
    weights = {i.name: tuple(i.dims) for i in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            weights[node.output[0]] = tuple(attribute.t.dims)
    orders: dict[str, tuple[int, ...] | None] = {
        name: None
    }  # for each value, the input's axes in its order; None if unchanged
    rank = 0
    for node in graph.node:
        found = next((i for i in node.input if i in orders), None)
        if found is None:
            continue
        order, attributes = orders[found], {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv" and node.input[0] == found and len(weights.get(node.input[1], ())) == 4:
            axis = 1 if order is None else order[1]
            return axis, weights[node.input[1]][1] * attributes.get("group", 1), 4
        if node.op_type == "Transpose" and "perm" in attributes:
            perm = attributes["perm"]
            rank = len(perm)
            orders[node.output[0]] = tuple(p if order is None else order[p] for p in perm)
        elif node.op_type in _KEEPS_SHAPE:
            orders[node.output[0]] = order
    return None, 0, rank
