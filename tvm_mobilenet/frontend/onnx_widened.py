"""ONNX files of float16 or bfloat16 values, in float32: the importer and the reference both read such a graph.

A file often holds half-precision values because another engine asked for them, as converters write them and
``model.half()`` does. float32 represents all of them. So the graph keeps its meaning without their rounding, and
``--dtype`` decides about the arithmetic as for every other file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tvm_mobilenet.frontend import onnx_graphs

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# attributes that hold an element type
_TYPES = {"to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision", "stash_type"}


def widen(model: onnx.ModelProto) -> bool:
    """Make float32 of every float16 and bfloat16 of a model whose weights are loaded, in place; whether there were any.

    Casts that then change nothing are left to the importer.
    """
    found = False
    for part in onnx_graphs.parts(model.graph, *model.functions):
        ports = () if isinstance(part, onnx.FunctionProto) else (*part.input, *part.output)
        for value in (*ports, *part.value_info):
            if value.type.tensor_type.elem_type in HALVES:
                value.type.tensor_type.elem_type, found = TensorProto.FLOAT, True
        for tensor in onnx_graphs.tensors(part):
            if tensor.data_type in HALVES:
                wide = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))
                found = True
        for attribute in (a for node in part.node for a in node.attribute):
            if attribute.name in _TYPES and attribute.type == onnx.AttributeProto.INT and attribute.i in HALVES:
                attribute.i, found = TensorProto.FLOAT, True
    return found


def loaded(path: Path) -> tuple[onnx.ModelProto, bool]:
    """A checked file's model with its weights, in float32, and whether it was not all of it before."""
    model = onnx.load(path)
    return model, widen(model)
