"""A TFLite file as plain data: its tensors, constants and operators, checked before use.

A file of a kilobyte can declare a million tensors, or one of terabytes, and all of them may refer to the same bytes. So
declared sizes are compared with limits first (`files.limits`). A graph that an operator of another one runs is read
with it; all other graphs of a file are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits
from tvm_mobilenet.files.reading import refusal
from tvm_mobilenet.frontend import tflite_schema as schema
from tvm_mobilenet.frontend.flatbuffer import Damaged, Table, root
from tvm_mobilenet.frontend.tflite_tensors import MOST_TENSORS, Tensor, TensorReader
from tvm_mobilenet.terminal.printable import printable

_MOST_BYTES = (2 << 30) - 1  # limit of a file, by the format
_MOST_OPERANDS = 1_000  # operands of one operator
_MOST_LISTED = 1_000  # numbers of one option
_MOST_NESTED = 20  # graphs, each of which runs the next
_AGAIN = "the file may be truncated, or of another kind: convert or copy it again"
_MOST_IDENTIFIER = 80  # characters of an input's name
NONE = -1  # in place of an operand that is left out


@dataclass(frozen=True)
class Operator:
    """One operator: its name in the schema, the indices of its inputs (`NONE` if left out) and outputs, and its
    options.

    Attributes
    ----------
    body : Graph or None
        The graph that it runs, if an option names one.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict
    place: str
    body: Graph | None = None


