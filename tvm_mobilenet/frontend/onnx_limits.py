"""Limits for the parts of an ONNX file, checked before the parts are used.

A file of a hundred bytes can declare a constant of gigabytes, repeat one a million times, or name a file elsewhere as
its weights. So declared sizes are compared with these limits first, and a constant is folded only if its size is known.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import onnx_graphs, onnx_wire

_MOST_BYTES = (2 << 30) - 1  # limit of a file, by the format
_MOST_PROPAGATED = 4096  # elements of a shape that a graph computes
_TEXTS = "cut the model before them: a network computes with numbers"
_ITEM_BYTES = 8  # bytes of the largest element
# Operators that are folded; `_most_elements` bounds the number of elements of their results.
_LIKE_INPUTS = {
    *("Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div", "Elu", "Equal", "Erf"),
    *("Exp", "Floor", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish", "Less", "LessOrEqual", "Log", "Max"),
    *("Mean", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round"),
    *("Sigmoid", "Sign", "Sin", "Softmax", "Sqrt", "Sub", "Sum", "Tanh", "Where", "Xor"),
}
_NO_LARGER = {
    *("ArgMax", "ArgMin", "Concat", "Constant", "CumSum", "Flatten", "NonZero", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "Reshape", "ScatterElements", "ScatterND", "Shape", "Size", "Slice", "Split"),
    *("Squeeze", "Transpose", "Trilu", "Unsqueeze"),
}


def parsed(path: Path) -> onnx.ModelProto:
    """The model of a file, after a count of its parts; external data is not read.

    Raises
    ------
    TvmMobilenetError
        The file has more parts, or bytes, than any model.
    OSError, google.protobuf.message.DecodeError
        The file cannot be read, or is damaged.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise TvmMobilenetError(f"{path} has {size:,} bytes, as no ONNX file can", "save its weights as external data")
    data = path.read_bytes()
    try:
        onnx_wire.check_parts(data, onnx.ModelProto.DESCRIPTOR)
    except ValueError as e:
        raise TvmMobilenetError(
            f"{path}: not a whole ONNX file: {e}",
            "the file may be truncated, or of another kind: export or copy it again",
        ) from None
    return onnx.ModelProto.FromString(data)


