"""Sparse constants of ONNX files, as dense ones: values that are left out are zero.

A file of a hundred bytes can declare one of terabytes, so their sizes are compared with limits first.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import onnx_graphs

_ITEM_BYTES = 8  # bytes of the largest element


def densify(model: onnx.ModelProto, path: Path) -> None:
    """Replace sparse initialisers and attributes by dense ones, in place. ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        One is damaged, has its data in another file, or all of them are many times as large as the file.
    """
    stored, made = model.ByteSize(), 0

    def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
        nonlocal made
        name = sparse.values.name or "a constant"
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in (sparse.values, sparse.indices)):
            raise TvmMobilenetError(f"{path}: {name} is sparse, with data in another file", _DENSE)
        if len(sparse.dims) > limits.MOST_RANK or any(d < 0 for d in sparse.dims):
            raise TvmMobilenetError(f"{path}: {name} has the shape {list(sparse.dims)[:8]}", "export the model again")
        made += _ITEM_BYTES * math.prod(sparse.dims)
        limits.check_constant(made, stored, f"{path}: {name}, which is sparse,")
        try:
            values, places = (numpy_helper.to_array(t) for t in (sparse.values, sparse.indices))
            whole = np.zeros(tuple(sparse.dims), values.dtype)
            if places.ndim == 2:
                places = np.ravel_multi_index(tuple(places.T), whole.shape)
            if places.min(initial=0) < 0:
                raise ValueError("a place below zero")
            whole.reshape(-1)[places] = values
        except (ValueError, IndexError, TypeError) as e:
            raise TvmMobilenetError(f"{path}: {name} is sparse, and damaged: {e}", _DENSE) from e
        return numpy_helper.from_array(whole, sparse.values.name)

    for part in onnx_graphs.parts(model.graph, *model.functions):
        for sparse in getattr(part, "sparse_initializer", ()):
            part.initializer.append(dense(sparse))
        if isinstance(part, onnx.GraphProto):
            del part.sparse_initializer[:]
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("sparse_tensor"):
                    name = "value" if attribute.name == "sparse_value" else attribute.name
                    attribute.CopyFrom(onnx.helper.make_attribute(name, dense(attribute.sparse_tensor)))


_DENSE = "export the model with dense weights"
