"""A TFLite file as plain data: its tensors, constants and operators, checked before use.

A file of a kilobyte can declare a million tensors, or one of terabytes, and all of them may refer to the same bytes. So
declared sizes are compared with limits first (`files.limits`). Constants are views of the file's bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.frontend import tflite_schema as schema
from tvm_mobilenet.frontend.flatbuffer import Damaged, Table, root
from tvm_mobilenet.terminal.printable import printable

_MOST_BYTES = (2 << 30) - 1  # limit of a file, by the format
_MOST_TENSORS = 8 * limits.MOST_NODES
_MOST_OPERANDS = 1_000  # operands of one operator
_AGAIN = "the file may be truncated, or of another kind: convert or copy it again"
_MOST_IDENTIFIER = 80  # characters of an input's name
NONE = -1  # in place of an operand that is left out


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
    """

    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    data: np.ndarray | None
    scales: Scales | None

    @property
    def quantized(self) -> bool:
        """Whether it has integers that represent real values."""
        return self.scales is not None and self.dtype != "float16" and not self.dtype.startswith("float")


@dataclass(frozen=True)
class Operator:
    """One operator: its name in the schema, the indices of its inputs (`NONE` if left out) and outputs, and its
    options.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict
    place: str


@dataclass(frozen=True)
class Graph:
    """The main graph of a file, its operators in execution order.

    Attributes
    ----------
    signature : str
        The name by which a program calls it; empty if the file gives none.
    others : tuple of str
        The names by which a program calls other graphs of the file.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: str = ""
    others: tuple[str, ...] = ()


def read(path: Path) -> Graph:
    """The graph of a file.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, is damaged, larger than any network, or stores its weights in an unsupported way.
    """
    if why := refusal(path):
        raise TvmMobilenetError(f"{path}: {why}", "give the path of a .tflite file")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise TvmMobilenetError(f"{path} has {size:,} bytes, as no TFLite file can", "give a smaller network")
    try:
        return _Reader(path, path.read_bytes()).graph()
    except Damaged as e:
        raise TvmMobilenetError(f"{path}: not a whole TFLite file: {e}", _AGAIN) from None


def places(graph: Graph) -> list[str]:
    """A unique name for each tensor: values first, then constants, whose names often repeat those of values."""
    found = [tensor.name for tensor in graph.tensors]
    seen: set[str] = set()
    for i in sorted(range(len(found)), key=lambda i: graph.tensors[i].data is not None):
        found[i] = found[i] if found[i] not in seen else f"{found[i]} ({i})"
        seen.add(found[i])
    return found


def ports(graph: Graph, indices: tuple[int, ...]) -> list[str]:
    """Unique names of inputs or outputs."""
    found: list[str] = []
    for i in indices:
        name = graph.tensors[i].name[:_MOST_IDENTIFIER]
        found.append(name if name not in found else f"{name}_{len(found)}")
    return found


