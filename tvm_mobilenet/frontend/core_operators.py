"""Decompose the ATen operators of an exported MobileNet into core ATen operators, without tracing the program again.

``ExportedProgram.run_decompositions`` does the same for any program, but takes longer than the export: 1.5 s for
MobileNetV2. This module knows the operators of MobileNets. If a program has another operator, or one of these in a form
that is not known here (such as batch norm in training mode), PyTorch decomposes it.

Nodes are plain data, as in `torch_export.described`. Where one operator becomes several, the last of them keeps the
name, so the nodes that read the result need no change.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

AS_THEY_ARE = {  # operators that are core operators already
    *("add.Tensor", "mul.Tensor", "div.Tensor", "relu.default", "hardtanh.default", "leaky_relu.default"),
    *("clamp.default", "sigmoid.default", "cat.default", "mean.dim", "view.default", "permute.default"),
    *("addmm.default", "mm.default", "convolution.default", "_native_batch_norm_legit_no_training.default"),
    *("constant_pad_nd.default", "avg_pool2d.default", "max_pool2d_with_indices.default", "clone.default", "getitem."),
}
IN_PLACE = {"relu_.default", "relu6_.default", "hardtanh_.default", "hardswish_.default", "hardsigmoid_.default"}
IN_PLACE |= {"silu_.default", "leaky_relu_.default", "add_.Tensor", "mul_.Tensor"}
OWN_MEMORY = {  # operators whose result is new memory, never a view of an operand
    "conv2d.default",
    "convolution.default",
    "batch_norm.default",
    "linear.default",
    "add.Tensor",
    "mul.Tensor",
}


class Other(Exception):
    """An operator, or a form of one, that this module does not decompose."""


def decomposed(inputs: list[dict], nodes: list[dict], outputs: list[str]) -> list[dict] | None:
    """The nodes with core operators only, or None if the program has an operator that is not known here.

    Parameters
    ----------
    inputs, nodes : list of dict
        The inputs and nodes of a program, as `torch_export.described` makes them.
    outputs : list of str
        The names of the program's outputs.
    """
    readers = Counter(outputs) + Counter(n for node in nodes for n in _read([node["args"], node["kwargs"]]))
    values = {one["name"]: one.get("values") for one in inputs} | {node["name"]: node["values"] for node in nodes}
    # An owned value is not a view. If an in-place operator is the only reader of an owned value, no other node sees the
    # change, so the operator can be replaced by its form that makes a new value.
    made, owned = [], set()
    try:
        for node in nodes:
            name = _name(node)
            if name in IN_PLACE:
                if _operand(node) not in owned or readers[_operand(node)] != 1:
                    return None
                namespace, operator, overload = node["target"]
                node = {**node, "target": [namespace, operator.removesuffix("_"), overload]}
                owned.add(node["name"])
            elif name in OWN_MEMORY:
                owned.add(node["name"])
            made += _core(node, values)
    except Other:
        return None
    return made


def _core(node: dict, values: dict) -> list[dict]:
    name = _name(node)
    if name in AS_THEY_ARE:
        return [node]
    if name not in FORMS:
        raise Other(name)
    return FORMS[name](node, values)


def _name(node: dict) -> str:
    namespace, operator, overload = node["target"]
    return f"{operator}.{overload}" if namespace in ("aten", "_operator") else ""


def _read(argument: object) -> list[str]:
    """Names of the values in an argument, each as often as it occurs."""
    if isinstance(argument, list):
        return [name for one in argument for name in _read(one)]
    if isinstance(argument, dict):
        return [argument["node"]] if "node" in argument else [n for one in argument.values() for n in _read(one)]
    return []


def _operand(node: dict) -> str:
    return node["args"][0]["node"]


def _arguments(node: dict, *defaults: object) -> list:
    """All arguments of an operator. ``defaults`` has a value for each parameter, which a missing argument takes."""
    if node["kwargs"]:
        raise Other
    return [*node["args"], *defaults[len(node["args"]) :]]


def _chain(node: dict, *steps: tuple) -> list[dict]:
    """Core operators one after the other, each from a step ``(operator, overload, args, values)``.

    The last keeps the node's name. In ``args``, a tuple ``(i,)`` stands for the result of step ``i``.
    """
    names = [f"{node['name']}_core_{i}" for i in range(len(steps) - 1)] + [node["name"]]
    return [
        {
            **node,
            "name": name,
            "target": ["aten", operator, overload] if overload else ["_operator", operator, ""],
            "args": [{"node": names[a[0]]} if isinstance(a, tuple) else a for a in args],
            "kwargs": {},
            "values": values,
        }
        for name, (operator, overload, args, values) in zip(names, steps, strict=True)
    ]


def _conv2d(node: dict, values: dict) -> list[dict]:
    x, weight, bias, stride, padding, dilation, groups = _arguments(node, *[None] * 3, [1, 1], [0, 0], [1, 1], 1)
    if isinstance(padding, str):
        raise Other
    args = [x, weight, bias, stride, padding, dilation, False, [0, 0], groups]
    return _chain(node, ("convolution", "default", args, node["values"]))


def _batch_norm(node: dict, values: dict) -> list[dict]:
    *tensors, training, momentum, epsilon, _ = _arguments(node)
    if training is not False or None in tensors[3:]:
        raise Other
    several = [node["values"], [[0], node["values"][1]], [[0], node["values"][1]]]
    norm = ("_native_batch_norm_legit_no_training", "default", [*tensors, momentum, epsilon], several)
    return _chain(node, norm, ("getitem", "", [(0,), 0], node["values"]))


def _relu6(node: dict, values: dict) -> list[dict]:
    return _chain(node, ("hardtanh", "default", [*_arguments(node), 0, 6], node["values"]))


def _gate(x: object, made: list) -> list[tuple]:
    """Steps of ``clamp(x + 3, 0, 6)``."""
    return [
        ("add", "Tensor", [x, 3], made),
        ("clamp", "default", [(0,), 0], made),
        ("clamp", "default", [(1,), None, 6], made),
    ]


def _hardswish(node: dict, values: dict) -> list[dict]:
    (x,), made = _arguments(node), node["values"]
    return _chain(node, *_gate(x, made), ("mul", "Tensor", [x, (2,)], made), ("div", "Tensor", [(3,), 6], made))


def _hardsigmoid(node: dict, values: dict) -> list[dict]:
    (x,), made = _arguments(node), node["values"]
    return _chain(node, *_gate(x, made), ("div", "Tensor", [(2,), 6], made))


def _silu(node: dict, values: dict) -> list[dict]:
    (x,), made = _arguments(node), node["values"]
    return _chain(node, ("sigmoid", "default", [x], made), ("mul", "Tensor", [x, (0,)], made))


def _adaptive_avg_pool2d(node: dict, values: dict) -> list[dict]:
    x, size = _arguments(node)
    if size != [1, 1]:
        raise Other
    return _chain(node, ("mean", "dim", [x, [-1, -2], True], node["values"]))


def _max_pool2d(node: dict, values: dict) -> list[dict]:
    several = [node["values"], [node["values"][0], "int64"]]
    pool = ("max_pool2d_with_indices", "default", _arguments(node), several)
    return _chain(node, pool, ("getitem", "", [(0,), 0], node["values"]))


def _view(node: dict, values: dict) -> list[dict]:
    """``flatten`` and ``reshape`` as a view."""
    shape, _ = node["values"]
    if math.prod(shape) == 0:
        raise Other
    return _chain(node, ("view", "default", [node["args"][0], shape], node["values"]))


def _dropout(node: dict, values: dict) -> list[dict]:
    x, _, training = _arguments(node)
    if training is not False:
        raise Other
    return _chain(node, ("clone", "default", [x], node["values"]))


def _linear(node: dict, values: dict) -> list[dict]:
    x, weight, bias = _arguments(node, None, None, None)
    given, made = values[x["node"]], node["values"]
    if not given or len(given[0]) != 2:
        raise Other
    turned = ("permute", "default", [weight, [1, 0]], [[given[0][1], made[0][1]], made[1]])
    if bias is None:
        return _chain(node, turned, ("mm", "default", [x, (0,)], made))
    return _chain(node, turned, ("addmm", "default", [bias, x, (0,)], made))


def _pad(node: dict, values: dict) -> list[dict]:
    x, pads, mode, value = _arguments(node, None, None, "constant", None)
    if mode != "constant":
        raise Other
    return _chain(node, ("constant_pad_nd", "default", [x, pads, value or {"float": "0.0"}], node["values"]))


FORMS: dict[str, Callable[[dict, dict], list[dict]]] = {
    "conv2d.default": _conv2d,
    "batch_norm.default": _batch_norm,
    "relu6.default": _relu6,
    "hardswish.default": _hardswish,
    "hardsigmoid.default": _hardsigmoid,
    "silu.default": _silu,
    "adaptive_avg_pool2d.default": _adaptive_avg_pool2d,
    "max_pool2d.default": _max_pool2d,
    "flatten.using_ints": _view,
    "reshape.default": _view,
    "dropout.default": _dropout,
    "linear.default": _linear,
    "pad.default": _pad,
}
