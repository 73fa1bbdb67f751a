"""Constant folding for ONNX graphs: the part that depends only on constants and shapes.

Exporters write the target of a reshape as Shape, Gather, Concat, and the widths of a pad as a dozen operators. With
the input's shape fixed all of them are constants. ONNX's own reference evaluator computes them, one node at a time.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import onnx_graphs, onnx_limits
from tvm_mobilenet.kinds.windows import same_padding


def fold(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model without Identity, Dropout, nodes whose results are known, and each If whose condition is known.

    ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        A constant, or a value, is larger than any network's.
    """
    made, stored = 0, model.ByteSize()
    while True:
        shapes = shapes_of(model)
        onnx_limits.check_values(shapes, path)
        graph = model.graph
        constants = {i.name: i for i in graph.initializer}
        changed = _store_empty(graph, shapes, constants)
        renamed: dict[str, str] = {}
        outputs = {o.name for o in graph.output}
        read = {i for node in graph.node for i in onnx_graphs.read_by(node)} | outputs
        kept = []
        for node in graph.node:
            onnx_graphs.rename(node, renamed)
            _leave_out_empty(node, constants)
            values = None
            if _leaves_data(node, constants, read) and node.output[0] not in outputs:
                renamed[node.output[0]] = node.input[0]
                changed = True
                continue
            if node.op_type == "If" and node.input[0] in constants:
                nodes, own = onnx_graphs.branch(node, bool(numpy_helper.to_array(constants[node.input[0]]).any()))
                kept += nodes
                constants |= {tensor.name: tensor for tensor in own}
                changed = True
                continue
            if node.op_type == "Shape" and node.input[0] in shapes:
                dims = np.array(shapes[node.input[0]][0], np.int64)
                bounds = {a.name: a.i for a in node.attribute}
                values = [dims[bounds.get("start", 0) : bounds.get("end", len(dims))]]
            elif node.op_type == "Size" and node.input[0] in shapes:
                values = [np.array(math.prod(shapes[node.input[0]][0]), np.int64)]
            elif all(i in constants or not i for i in node.input):
                values = _evaluate(node, constants, model, path, shapes)
            if values is None:
                kept.append(node)
                continue
            changed = True
            made += sum(v.nbytes for v in values)
            limits.check_constant(made // 4, stored, f"{path}: all that follows from constants")
            for name, value in zip(node.output, values, strict=False):
                constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        if not changed:
            return model
        del graph.node[:], graph.initializer[:]
        graph.node.extend(kept)
        read = {i for n in kept for i in onnx_graphs.read_by(n)} | outputs
        graph.initializer.extend(c for name, c in constants.items() if name in read)


def _leaves_data(node: onnx.NodeProto, constants: dict, read: set[str]) -> bool:
    """Whether a node gives its input. A Dropout in training mode does not, and its mask is another output."""
    if node.op_type != "Dropout":
        return node.op_type == "Identity"
    if any(name in read for name in node.output[1:]):
        return False
    training = node.input[2] if len(node.input) > 2 else ""
    return not training or (training in constants and not numpy_helper.to_array(constants[training]).any())


def leave_out_unread(graph: onnx.GraphProto) -> None:
    """Remove the last outputs of nodes that nobody reads, such as the mask of a Dropout, and empty lists of axes, which
    TVM cannot read, in place.
    """
    read = {i for node in graph.node for i in node.input} | {o.name for o in graph.output}
    for node in graph.node:
        empty = [a for a in node.attribute if a.type == onnx.AttributeProto.INTS and not a.ints]
        for attribute in empty:
            node.attribute.remove(attribute)
        while node.op_type in _OPTIONAL and len(node.output) > 1 and node.output[-1] not in read:
            del node.output[-1]


_OPTIONAL = ("BatchNormalization", "Dropout", "LayerNormalization", "MaxPool")  # with outputs that may be left out


def explicit_pads(model: onnx.ModelProto) -> None:
    """Replace ``auto_pad`` SAME of convolutions and pools by explicit pads, in place."""
    shapes = shapes_of(model)
    initialisers = {i.name: tuple(i.dims) for i in model.graph.initializer}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        mode = attributes.pop("auto_pad", b"NOTSET").decode()
        if node.op_type not in ("Conv", "MaxPool", "AveragePool", "LpPool") or not mode.startswith("SAME"):
            continue
        size = shapes[node.input[0]][0][2:]
        kernel = attributes.get("kernel_shape") or initialisers[node.input[1]][2:]
        strides = attributes.get("strides") or [1] * len(size)
        dilations = attributes.get("dilations") or [1] * len(size)
        less, more = zip(*map(same_padding, size, kernel, strides, dilations), strict=True)
        attributes["pads"] = [*less, *more] if mode == "SAME_UPPER" else [*more, *less]
        del node.attribute[:]
        node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[tuple[int, ...], str]]:
    """The static shape and dtype of each value, as far as ONNX's inference finds them."""
    try:
        values = onnx_limits.values_stay_small(model.graph)
        graph = onnx.shape_inference.infer_shapes(model, data_prop=values).graph
    except Exception:  # a broken or foreign node: use the shapes without inference
        graph = model.graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = [d.dim_value for d in tensor.shape.dim]
        fixed = all(d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim)
        if tensor.HasField("shape") and fixed and tensor.elem_type:
            found[value.name] = tuple(dims), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    return found


