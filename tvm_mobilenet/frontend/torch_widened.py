"""Programs of float16, bfloat16 or float64 values, in float32: the importer and the reference both get such a program.

``model.half()`` and ``model.bfloat16()`` make them, and casts inside a model. As for ONNX files (`onnx_widened`),
float32 represents all of their values, so the program keeps its meaning without their rounding. ``model.double()``
makes programs that take float64; layers compute these in float32, which rounds, and a note says so. A model of float32
that casts to float64 itself stays as it is. Sparse tensors become dense ones here too. This needs no TVM.
"""

from __future__ import annotations

import copy

import torch
from torch.utils import _pytree as pytree

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.weights import HALVES

_DENSE = {  # operators of sparse tensors, and the same ones of dense tensors
    torch.ops.aten._sparse_mm.default: torch.ops.aten.mm.default,
    torch.ops.aten._sparse_addmm.default: torch.ops.aten.addmm.default,
}
_CHANGES_OF_LAYOUT = ("to_sparse", "_to_sparse", "to_dense", "_to_dense", "coalesce", "_coalesce")
_OF_AUTOCAST = 4  # arguments of autocast before its graph


def is_converted(program: torch.export.ExportedProgram) -> bool:
    """Whether a program is computed in float32 in place of other floats, or with dense tensors."""
    return in_doubles(program) or in_halves(program) or is_sparse(program)


def in_doubles(program: torch.export.ExportedProgram) -> bool:
    """Whether a program takes float64."""
    wanted = set(program.graph_signature.user_inputs)
    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted)
    return any(isinstance(value, torch.Tensor) and value.dtype == torch.float64 for value in values)


def single(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, in float32 if it has floats."""
    return tensor.float() if tensor.is_floating_point() else tensor


def in_halves(program: torch.export.ExportedProgram) -> bool:
    """Whether any value of a program is float16 or bfloat16."""
    return any(value.dtype in HALVES for value in _values(program))


def is_sparse(program: torch.export.ExportedProgram) -> bool:
    """Whether any value of a program is sparse."""
    return any(value.layout is not torch.strided for value in _values(program))


def _values(program: torch.export.ExportedProgram) -> list[torch.Tensor]:
    """What a program stores and computes."""
    stored = (*program.state_dict.values(), *program.constants.values())
    nodes = (node for part in _parts(program.graph_module) for node in part.graph.nodes)
    made = (value for node in nodes for value in pytree.tree_leaves(node.meta.get("val")))
    return [value for value in (*stored, *made) if isinstance(value, torch.Tensor)]


def module(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """A module that runs a program, and can be exported again: in float32 in place of other floats."""
    others = HALVES + (torch.float64,) * in_doubles(program)
    made = program.module(check_guards=not is_converted(program))  # they compare dtypes
    made = copy.deepcopy(made) if is_converted(program) else made  # its weights are the caller's own

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor if tensor.layout is torch.strided else tensor.to_dense()
        return tensor.float() if tensor.dtype in others else tensor

    made._apply(converted)
    for part in reversed(_parts(made)):  # inner ones first
        for name, value in vars(part).items():  # constants
            if isinstance(value, torch.Tensor):
                setattr(part, name, converted(value))
        _convert(part, others)
        part.recompile()
    return made


def _parts(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    """A graph and those inside it, as of autocast."""
    return [part for part in module.modules() if isinstance(part, torch.fx.GraphModule)]


def _inline(part: torch.fx.GraphModule, node: torch.fx.Node) -> None:
    """Replace a region of autocast, which is of one device to a half, by its operators: they keep their places in the
    model, and all is float32 here.
    """
    *_, graph = node.args[: _OF_AUTOCAST + 1]
    inner = getattr(part, graph.target)
    values = dict(zip(inner.graph.find_nodes(op="placeholder"), node.args[_OF_AUTOCAST + 1 :], strict=True))
    with part.graph.inserting_before(node):
        for constant in inner.graph.find_nodes(op="get_attr"):
            name = f"{graph.target}_{constant.target}".replace(".", "_")
            setattr(part, name, getattr(inner, constant.target))
            values[constant] = part.graph.get_attr(name)
        made = part.graph.graph_copy(inner.graph, values)
    for user in list(node.users):  # one of several results
        user.replace_all_uses_with(made[user.args[1]])
        part.graph.erase_node(user)
    part.graph.erase_node(node)
    if not graph.users:
        part.graph.erase_node(graph)


def _check_bits(node: torch.fx.Node, others: tuple[torch.dtype, ...]) -> None:
    """Refuse a view of the bits of floats that are computed in float32."""
    data, dtype = node.args
    if dtype in others or getattr(data.meta.get("val"), "dtype", None) in others:
        raise TvmMobilenetError(
            f"aten.view.dtype at {node.name} is not supported: it reads the bits of {dtype} or of its data, and such "
            "floats are computed in float32",
            "export the model in float32 (model.float()), or cut it before this operator",
        )


def _convert(part: torch.fx.GraphModule, others: tuple[torch.dtype, ...]) -> None:
    for node in part.graph.find_nodes(op="call_function", target=torch.ops.higher_order.wrap_with_autocast):
        _inline(part, node)
    for node in list(part.graph.nodes):
        if node.target is torch.ops.aten.view.dtype:
            _check_bits(node, others)
        if node.target is torch.ops.aten.detach_.default:
            node.target = torch.ops.aten.detach.default  # an export has no views that are detached in place
        elif node.target in _DENSE:
            node.target = _DENSE[node.target]
        elif getattr(node.target, "_opname", "") in _CHANGES_OF_LAYOUT:
            node.target, node.args, node.kwargs = torch.ops.aten.clone.default, node.args[:1], {}
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            part.graph.erase_node(node)
        else:
            node.args, node.kwargs = (_without(others, given) for given in (node.args, node.kwargs))


def _without(others: tuple[torch.dtype, ...], given):
    def converted(value):
        return torch.float32 if isinstance(value, torch.dtype) and value in others else value

    return torch.fx.node.map_aggregate(given, converted)
