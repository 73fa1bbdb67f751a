"""The tensors of a TFLite file: shapes, constants and scales, checked before use.

Constants are views of the file's bytes, or unpacked from them if they are sparse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import tflite_schema as schema
from tvm_mobilenet.frontend.flatbuffer import Damaged, Table
from tvm_mobilenet.frontend.tflite_sparse import unpacked
from tvm_mobilenet.terminal.printable import printable

MOST_TENSORS = 8 * limits.MOST_NODES


@dataclass(frozen=True)
class Scales:
    """The scales of an integer tensor, whose values represent ``(q - zero) * scale``.

    Attributes
    ----------
    scale : (n,) float32
    zero : (n,) int64
    axis : int
        The axis of the channels, if there are several scales.
    """

    scale: np.ndarray
    zero: np.ndarray
    axis: int


@dataclass(frozen=True)
class Tensor:
    """A value of the graph.

    Attributes
    ----------
    name : str
        A readable name: TensorFlow's name up to the first ``;``.
    shape, signature : tuple of int
        The signature has -1 for an open size.
    dtype : str
        ``float32``, ``int8``, ...: of `tflite_schema.TYPES`.
    data : ndarray or None
        Of a constant.
    scales : Scales or None
    state : bool
        Whether it keeps its value from one run to the next.
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    scales: Scales | None
    state: bool = False

    @property
    def quantized(self) -> bool:
        """Whether it has integers that represent real values."""
        return self.scales is not None and self.dtype != "float16" and not self.dtype.startswith("float")


class TensorReader:
    """The tensors of a file.

    Parameters
    ----------
    path : Path
        For messages.
    data : bytes
        The whole file.
    buffers : list of Table
    """

    def __init__(self, path: Path, data: bytes, buffers: list[Table]):
        self.path, self.buffers = path, buffers
        self.left = 4 * len(data) + limits.MOST_CONSTANT_BYTES  # bytes left for constants, which may overlap

    def tensor(self, index: int, table: Table) -> Tensor:
        """A tensor of a graph."""
        field = schema.TENSOR
        name = printable(table.text(field["name"], limits.MOST_NAME).partition(";")[0]) or f"tensor {index}"
        shape, signature = (self._dims(table, field[f], name) for f in ("shape", "shape_signature"))
        number = table.number(field["type"], "b")
        dtype = schema.TYPES.get(number, f"type {number}")
        if len(signature) != len(shape):
            signature = shape
        if any(d < 0 for d in shape):
            raise Damaged(f"{name} has the shape {list(shape)}")
        item = _item_bytes(dtype)
        limits.check_tensor(math.prod(shape), item, f"{self.path}: {name} of the shape {shape}")
        data = self._content(table, name, shape, dtype)
        scales, state = self._scales(table.table(field["quantization"]), name), table.number(field["is_variable"], "?")
        return Tensor(name, shape, signature, dtype, data, scales, bool(state))

    def _dims(self, table: Table, field: int, name: str) -> tuple[int, ...]:
        dims = table.array(field, np.int32)
        if len(dims) > limits.MOST_RANK:
            raise TvmMobilenetError(f"{self.path}: {name} has {len(dims):,} dimensions", "an image network has four")
        return tuple(int(d) for d in dims)

    def _content(self, table: Table, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
        index, sparsity = (table.number(schema.TENSOR["buffer"], "I"), table.table(schema.TENSOR["sparsity"]))
        if index == 0:
            return None
        if index >= len(self.buffers):
            raise Damaged(f"{name} is said to be in buffer {index} of {len(self.buffers)}")
        buffer, field = self.buffers[index], schema.BUFFER
        if buffer.number(field["offset"], "Q") > 1:
            raise TvmMobilenetError(
                f"{self.path}: {name} lies behind the model's own part of the file", "give a file of less than 2 GiB"
            )
        stored = buffer.array(field["data"], np.uint8)
        if not len(stored):
            return np.empty(shape, dtype) if 0 in shape and dtype in _NUMPY else None
        due = math.prod(shape) * _item_bytes(dtype)
        if dtype in ("int4", "int2", "uint4"):
            raise TvmMobilenetError(f"{self.path}: {name} is {dtype}", "quantize to int8")
        if dtype not in _NUMPY:
            return stored  # its reader is refused by name
        if sparsity is not None:
            self._spend(due)
            return unpacked(sparsity, stored, shape, dtype, f"{self.path}: {name}")
        if len(stored) != due:
            raise Damaged(f"{name}, {dtype} of the shape {list(shape)}, has {len(stored):,} bytes for {due:,}")
        self._spend(due)
        return stored.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)

    def _spend(self, due: int) -> None:
        self.left -= due
        if self.left < 0:
            raise Damaged("its constants are many times as large as the file")

    def _scales(self, table: Table | None, name: str) -> Scales | None:
        if table is None:
            return None
        field = schema.QUANTIZATION
        scale = table.array(field["scale"], np.float32)
        zero = table.array(field["zero_point"], np.int64)
        if not len(scale):
            return None
        if table.number(field["details_type"], "B") > 1:
            raise TvmMobilenetError(f"{self.path}: {name} is quantized by blocks", "quantize by tensor or by channel")
        zero = zero if len(zero) else np.zeros(len(scale), np.int64)
        return Scales(scale, zero, int(table.number(field["quantized_dimension"], "i")))


_NUMPY = {
    *("float32", "float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool")
}


def _item_bytes(dtype: str) -> int:
    """Bytes of an element; for types that numpy lacks, the largest size."""
    return np.dtype(dtype).itemsize if dtype in _NUMPY else 1 if dtype in ("int4", "int2", "uint4") else 16
