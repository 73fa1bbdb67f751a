"""A program of `torch.export` as plain data, converted back to a graph for TVM's importer.

The data may come from a process that read a hostile file. So each field is checked, names must be identifiers,
operators are looked up by name, and values are shapes without memory. No operator is called but those that make numbers
in order (`torch_functions`), and these only if they make as many as is stated. An operator whose name is not found
becomes an unknown operator, which the passes report.
"""

from __future__ import annotations

import math
import operator
import re
from types import SimpleNamespace

import torch

from tvm_mobilenet.files import limits
from tvm_mobilenet.models.weights import DTYPES
from tvm_mobilenet.terminal.printable import printable

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NAMESPACES = ("aten", "prims")
_OPERATORS = {"getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow"}
_KINDS = ("PARAMETER", "BUFFER", "CONSTANT_TENSOR")
_WORDS = {"layout": ("strided",), "memory_format": ("contiguous_format", "preserve_format", "channels_last")}
_DEEPEST = 4  # depth of nested lists in arguments
_MOST_NODES = 4 * limits.MOST_NODES  # after decomposition


class Program:
    """The parts of an ExportedProgram that TVM's importer reads, made from the data of `torch_export.described`.

    Parameters
    ----------
    data : dict
    tensors : dict of str to torch.Tensor
        Parameters, buffers and constants.

    Raises
    ------
    ValueError
        The data does not have that form.
    TvmMobilenetError
        A value is larger than any board's memory.
    """

    def __init__(self, data: dict, tensors: dict[str, torch.Tensor]):
        self.graph, self.range_constraints = torch.fx.Graph(), {}
        self.graph_module = torch.nn.Module()
        self.sources: dict[torch.fx.Node, str] = {}
        self._nodes: dict[str, torch.fx.Node] = {}
        self._constant: dict[torch.fx.Node, int] = {}  # bytes of the largest parameter that a node is computed from
        self._tensors: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in _KINDS}
        kinds = torch.export.graph_signature.InputKind
        specs = []
        for given in _list(data, "inputs"):
            name = _text(given, "name")
            node = self._add(name, self.graph.placeholder(name))
            if "tensor" in given:
                kind, key = _one_of(_text(given, "kind"), _KINDS), _text(given, "tensor")
                tensor = self._tensors[kind][key] = tensors[key]
                self._constant[node] = tensor.nbytes
                specs.append(SimpleNamespace(kind=kinds[kind], arg=SimpleNamespace(name=name), target=key))
            else:
                node.meta["val"] = _value(given["values"], name)
                specs.append(SimpleNamespace(kind=kinds.USER_INPUT, arg=SimpleNamespace(name=name), target=None))
        nodes = _list(data, "nodes")
        if len(nodes) > _MOST_NODES:
            raise ValueError(f"{len(nodes):,} operators; the limit is {_MOST_NODES:,}")
        for given in nodes:
            self._add_call(given)
        outputs = [self._node(name) for name in _list(data, "outputs")]
        self.graph.output((tuple(outputs),))
        kind = torch.export.graph_signature.OutputKind.USER_OUTPUT
        self.graph_signature = SimpleNamespace(
            input_specs=specs, output_specs=[SimpleNamespace(kind=kind)] * len(outputs)
        )
        self.single = data["single"] is True
        self.names = tuple(printable(str(name)[: limits.MOST_NAME]) for name in _list(data, "names"))
        if self.names and len(self.names) != len(outputs):
            raise ValueError("names of other outputs")

    @property
    def state_dict(self) -> dict[str, torch.Tensor]:
        return {**self._tensors["PARAMETER"], **self._tensors["BUFFER"]}

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        return self._tensors["CONSTANT_TENSOR"]

    tensor_constants = constants

    def named_parameters(self):
        return self._tensors["PARAMETER"].items()

    def named_buffers(self):
        return self._tensors["BUFFER"].items()

    def _add(self, name: str, node: torch.fx.Node) -> torch.fx.Node:
        if not _NAME.fullmatch(name) or len(name) > limits.MOST_NAME or self._nodes.setdefault(name, node) is not node:
            raise ValueError("a value with a name that is none, or that another has")
        if node.op == "placeholder":
            node.name = name  # it may be a Python builtin, such as input
        return node

    def _node(self, name: object) -> torch.fx.Node:
        if not isinstance(name, str) or name not in self._nodes:
            raise ValueError("a value that nothing makes")
        return self._nodes[name]

    def _add_call(self, given: dict) -> None:
        name = _text(given, "name")
        args = tuple(self._argument(a, 0) for a in _list(given, "args"))
        kwargs = {k: self._argument(v, 0) for k, v in given["kwargs"].items() if _NAME.fullmatch(k)}
        target = _target(given["target"])
        node = self._add(name, self.graph.create_node("call_function", target, args, kwargs))
        self.sources[node] = printable(_text(given, "source")[: limits.MOST_NAME])
        values = given["values"]
        several = isinstance(values, list) and not (len(values) == 2 and isinstance(values[1], str))
        node.meta["val"] = [_value(v, name) for v in values] if several else _value(values, name)
        self._check_constant(node, name)

    def _check_constant(self, node: torch.fx.Node, name: str) -> None:
        """Refuse a value that is computed only from constants and is many times as large, since importing would compute
        it.
        """
        sources = node.all_input_nodes
        if not all(source in self._constant for source in sources):
            return
        self._constant[node] = max((self._constant[source] for source in sources), default=0)
        values = node.meta["val"] if isinstance(node.meta["val"], list) else [node.meta["val"]]
        size = sum(v.nbytes for v in values if v is not None)
        limits.check_constant(size, self._constant[node], f"{name} ({node.target.__name__})")

    def _argument(self, value: object, depth: int) -> object:
        if isinstance(value, list):
            if depth > _DEEPEST:
                raise ValueError("arguments that are nested too deeply")
            return [self._argument(v, depth + 1) for v in value]
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int) and abs(value) < 1 << 64:
            return value
        if isinstance(value, dict) and len(value) == 1:
            ((kind, content),) = value.items()
            if kind == "node":
                return self._node(content)
            if kind == "float" and isinstance(content, str) and len(content) < 40:
                return float(content)
            if kind == "dtype" and content in DTYPES:
                return DTYPES[content]
            if kind in _WORDS and content in _WORDS[kind]:
                return getattr(torch, content)
            if kind == "device":
                return torch.device("cpu")
        return None  # for example an inner graph: no known operator takes one