def check_graph(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that is larger than any network's, or whose weights are not in the file's folder.

    Raises
    ------
    TvmMobilenetError
        The message names the oversized part, or the declared place of the weights.
    """
    if model.training_info:
        raise TvmMobilenetError(f"{path} has a graph for training", "export the model in inference mode (model.eval())")
    count = 0
    for graph in onnx_graphs.parts(model.graph):
        count += len(graph.node)
        if count > limits.MOST_NODES:
            break
        texts = (
            n for n in graph.node if n.op_type == "Cast" and any(a.i == onnx.TensorProto.STRING for a in n.attribute)
        )
        if found := next(texts, None):  # each would become a Python object
            raise TvmMobilenetError(f"{path}: {found.name or found.output[:1]} makes texts of numbers", _TEXTS)
        for name in _names(graph):
            if len(name) > limits.MOST_NAME:
                raise TvmMobilenetError(
                    f"{path}: a name has {len(name):,} characters; the limit is {limits.MOST_NAME:,}: {name[:40]}…",
                    "export the model with shorter names",
                )
    if count > limits.MOST_NODES:
        raise TvmMobilenetError(
            f"{path}: the graph has more than {limits.MOST_NODES:,} nodes", "export a network of fewer operators"
        )
    for tensor in tensors(model.graph):
        _check_tensor(tensor, path)


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that a graph and its inner graphs store."""
    for part in onnx_graphs.parts(graph):
        yield from onnx_graphs.tensors(part)


def check_values(shapes: dict[str, tuple[tuple[int, ...], str]], path: Path) -> None:
    """Refuse a value that exceeds any board's memory.

    Parameters
    ----------
    shapes : dict
        Shape and dtype of each value, as `onnx_fold.shapes_of` finds them.
    """
    for name, (shape, dtype) in shapes.items():
        if len(shape) > limits.MOST_RANK:
            raise TvmMobilenetError(f"{path}: {name} has {len(shape)} dimensions", "an image network has four")
        limits.check_tensor(math.prod(shape), np.dtype(dtype).itemsize, f"{path}: {name} of the shape {shape}")


def values_stay_small(graph: onnx.GraphProto) -> bool:
    """Whether ONNX's inference may compute shapes from values, which it joins, counts and repeats without limit."""
    sizes = {i.name: math.prod(i.dims) for i in graph.initializer if len(i.dims) < 2}
    for node in graph.node:
        inputs = [sizes[i] for i in node.input if i in sizes]
        size = None
        if node.op_type == "Concat":
            size = sum(inputs) if len(inputs) == len(node.input) else None  # otherwise these are feature maps
        elif node.op_type in ("Shape", "Size", "Constant"):
            size = limits.MOST_RANK
        elif node.op_type in _LIKE_INPUTS | _NO_LARGER | {"Gather"} and 0 < len(inputs) == len(node.input):
            size = max(inputs)
        elif node.op_type not in _LIKE_INPUTS | _NO_LARGER | {"Gather"} and 0 < len(inputs) == len(node.input):
            return False  # for example Range
        if size is not None:
            if size > _MOST_PROPAGATED and node.op_type == "Concat":
                return False
            sizes.update((o, size) for o in node.output)
    return True


def check_constants(node: onnx.NodeProto, values: dict[str, np.ndarray], path: Path) -> bool:
    """Whether a node of constants can be computed here; False for an operator that is left to the importer.

    Parameters
    ----------
    values : dict
        Its inputs.

    Raises
    ------
    TvmMobilenetError
        The result is many times larger than its inputs.
    """
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
        return False
    inputs = [values[i] for i in node.input if i]
    elements = _most_elements(node, inputs)
    if elements is None:
        return False
    stored = max((a.nbytes for a in inputs), default=0)
    what = f"{path}: {node.op_type} at {node.name or (node.output[0] if node.output else '?')}"
    limits.check_constant(elements * _ITEM_BYTES, 2 * stored, what)
    return True


def _most_elements(node: onnx.NodeProto, inputs: list[np.ndarray]) -> int | None:
    """The most elements that the outputs can have; None for an operator that is not computed."""
    kind, sizes = node.op_type, [a.size for a in inputs]
    try:
        if kind in _LIKE_INPUTS:
            return math.prod(np.broadcast_shapes(*(a.shape for a in inputs if a.ndim))) if inputs else 0
        if kind in _NO_LARGER:
            return sum(sizes)
        if kind == "Gather":
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            return sizes[1] * (sizes[0] // max(1, inputs[0].shape[axis]))
        if kind == "ConstantOfShape":
            return _product(inputs[0])
        if kind == "Expand":
            return math.prod(_broadcast(inputs[0].shape, inputs[1]))
        if kind == "Tile":
            return sizes[0] * _product(inputs[1])
        if kind == "Range":
            start, limit, step = (float(a.reshape(())) for a in inputs)
            return max(0, math.ceil((limit - start) / step))
        if kind == "Pad":
            before, after = inputs[1].astype(object).reshape(2, -1)
            return math.prod(
                max(0, d + int(b) + int(a)) for d, b, a in zip(inputs[0].shape, before, after, strict=True)
            )
    except (ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError):
        return None
    return None


def _product(dims: np.ndarray) -> int:
    return math.prod(max(0, int(d)) for d in dims.reshape(-1))


def _broadcast(shape: tuple[int, ...], wanted: np.ndarray) -> list[int]:
    dims = [max(1, int(d)) for d in wanted.reshape(-1)]
    length = max(len(shape), len(dims))
    padded = ([1] * (length - len(s)) + list(s) for s in (shape, dims))
    return [max(a, b) for a, b in zip(*padded, strict=True)]


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        yield node.op_type
        yield from node.input
        yield from node.output
        yield from (a.name for a in node.attribute)
    for tensor in graph.initializer:
        yield tensor.name
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield value.name
        yield from (d.dim_param for d in value.type.tensor_type.shape.dim)


def _check_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a stored tensor whose elements are missing, or in a file outside the model's folder."""
    name = tensor.name or "a constant"
    if len(tensor.dims) > limits.MOST_RANK or any(d < 0 for d in tensor.dims):
        raise TvmMobilenetError(f"{path}: {name} has the shape {list(tensor.dims)[:8]}", "export the model again")
    if tensor.data_type == onnx.TensorProto.STRING:
        raise TvmMobilenetError(f"{path}: {name} holds texts", _TEXTS)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, name, path)


def _check_external(tensor: onnx.TensorProto, name: str, path: Path) -> None:
    given = {e.key: e.value for e in tensor.external_data}
    place, folder = given.get("location", ""), Path(os.path.abspath(path)).parent
    inside = place and "\0" not in place and not os.path.isabs(place) and ".." not in Path(place).parts
    if inside:
        real, root = Path(os.path.realpath(folder / place)), Path(os.path.realpath(folder))
        inside = real.is_relative_to(root)
    if not inside:
        raise TvmMobilenetError(
            f"{path}: the weights {name} are said to be in {place[:80]!a}, outside of the model's folder",
            "save it with its data beside it: onnx.save(model, path, save_as_external_data=True)",
        )
    if not real.is_file():
        raise TvmMobilenetError(
            f"{path}: not a whole ONNX file: the weights {name} should be stored in {place[:80]}, which is not a file",
            "its external data (.onnx.data) may be missing beside it",
        )
    try:
        offset, length = int(given.get("offset", 0)), int(given.get("length", -1))
    except ValueError:
        offset = length = -2
    size = real.stat().st_size
    if offset < 0 or length < -1 or offset + max(0, length) > size:
        raise TvmMobilenetError(
            f"{path}: the weights {name} should be stored in {place[:80]}, which is too short",
            "its external data (.onnx.data) may be cut short: copy it again",
        )