@dataclass(frozen=True)
class Graph:
    """A graph of a file, its operators in execution order.

    Attributes
    ----------
    signature : str
        The name by which a program calls it; empty if the file gives none.
    others : tuple of str
        The names by which a program calls other graphs of the file.
    number : int
        Its place in the file. An interpreter runs the first one by default.
    keys : tuple of str
        The names by which the signature calls its inputs.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    signature: str = ""
    others: tuple[str, ...] = ()
    number: int = 0
    keys: tuple[str, ...] = ()


def read(path: Path, signature: str | None = None) -> Graph:
    """The graph of a file that a signature names; by default the first one.

    Raises
    ------
    TvmMobilenetError
        The file cannot be read, is damaged, larger than any network, stores its weights in an unsupported way, or has
        no such signature.
    """
    if why := refusal(path):
        raise TvmMobilenetError(f"{path}: {why}", "give the path of a .tflite file")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise TvmMobilenetError(f"{path} has {size:,} bytes, as no TFLite file can", "give a smaller network")
    try:
        return _Reader(path, path.read_bytes()).graph(signature)
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


_WITHOUT_OUTPUT = ("CALL_ONCE", "ASSIGN_VARIABLE", "HASHTABLE_IMPORT")
_LISTED = {"[i": np.int32, "[q": np.int64, "[?": np.bool_}


class _Reader:
    def __init__(self, path: Path, data: bytes):
        self.path = path
        self.model, field = root(data, schema.IDENTIFIER), schema.MODEL
        version = self.model.number(field["version"], "I")
        if version != 3:
            raise Damaged(f"its schema is version {version}, not 3")
        codes = self.model.tables(field["operator_codes"], limits.MOST_NODES, "kinds of operators")
        self.names = [self._name_of(code) for code in codes]
        self.graphs = self.model.tables(field["subgraphs"], limits.MOST_NODES, "graphs")
        self.tensors = TensorReader(path, data, self.model.tables(field["buffers"], MOST_TENSORS, "buffers"))
        self.tensors_left, self.operators_left = MOST_TENSORS, limits.MOST_NODES
        self.read: dict[int, Graph | None] = {}  # None for one that is being read

    def graph(self, signature: str | None) -> Graph:
        """The graph of a signature, or the first one."""
        if not self.graphs:
            raise Damaged("it holds no graph")
        known = self._signatures()
        named = [one for one in known if one[0] == signature] if signature else [one for one in known if one[1] == 0]
        if signature and not named:
            names = ", ".join(name for name, *_ in known) or "none"
            raise TvmMobilenetError(
                f"{self.path} has no signature {printable(signature)}: it has {names}", "give --signature another"
            )
        own, index, table = named[0] if named else ("", 0, None)
        others = tuple(name for name, other, _ in known if other != index)
        found = replace(self._graph(index), signature=own, others=others, number=index)
        if not found.inputs or not found.outputs:
            raise Damaged("it has no inputs, or no outputs")
        return replace(found, keys=self._keys(table, found)) if signature else found

    def _keys(self, table: Table, graph: Graph) -> tuple[str, ...]:
        """The names by which a signature calls the inputs of its graph."""
        field = schema.TENSOR_MAP
        maps = table.tables(schema.SIGNATURE_DEF["inputs"], _MOST_OPERANDS, "inputs")
        names = {m.number(field["tensor_index"], "I"): m.text(field["name"], limits.MOST_NAME) for m in maps}
        if set(names) != set(graph.inputs):
            raise Damaged(f"its signature {graph.signature} does not name the inputs of its graph")
        return tuple(names[i] for i in graph.inputs)

    def _graph(self, index: int) -> Graph:
        """A graph, with all that its operators run."""
        if not 0 <= index < len(self.graphs):
            raise Damaged(f"an operator runs graph {index} of {len(self.graphs)}")
        if index in self.read:
            if self.read[index] is None:
                raise Damaged(f"its graph {index} runs itself")
            return self.read[index]
        if sum(one is None for one in self.read.values()) > _MOST_NESTED:
            raise Damaged(f"more than {_MOST_NESTED} of its graphs run one another")
        self.read[index] = None
        field, table = schema.SUBGRAPH, self.graphs[index]
        tables = table.tables(field["tensors"], self.tensors_left, "tensors")
        self.tensors_left -= len(tables)
        tensors = [self.tensors.tensor(i, one) for i, one in enumerate(tables)]
        nodes = table.tables(field["operators"], self.operators_left, "operators")
        self.operators_left -= len(nodes)
        operators = _without_unpacking(tensors, [self._operator(i, one, tensors) for i, one in enumerate(nodes)])
        inputs, outputs = (self._indices(table, field[end], len(tensors), end) for end in ("inputs", "outputs"))
        self.read[index] = found = Graph(tuple(tensors), operators, inputs, outputs)
        self._check_order(found)
        return found

    def _signatures(self) -> list[tuple[str, int, Table]]:
        """The signatures: name, number of the graph, and table."""
        field, found = schema.SIGNATURE_DEF, []
        for table in self.model.tables(schema.MODEL["signature_defs"], limits.MOST_NODES, "signatures"):
            name = printable(table.text(field["signature_key"], limits.MOST_NAME))
            index = table.number(field["subgraph_index"], "I")
            if index >= len(self.graphs):
                raise Damaged(f"its signature {name} is of graph {index} of {len(self.graphs)}")
            found.append((name, index, table))
        return found

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

    def _operator(self, index: int, table: Table, tensors: list[Tensor]) -> Operator:
        field = schema.OPERATOR
        code = table.number(field["opcode_index"], "I")
        if code >= len(self.names):
            raise Damaged(f"operator {index} is of kind {code} of {len(self.names)}")
        inputs, outputs = (
            self._indices(table, field[end], len(tensors), f"operator {index}'s {end}") for end in ("inputs", "outputs")
        )
        name = self.names[code]
        if (not outputs and name not in _WITHOUT_OUTPUT) or NONE in outputs:
            raise Damaged(f"operator {index} has no output")
        place = tensors[outputs[0]].name if outputs else f"operator {index}"
        options = self._options(table, name, place)
        body = self._graph(options["body"]) if "body" in options else None
        return Operator(name, inputs, outputs, options, place, body)

    def _options(self, table: Table, name: str, place: str) -> dict:
        """The options of an operator, by the names that `tflite_schema` gives them."""
        if name.startswith("CUSTOM_"):
            return {"custom": table.array(schema.OPERATOR["custom_options"], np.uint8).tobytes()}
        known = schema.OPTIONS.get(schema.OPTIONS_OF.get(name, ""))
        if known is None:
            return {}
        field = "builtin_options2" if known.second else "builtin_options"
        given, number = table.table(schema.OPERATOR[field]), table.number(schema.OPERATOR[f"{field}_type"], "B")
        if given is not None and number not in (0, known.number):
            raise Damaged(f"{name} at {place} has options of another operator")
        found = {
            option: default if given is None else self._option(given, *each, default)
            for option, (*each, default) in known.fields.items()
        }
        if "activation" in found:
            if not 0 <= found["activation"] < len(schema.ACTIVATIONS):
                raise Damaged(f"{name} at {place} has the activation {found['activation']}")
            found["activation"] = schema.ACTIVATIONS[found["activation"]]
        return found

    def _option(self, table: Table, field: int, form: str, default):
        if form == "s":
            return printable(table.text(field, limits.MOST_NAME))
        if form == "[f":
            return table.array(field, np.float32)
        if form.startswith("["):
            return tuple(table.array(field, _LISTED[form])[:_MOST_LISTED].tolist())
        return table.number(field, form, default)

    def _indices(self, table: Table, field: int, count: int, what: str) -> tuple[int, ...]:
        found = table.array(field, np.int32)
        if len(found) > _MOST_OPERANDS:
            raise Damaged(f"{what} are {len(found):,}")
        if odd := [int(i) for i in found if not NONE <= i < count]:
            raise Damaged(f"{what}: tensor {odd[0]} of {count}")
        return tuple(int(i) for i in found)

    def _check_order(self, graph: Graph) -> None:
        """Refuse an operator that reads a value before it is made, and a value that is made twice."""
        tensors = graph.tensors
        known = {i for i, t in enumerate(tensors) if t.data is not None or t.state} | {NONE, *graph.inputs}
        made: set[int] = set()
        if NONE in (*graph.inputs, *graph.outputs):
            raise Damaged("an input or output of it is left out")
        for operator in graph.operators:
            for i in operator.inputs:
                if i not in known:
                    raise Damaged(f"{operator.name} at {operator.place} reads {tensors[i].name}, made by nothing")
            for o in operator.outputs:
                stored = tensors[o].data is not None and tensors[o].data.size
                if o in made or o in graph.inputs or stored or tensors[o].state:
                    raise Damaged(f"{tensors[o].name} is written twice")
            made.update(operator.outputs)
            known.update(operator.outputs)
        if odd := [o for o in graph.outputs if o not in known]:
            raise Damaged(f"the output {tensors[odd[0]].name} is computed by no operator")


def _without_unpacking(tensors: list[Tensor], operators: list[Operator]) -> tuple[Operator, ...]:
    """The operators but those that unpack a sparse constant: its values already are those of their output."""
    left = []
    for operator in operators:
        given = tensors[operator.inputs[0]] if operator.name == "DENSIFY" and NONE not in operator.inputs[:1] else None
        if given is None or given.data is None or tensors[operator.outputs[0]].shape != given.shape:
            left.append(operator)
        else:
            out = operator.outputs[0]
            tensors[out] = replace(given, name=tensors[out].name)
    return tuple(left)
