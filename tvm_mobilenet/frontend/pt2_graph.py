"""The JSON of a saved program: parts that torch would evaluate, import or call are checked, and parts that only people
read are dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.limits import MOST_NAME, MOST_NODES
from tvm_mobilenet.frontend import symbolic

_IDENTIFIER = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_PATH = re.compile(r"[\w.\-$@<>\[\]']+")  # path of a parameter in its module
_NODE = re.compile(r"torch\.ops\.(aten|prims|prim|quantized_decomposed|torchvision)\.\w+\.\w+", re.ASCII)
_NODES = {
    *(
        f"_operator.{n}"
        for n in [
            "add",
            "and_",
            "eq",
            "floordiv",
            "ge",
            "getitem",
            "gt",
            "le",
            "lt",
            "mod",
            "mul",
            "ne",
            "neg",
            "or_",
            "pos",
            "pow",
            "sub",
            "truediv",
        ]
    ),
    *(f"torch.{n}" for n in ["sym_float", "sym_int", "sym_ite", "sym_max", "sym_min", "sym_not", "_sym_sqrt"]),
    *(f"math.{n}" for n in ["ceil", "floor", "trunc"]),
    *(f"torch.ops.higher_order.{n}" for n in ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond")),
}
_FILES = re.compile(r"torch\.ops\.aten\.(from_file|save|load)\w*\.\w+")  # these open a file
_CONTAINERS = {  # types whose contexts are plain data
    *("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.namedtuple"),
    *("torch.fx.immutable_collections.immutable_list", "torch.fx.immutable_collections.immutable_dict", "torch.Size"),
}
_KEPT = ("nn_module_stack",)  # kept metadata of a node


class Unsafe(ValueError):
    """Part of a program that torch would run, or that is larger than in any program."""


def check_version(path: Path, program: dict) -> None:
    """Refuse a program that a torch with another schema saved; the message names both.

    Raises
    ------
    TvmMobilenetError
        The message names the torch that can read it.
    """
    import torch
    from torch._export.serde.schema import SCHEMA_VERSION as known

    saved = program.get("schema_version")
    saved = [saved.get("major"), saved.get("minor")] if isinstance(saved, dict) else saved
    if not isinstance(saved, list) or len(saved) != 2 or any(type(v) is not int for v in saved):
        raise ValueError("the program does not state the version of its schema")
    if saved[0] == known[0]:
        return
    by = str(program.get("torch_version") or "another version")
    by = by if re.fullmatch(r"\d[\w.+]{0,40}", by) else "another version"
    install = f"; or install the torch that saved it: {packages.pip_install('torch==' + by.split('+')[0])}"
    raise TvmMobilenetError(
        f"{path} was saved by torch {by} with schema version {saved[0]}.{saved[1]}; torch {torch.__version__} here "
        f"reads {known[0]}.x",
        f"save it again with torch {torch.__version__.split('+')[0]}, or export the model to ONNX"
        + install * by[:1].isdigit(),
    )


def checked(program: dict) -> dict:
    """The program, with every expression rewritten and without parts that only people read.

    Raises
    ------
    Unsafe
        The program has an operator that is not PyTorch's, or an invalid expression, name or type.
    """
    program = {**program, "guards_code": []}  # Python code; `sizes.fix` checks the sizes instead
    if _count_nodes(program) > MOST_NODES:
        raise Unsafe(f"the graph has {_count_nodes(program):,} nodes; the limit is {MOST_NODES:,}")
    for name, allowed in (program.get("range_constraints") or {}).items():
        _expression(name)
        if not all(value is None or type(value) is int for value in allowed.values()):
            raise Unsafe("a range that is none")
    graph = program["graph_module"]
    for call in graph.get("module_call_graph") or ():
        signature = call.get("signature") or {}
        for name in signature.get("forward_arg_names") or ():
            _identifier(name)
        for key in ("in_spec", "out_spec"):
            if key in signature:
                _check_spec(signature[key])
    graph["metadata"] = {}
    return _walk(program, "")


def check_names(name: str) -> None:
    """Refuse an invalid name of a parameter."""
    if not _PATH.fullmatch(name) or len(name) > MOST_NAME:
        raise Unsafe(f"a parameter with the name {name[:80]!a}")


def _count_nodes(value: object) -> int:
    """The number of operators, including those of inner graphs."""
    if isinstance(value, dict):
        own = len(value["nodes"]) if isinstance(value.get("nodes"), list) else 0
        return own + sum(map(_count_nodes, value.values()))
    return sum(map(_count_nodes, value)) if isinstance(value, list) else 0


def _walk(value: object, under: str) -> object:
    """A part of the JSON, with all of its own parts checked; ``under`` is its key."""
    if isinstance(value, list):
        return [_walk(part, under) for part in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, part in value.items():
        if under in ("tensor_values", "sym_int_values", "sym_bool_values", "sym_float_values"):
            _identifier(key)
        if key == "expr_str":
            part = _expression(part)
        elif key in ("name", "as_name") and isinstance(part, str) and part:
            _identifier(part)
        elif (key.endswith("_name") or key == "fqn") and isinstance(part, str) and part:
            check_names(part)
        elif key == "target" or key == "as_operator":
            _operator(part)
        elif key == "metadata" and isinstance(part, dict):
            part = {k: part[k] for k in _KEPT if isinstance(part.get(k), str) and len(part[k]) <= 20 * MOST_NAME}
        elif key == "as_custom_obj" or (key == "custom_obj_values" and part):
            raise Unsafe("it holds an object of a class, which is a pickle")
        found[key] = _walk(part, key)
    return found


def _operator(name: object) -> None:
    if not isinstance(name, str) or not (name in _NODES or _NODE.fullmatch(name)) or _FILES.match(name):
        raise Unsafe(f"it calls {str(name)[:80]!a}, which is not an operator of a network")


def _expression(text: object) -> str:
    try:
        return symbolic.checked(text)
    except ValueError as e:
        raise Unsafe(f"it holds {e}") from None


def _identifier(name: object) -> None:
    if not isinstance(name, str) or not _IDENTIFIER.fullmatch(name) or len(name) > MOST_NAME:
        raise Unsafe(f"a value with the name {str(name)[:80]!a}")


def _check_spec(text: object) -> None:
    """Refuse containers of inputs and outputs that torch would import a module for."""
    try:
        spec = json.loads(text)
        for kind, context in _types(spec):
            known = kind is None or kind in _CONTAINERS or not kind.startswith(("torch.", "builtins.", "collections."))
            if not known or "__enum__" in str(context) or len(str(kind)) > MOST_NAME:
                raise Unsafe(f"its inputs or outputs are of the type {str(kind)[:80]!a}")
    except (RecursionError, TypeError, json.JSONDecodeError):
        raise Unsafe("its inputs and outputs are described by something that is not JSON") from None


def _types(spec: object) -> Iterator[tuple]:
    if isinstance(spec, list):
        for part in spec:
            yield from _types(part)
    elif isinstance(spec, dict):
        yield spec.get("type"), spec.get("context")
        yield from _types(spec.get("children_spec"))
