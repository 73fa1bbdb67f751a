"""The outputs of a PyTorch module, also before a last softmax or activation. This needs no TVM.

The operators that may stand between that last function and the output are the same for an ONNX graph.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

VIEWS = {
    *("view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "clone", "alias", "dropout"),
    *("contiguous", "_unsafe_view", "t", "numpy_T"),
}
AFFINE = {"add", "sub", "mul", "div", "add_", "mul_", "div_"}  # with a constant
FUNCTIONS = {
    **{name: "softmax" for name in ("softmax", "_softmax")},
    **{name: name for name in ("sigmoid", "hardsigmoid", "relu", "silu", "hardswish")},
    **{name: "clip" for name in ("clamp", "clamp_min", "hardtanh", "relu6", "hardtanh_")},
    "relu_": "relu",
}


def outputs(module, inputs: list) -> list[list[np.ndarray]]:
    """The outputs of a module for each of the inputs, which are tuples of arrays."""
    with torch.no_grad():
        found = [tree_leaves(module(*args, **named)) for args, named in (_arguments(module, x) for x in inputs)]
    return [[t.numpy() for t in ys if isinstance(t, torch.Tensor)] for ys in found]


def _arguments(module, arrays: tuple) -> tuple[tuple, dict]:
    """The arguments of a module; an exported one may take them by name, in dictionaries, or beside constants. They are
    copies, since a module may change its inputs.
    """
    tensors = [torch.tensor(a) for a in arrays]
    info = getattr(getattr(getattr(module, "graph", None), "_codegen", None), "pytree_info", None)
    if info is None or info.in_spec is None:
        return tuple(tensors), {}
    return unflattened(
        [node.meta.get("val") for node in module.graph.find_nodes(op="placeholder")], tensors, info.in_spec
    )


def unflattened(values: list, tensors: list, spec) -> tuple[tuple, dict]:
    """Arguments as a program takes them: tensors, in place of those among the values of its inputs."""
    left = iter(tensors)
    return tree_unflatten([next(left) if isinstance(v, torch.Tensor) else v for v in values], spec)


def with_and_without_last(module, inputs: list) -> tuple[list, list, tuple[str, ...]]:
    """The outputs of an exported module, the same without its last functions, and these functions.

    Returns
    -------
    list, list, tuple
        As in `framework.Outputs`: ``values``, ``before``, ``functions``.
    """
    values = outputs(module, inputs)
    functions = _leave_out(module)
    before = [[None] * len(functions) for _ in inputs]
    if any(functions):
        before = where(functions, outputs(module, inputs))
    return values, before, functions


def where(functions: tuple[str, ...], found: list) -> list:
    """The outputs that have a last function; None for the others."""
    return [[y if function else None for y, function in zip(ys, functions, strict=True)] for ys in found]


def answered(module, inputs: dict[str, torch.Tensor]) -> tuple[dict, dict[str, torch.Tensor]]:
    """`with_and_without_last` as JSON and tensors, both with names such as ``values.0.1``."""
    values, before, functions = with_and_without_last(module, from_named(inputs, "inputs"))
    tensors = {**named("values", values), **named("before", before)}
    return {"functions": list(functions), "torch": torch.__version__}, {
        k: torch.from_numpy(v) for k, v in tensors.items()
    }


def named(kind: str, lists: list) -> dict[str, np.ndarray]:
    """Lists of arrays as one mapping; arrays that are None are left out."""
    return {
        f"{kind}.{i}.{j}": np.asarray(array, order="C")
        for i, arrays in enumerate(lists)
        for j, array in enumerate(arrays)
        if array is not None
    }


def whole_numbers(module, inputs: list) -> list[dict[str, np.ndarray]]:
    """For each of the inputs, which are tuples of arrays, the data of each dequantize of an activation, by its name."""
    found = []
    for x in inputs:
        recorder = _Recorder(module)
        with torch.no_grad():
            recorder.run(*map(torch.tensor, x))
        found.append({name: tensor.numpy() for name, tensor in recorder.read.items()})
    return found


class _Recorder(torch.fx.Interpreter):
    """Runs a module and keeps the integers in it."""

    def __init__(self, module):
        super().__init__(module)
        self.read: dict[str, torch.Tensor] = {}

    def run_node(self, node):
        if str(node.target).startswith("quantized_decomposed.dequantize") and "quantize" in str(node.args[0].target):
            self.read[node.name] = self.env[node.args[0]]
        return super().run_node(node)


def from_named(tensors: dict, kind: str) -> list[tuple[np.ndarray, ...]]:
    """The lists of one kind in a mapping that `named` made."""
    found: dict[int, dict[int, np.ndarray]] = {}
    for name, tensor in tensors.items():
        if name.startswith(kind + "."):
            _, i, j = name.split(".")
            found.setdefault(int(i), {})[int(j)] = tensor.numpy()
    return [tuple(found[i][j] for j in sorted(found[i])) for i in sorted(found)]


def _leave_out(module) -> tuple[str, ...]:
    """Remove the last function of each output from an exported module; returns the functions."""
    graph = module.graph
    (output,) = graph.find_nodes(op="output")
    functions = []
    for node in tree_leaves(output.args[0]):
        function, at = "", node
        while (before := _view(at)) is not None:
            at = before
        if _aten(at) in FUNCTIONS and len(at.users) == 1:
            function = FUNCTIONS[_aten(at)]
            at.replace_all_uses_with(at.args[0])
        if hasattr(node, "meta") and getattr(node.meta.get("val"), "dtype", None) is not None:
            functions.append(function)
    module.recompile()
    return tuple(functions)


def _view(node):
    """The operand of a node that only reshapes it, or scales and shifts it by constants; None for any other node."""
    if len(getattr(node, "users", ())) != 1:
        return None
    if _aten(node) in VIEWS:
        return node.args[0]
    made = [a for a in node.args if isinstance(a, torch.fx.Node) and a.op != "get_attr"]
    return made[0] if _aten(node) in AFFINE and len(made) == 1 else None


def _aten(node) -> str:
    """The operator's name, ``softmax`` for a call of aten.softmax.int."""
    packet = getattr(getattr(node, "target", None), "overloadpacket", None)
    return getattr(packet, "__name__", "")