def _store_empty(graph: onnx.GraphProto, shapes: dict, constants: dict) -> bool:
    """Make constants of all values without elements that a node reads or makes; whether there were any."""
    read = {name for node in graph.node for name in onnx_graphs.read_by(node)}
    wanted = (read | {value.name for value in graph.output}) - {*constants}
    inputs = {value.name: f"{value.name}/empty" for value in graph.input}
    empty = {name: shapes[name] for name in wanted & {*shapes} if 0 in shapes[name][0]}
    for node in graph.node:  # a kernel that is larger than its data is refused by its own name
        if node.op_type in _WINDOWS and node.input and node.input[0] not in empty:
            empty = {name: value for name, value in empty.items() if name not in node.output}
    kept = []
    for node in graph.node if empty else ():
        onnx_graphs.rename(node, {name: inputs[name] for name in empty if name in inputs})
        made = [name for name in node.output if name in empty]
        if len(made) < sum(map(bool, node.output)):
            node.output[:] = [f"{name}/unread" if name in made else name for name in node.output]
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    for name, (shape, dtype) in empty.items():
        own = inputs.get(name, name)
        constants[own] = numpy_helper.from_array(np.zeros(shape, dtype), own)
    if empty:
        del graph.node[:]
        graph.node.extend(kept)
    return bool({*empty} - {value.name for value in graph.output if value.name in inputs})


def _leave_out_empty(node: onnx.NodeProto, constants: dict) -> None:
    """Rewrite a node that reads constants without elements and has the same result without them, in place."""
    empty = {name for name in node.input if name in constants and 0 in constants[name].dims}
    if node.op_type == "Concat" and 0 < len(empty) < len(node.input):
        node.input[:] = [name for name in node.input if name not in empty]
    same = node.op_type in _WRITES and node.input[2] in empty
    if same or (node.op_type == "Concat" and len(node.input) == 1):
        del node.attribute[:], node.input[1:]
        node.op_type = "Identity"


_WINDOWS = ("Conv", "ConvTranspose", "AveragePool", "LpPool", "MaxPool")
_WRITES = ("Scatter", "ScatterElements", "ScatterND")  # data, places, and the values that are written there


def _evaluate(
    node: onnx.NodeProto, constants: dict, model: onnx.ModelProto, path: Path, shapes: dict
) -> list[np.ndarray] | None:
    """The outputs of a node of constants, or None if it is not computed here or is invalid."""
    try:
        feeds = {i: numpy_helper.to_array(constants[i]) for i in node.input if i}
    except Exception:
        return None
    if node.op_type == "DequantizeLinear":
        return None  # quantized constants stay integers
    if any(array.size == 0 for array in feeds.values()) and all(name in shapes for name in node.output if name):
        sizes = [math.prod(shapes[name][0]) for name in node.output if name]  # of a reduction of nothing, for example
        limits.check_constant(8 * sum(sizes), 0, f"{path}: {node.op_type} at {node.name or node.output[0]}")
    elif not onnx_limits.check_constants(node, feeds, path):
        return None
    graph = onnx.helper.make_graph(
        [node],
        "node",
        [onnx.helper.make_tensor_value_info(i, constants[i].data_type, None) for i in feeds],
        [onnx.helper.make_empty_tensor_value_info(o) for o in node.output],
    )
    try:
        single = onnx.helper.make_model(graph, opset_imports=model.opset_import)
        return [np.asarray(v) for v in ReferenceEvaluator(single).run(None, feeds)]
    except Exception:
        return None