class _Reader:
    def __init__(self, path: Path, data: bytes):
        self.path, self.data = path, data
        self.model = root(data, schema.IDENTIFIER)
        self.left = 4 * len(data) + limits.MOST_CONSTANT_BYTES  # bytes left for constants, which may overlap

    def graph(self) -> Graph:
        field = schema.MODEL
        version = self.model.number(field["version"], "I")
        if version != 3:
            raise Damaged(f"its schema is version {version}, not 3")
        codes = self.model.tables(field["operator_codes"], limits.MOST_NODES, "kinds of operators")
        self.buffers = self.model.tables(field["buffers"], _MOST_TENSORS, "buffers")
        graphs = self.model.tables(field["subgraphs"], limits.MOST_NODES, "graphs")
        if not graphs:
            raise Damaged("it holds no graph")
        field, main = schema.SUBGRAPH, graphs[0]
        tables = main.tables(field["tensors"], _MOST_TENSORS, "tensors")
        tensors = tuple(self._tensor(i, table) for i, table in enumerate(tables))
        names = [self._name_of(code) for code in codes]
        nodes = main.tables(field["operators"], limits.MOST_NODES, "operators")
        operators = tuple(self._operator(i, table, names, tensors) for i, table in enumerate(nodes))
        inputs, outputs = (self._indices(main, field[end], len(tensors), end) for end in ("inputs", "outputs"))
        found = Graph(tensors, operators, inputs, outputs, *self._signatures(len(graphs)))
        self._check_order(found)
        return found

    def _signatures(self, graphs: int) -> tuple[str, tuple[str, ...]]:
        """The name of the main graph, and those of the others."""
        field, own, others = schema.SIGNATURE_DEF, "", []
        for table in self.model.tables(schema.MODEL["signature_defs"], limits.MOST_NODES, "signatures"):
            name = printable(table.text(field["signature_key"], limits.MOST_NAME))
            index = table.number(field["subgraph_index"], "I")
            if index >= graphs:
                raise Damaged(f"its signature {name} is of graph {index} of {graphs}")
            if index:
                others.append(name)
            else:
                own = own or name
        return own, tuple(others)

    # ---- tensors

    def _tensor(self, index: int, table: Table) -> Tensor:
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
        if table.table(field["sparsity"]) is not None:
            raise TvmMobilenetError(f"{self.path}: {name} is stored sparse", "convert the model with dense weights")
        if table.number(field["is_variable"], "?", False):
            raise TvmMobilenetError(
                f"{self.path}: {name} keeps its value from one run to the next", "a network without a state is built"
            )
        data = self._content(table.number(field["buffer"], "I"), name, shape, dtype)
        return Tensor(name, shape, signature, dtype, data, self._scales(table.table(field["quantization"]), name))

    def _dims(self, table: Table, field: int, name: str) -> tuple[int, ...]:
        dims = table.array(field, np.int32)
        if len(dims) > limits.MOST_RANK:
            raise TvmMobilenetError(f"{self.path}: {name} has {len(dims):,} dimensions", "an image network has four")
        return tuple(int(d) for d in dims)

    def _content(self, index: int, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray | None:
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
            return None
        due = math.prod(shape) * _item_bytes(dtype)
        if dtype in ("int4", "int2", "uint4"):
            raise TvmMobilenetError(f"{self.path}: {name} is {dtype}", "quantize to int8")
        if dtype not in _NUMPY:
            return stored  # its reader is refused by name
        if len(stored) != due:
            raise Damaged(f"{name}, {dtype} of the shape {list(shape)}, has {len(stored):,} bytes for {due:,}")
        self.left -= due
        if self.left < 0:
            raise Damaged("its constants are many times as large as the file")
        return stored.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)

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

    # ---- operators

    def _name_of(self, code: Table) -> str:
        """``CONV_2D``; for a custom operator its own name, ``TFLite_Detection_PostProcess``."""
        field = schema.OPERATOR_CODE
        old, new = code.number(field["deprecated_builtin_code"], "b"), code.number(field["builtin_code"], "i")
        number = max(old, new)
        if number == schema.CUSTOM:
            text = re.sub(r"\W", "_", code.text(field["custom_code"], limits.MOST_NAME))
            return f"CUSTOM_{text or 'without_a_name'}"
        return schema.OPERATORS.get(number, f"OPERATOR_{number}")

    def _operator(self, index: int, table: Table, names: list[str], tensors: tuple[Tensor, ...]) -> Operator:
        field = schema.OPERATOR
        code = table.number(field["opcode_index"], "I")
        if code >= len(names):
            raise Damaged(f"operator {index} is of kind {code} of {len(names)}")
        inputs, outputs = (
            self._indices(table, field[end], len(tensors), f"operator {index}'s {end}") for end in ("inputs", "outputs")
        )
        if not outputs or NONE in outputs:
            raise Damaged(f"operator {index} has no output")
        name = names[code]
        place = tensors[outputs[0]].name
        return Operator(name, inputs, outputs, self._options(table, name, place), place)

    def _options(self, table: Table, name: str, place: str) -> dict:
        """The options of an operator, by the names that `tflite_schema` gives them."""
        known = schema.OPTIONS.get(schema.OPTIONS_OF.get(name, ""))
        if known is None:
            return {}
        given = table.table(schema.OPERATOR["builtin_options"])
        number = table.number(schema.OPERATOR["builtin_options_type"], "B")
        if given is not None and number not in (0, known.number):
            raise Damaged(f"{name} at {place} has options of another operator")
        found = {}
        for option, (field, form, default) in known.fields.items():
            if given is None:
                found[option] = default
            elif form == "[f":
                found[option] = given.array(field, np.float32)
            elif form == "[i":
                found[option] = tuple(int(v) for v in given.array(field, np.int32)[: limits.MOST_RANK + 1])
            else:
                found[option] = given.number(field, form, default)
        if "activation" in found:
            if not 0 <= found["activation"] < len(schema.ACTIVATIONS):
                raise Damaged(f"{name} at {place} has the activation {found['activation']}")
            found["activation"] = schema.ACTIVATIONS[found["activation"]]
        return found

    def _indices(self, table: Table, field: int, count: int, what: str) -> tuple[int, ...]:
        found = table.array(field, np.int32)
        if len(found) > _MOST_OPERANDS:
            raise Damaged(f"{what} are {len(found):,}")
        if odd := [int(i) for i in found if not NONE <= i < count]:
            raise Damaged(f"{what}: tensor {odd[0]} of {count}")
        return tuple(int(i) for i in found)

    def _check_order(self, graph: Graph) -> None:
        """Refuse an operator that reads a value before it is made, and a value that is made twice."""
        known = {i for i, tensor in enumerate(graph.tensors) if tensor.data is not None} | {NONE, *graph.inputs}
        made: set[int] = set()
        if not graph.inputs or not graph.outputs or NONE in (*graph.inputs, *graph.outputs):
            raise Damaged("it has no inputs, or no outputs")
        for operator in graph.operators:
            for i in operator.inputs:
                if i not in known:
                    raise Damaged(f"{operator.name} at {operator.place} reads {graph.tensors[i].name}, made by nothing")
            for o in operator.outputs:
                if o in made or o in graph.inputs or graph.tensors[o].data is not None:
                    raise Damaged(f"{graph.tensors[o].name} is written twice")
            made.update(operator.outputs)
            known.update(operator.outputs)
        if odd := [o for o in graph.outputs if o not in known]:
            raise Damaged(f"the output {graph.tensors[odd[0]].name} is computed by no operator")


_NUMPY = {
    *(
        "float32",
        "float16",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "bool",
    ),
}


def _item_bytes(dtype: str) -> int:
    """Bytes of an element; for types that numpy lacks, the largest size."""
    return np.dtype(dtype).itemsize if dtype in _NUMPY else 1 if dtype in ("int4", "int2", "uint4") else 16
