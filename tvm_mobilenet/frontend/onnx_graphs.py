"""Graphs inside an ONNX graph: functions of the file's own, and the branches of an If, become nodes of the graph.

PyTorch's exporters write an If where a shape decides, so its condition is known once sizes are fixed. Branches see the
values of the graph around them. The names of their own values get the If's name in front, since two branches may have
the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx
import onnx.inliner

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files import limits

_DEEPEST = 3  # definitions inside of definitions


def with_functions_inlined(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The model with the nodes of its functions in place of their calls. ``path`` is for messages.

    Raises
    ------
    TvmMobilenetError
        The functions call each other in a circle, or make more nodes than any network has.
    """
    if not model.functions:
        return model
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    known: dict[tuple[str, str], int] = {}

    def size(call: onnx.NodeProto, within: tuple) -> int:
        key = (call.domain, call.op_type)
        if key in within:
            raise TvmMobilenetError(f"{path}: its function {call.op_type} calls itself", "export the model again")
        inner = sum(size(node, within) for graph in inside(call) for node in graph.node)
        if key not in bodies:
            return 1 + inner
        if key not in known:
            known[key] = sum(size(node, (*within, key)) for node in bodies[key])
        return known[key] + inner

    if sum(size(node, ()) for node in model.graph.node) > limits.MOST_NODES:
        raise TvmMobilenetError(
            f"{path}: with its functions the graph has more than {limits.MOST_NODES:,} nodes",
            "export a network of fewer operators",
        )
    return onnx.inliner.inline_local_functions(model)


def with_operators_written_out(model: onnx.ModelProto, wanted: Callable[[onnx.NodeProto], bool]) -> onnx.ModelProto:
    """The model with the nodes that ONNX defines by others in place of each kind of which ``wanted`` is true."""
    for _ in range(_DEEPEST):
        names = sorted({node.op_type for node in model.graph.node if wanted(node)})
        if not names:
            break
        with_types = onnx.ModelProto.FromString(model.SerializeToString())  # some definitions depend on those of inputs
        for tensor in with_types.graph.initializer:
            value = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            with_types.graph.value_info.append(value)
        ids = [("", name) for name in names]
        try:
            model = onnx.inliner.inline_selected_functions(with_types, ids, inline_schema_functions=True)
        except Exception:  # they are reported as operators without a layer
            break
        del model.graph.value_info[:]
    return model


def in_order(graph: onnx.GraphProto) -> None:
    """Move each node behind those whose values it reads, in place. Converters to float16 add nodes at the end."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [{makers[n] for n in read_by(node) if n in makers} for node in graph.node]
    if all(max(need, default=-1) < i for i, need in enumerate(needs)):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(needs))).static_order())
    except CycleError:
        return  # its first node is reported as one that reads an unknown value
    nodes = [onnx.NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
    del graph.node[:]
    graph.node.extend(nodes)


def read_by(node: onnx.NodeProto) -> set[str]:
    """The values that a node reads, also by the graphs inside it."""
    found, left = set(node.input), inside(node)
    while left:
        graph = left.pop()
        for inner in graph.node:
            found.update(inner.input)
            left += inside(inner)
        found.update(value.name for value in graph.output)
    return found - {""}


def rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename the values that a node and the graphs inside it read, in place."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for graph in inside(node):
        own = {v: names[v] for v in names if v not in _made_in(graph)}
        for inner in graph.node:
            rename(inner, own)
        for value in graph.output:
            value.name = own.get(value.name, value.name)


def branch(node: onnx.NodeProto, condition: bool) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants of an If in place of it."""
    graph = next(a.g for a in node.attribute if a.name == ("then_branch" if condition else "else_branch"))
    made = _made_in(graph)
    names = {name: f"{node.output[0]}/{name}" for name in made}
    outputs = [value.name for value in graph.output]
    constants = [onnx.TensorProto.FromString(t.SerializeToString()) for t in graph.initializer]
    for tensor in constants:
        tensor.name = names[tensor.name]
    nodes = [onnx.NodeProto.FromString(inner.SerializeToString()) for inner in graph.node]
    for inner in nodes:
        rename(inner, names)
        inner.output[:] = [names.get(name, name) for name in inner.output]
    given = [names.get(name, name) for name in outputs]
    nodes += [
        onnx.helper.make_node("Identity", [value], [output], node.name)
        for value, output in zip(given, node.output, strict=True)
    ]
    return nodes, constants


def _made_in(graph: onnx.GraphProto) -> set[str]:
    names = {name for node in graph.node for name in node.output if name}
    return names | {tensor.name for tensor in graph.initializer}


def parts(*of: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Graphs or functions, and the graphs inside their nodes."""
    left = list(of)
    while left:
        part = left.pop()
        yield part
        left += [graph for node in part.node for graph in inside(node)]


def tensors(part: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """The constants of a graph or function: initialisers, and attributes of its nodes."""
    if isinstance(part, onnx.GraphProto):
        yield from part.initializer
    for attribute in (a for node in part.node for a in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def inside(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs inside a node: its branches, or the body of a loop."""
    found = [a.g for a in node.attribute if a.HasField("g")]
    return found + [graph for a in node.attribute for graph in a.graphs]