class _Unknown:
    """An operator of which only the name is known."""

    __module__ = "unknown"

    def __init__(self, name: str):
        self.__name__ = self.__qualname__ = name

    def __call__(self, *args, **kwargs):
        raise TypeError(self.__name__)


def _target(names: object):
    if not isinstance(names, list) or len(names) != 3 or not all(isinstance(n, str) for n in names):
        raise ValueError("an operator without a name")
    space, name, overload = names
    if not _NAME.fullmatch(name) or len(name) > limits.MOST_NAME:
        raise ValueError("an operator whose name is none")
    if space in _NAMESPACES and not name.startswith("__") and _NAME.fullmatch(overload):
        found = getattr(getattr(getattr(torch.ops, space), name, None), overload, None)
    else:
        found = getattr(operator, name) if space == "_operator" and name in _OPERATORS else None
    return found if found is not None else _Unknown(f"{name}.{overload}" if overload else name)


def _value(given: object, name: str) -> torch.Tensor | None:
    """A tensor of a shape and a type, without memory."""
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or given[1] not in DTYPES or not isinstance(given[0], list):
        raise ValueError("a value of no type")
    shape, dtype = given[0], DTYPES[given[1]]
    if len(shape) > limits.MOST_RANK or any(type(d) is not int or d < 0 for d in shape):
        raise ValueError("a value of no shape")
    limits.check_tensor(math.prod(shape), dtype.itemsize, name)
    return torch.empty(shape, dtype=dtype, device="meta")


def _list(data: dict, key: str) -> list:
    if not isinstance(data.get(key), list):
        raise ValueError(f"no list of {key}")
    return data[key]


def _text(data: dict, key: str) -> str:
    if not isinstance(data, dict) or not isinstance(data.get(key), str):
        raise ValueError(f"no {key}")
    return data[key]


def _one_of(text: str, known: tuple[str, ...]) -> str:
    if text not in known:
        raise ValueError(f"a kind of tensor that is none of {', '.join(known)}")
    return text
