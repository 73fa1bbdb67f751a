"""Converters for PyTorch operators that TVM's importer lacks, or converts differently.

Each takes the importer, TVM's own converter of the operator if there is one, and the node. `promoted` handles integers
among operands. PyTorch computes ``i * 0.5``, ``i / 3`` and ``i.exp()`` in floats; TVM's importer would round the
number, 0.5, to the tensor's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from tvm import relax

from tvm_mobilenet.frontend import torch_resizes


def converters(importer) -> dict:
    """Converters by the names of operators.

    Parameters
    ----------
    importer : ExportedProgramImporter
    """
    own = importer.convert_map
    every = {**_CONVERTERS, **torch_resizes.CONVERTERS}
    return {name: partial(convert, importer, own.get(name)) for name, convert in every.items()}


def _division(importer, own, node: torch.fx.Node) -> relax.Var:
    """A division with a rounding mode; a number has the tensor's dtype."""
    (a, b), how = _operands(importer, node), node.kwargs.get("rounding_mode")
    if how == "floor":
        return importer.block_builder.emit(relax.op.floor_divide(a, b))
    made = importer.block_builder.emit(relax.op.divide(a, b))  # TVM truncates a division of integers
    if how == "trunc" and node.meta["val"].dtype.is_floating_point:
        made = importer.block_builder.emit(relax.op.trunc(made))
    return made


def _with_alpha(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An addition or a subtraction. TVM's importer ignores the factor of its second operand."""
    if (alpha := node.kwargs.get("alpha", 1)) == 1:
        return own(node)
    a, b = _operands(importer, node)
    return importer.block_builder.emit(operator(a, relax.op.multiply(b, relax.const(alpha, b.ty.dtype))))


def _reduction(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    data, axes, keep = (*node.args, *(None, False)[len(node.args) - 1 :])[:3]
    keep = node.kwargs.get("keepdim", keep)
    x = _cast(importer, importer.env[data], _dtype(node.meta["val"]))  # products of integers are int64
    return importer.block_builder.emit(operator(x, axes if axes or axes == 0 else None, keep))


def _elu(importer, own, node: torch.fx.Node) -> relax.Var:
    """``scale * (relu(x) - alpha * relu(1 - exp(input_scale * x)))``, also SELU. TVM's importer ignores both scales."""
    data, alpha, scale, input_scale = (*node.args, *(1.0, 1.0, 1.0)[len(node.args) - 1 :])
    if scale == input_scale == 1:
        return own(node)
    x = importer.env[data]
    one, alpha, scale, input_scale = (relax.const(n, x.ty.dtype) for n in (1.0, alpha, scale, input_scale))
    below = relax.op.nn.relu(relax.op.subtract(one, relax.op.exp(relax.op.multiply(x, input_scale))))
    made = relax.op.subtract(relax.op.nn.relu(x), relax.op.multiply(below, alpha))
    return importer.block_builder.emit(relax.op.multiply(made, scale))


def _average(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An average pool. TVM's importer ignores ``divisor_override``."""
    data, kernel, stride, padding, ceil, _, divisor = (
        *node.args,
        *(None, [], 0, False, True, None)[len(node.args) - 1 :],
    )
    if divisor is None:
        return own(node)
    if ceil:
        raise ValueError("divisor_override with ceil_mode is not supported; export it without one of them")
    mean = operator(importer.env[data], kernel, stride or kernel, padding, count_include_pad=True)
    factor = relax.const(math.prod(kernel) / divisor, _dtype(node.meta["val"]))
    return importer.block_builder.emit(relax.op.multiply(mean, factor))


def _extreme(values, places, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """The largest or smallest values along an axis, and their places. TVM's importer sorts for them."""
    data, axis, keep = (*node.args, False)[:3]
    x = importer.env[data]
    return tuple(importer.block_builder.emit(operator(x, axis, keep)) for operator in (values, places))


def _adaptive_maximum(importer, own, node: torch.fx.Node) -> tuple[relax.Var]:
    """A pool of equal windows, without the places of its maxima."""
    there, sizes = ([int(n) for n in value.shape[2:]] for value in (node.args[0].meta["val"], node.meta["val"][0]))
    if any(n % size for n, size in zip(there, sizes, strict=True)) or any(user.args[1] for user in node.users):
        raise ValueError("its windows differ in size, or the places of its maxima are read")
    window = [n // size for n, size in zip(there, sizes, strict=True)]
    return (importer.block_builder.emit(relax.op.nn.max_pool2d(importer.env[node.args[0]], window, window)),)


_CONVERTERS = {
    "adaptive_max_pool2d.default": _adaptive_maximum,
    "max.dim": partial(_extreme, relax.op.max, relax.op.argmax),
    "min.dim": partial(_extreme, relax.op.min, relax.op.argmin),
    "add.Tensor": partial(_with_alpha, relax.op.add),
    "sub.Tensor": partial(_with_alpha, relax.op.subtract),
    "elu.default": _elu,
    "avg_pool2d.default": partial(_average, relax.op.nn.avg_pool2d),
    "avg_pool3d.default": partial(_average, relax.op.nn.avg_pool3d),
    "div.Tensor_mode": _division,
    "div.Scalar_mode": _division,
    "amax.default": partial(_reduction, relax.op.max),
    "amin.default": partial(_reduction, relax.op.min),
    "prod.dim_int": partial(_reduction, relax.op.prod),
}


def _operands(importer, node: torch.fx.Node) -> list[relax.Expr]:
    """Both operands in the dtype of the result; a number becomes a constant."""
    dtype, given = _dtype(node.meta["val"]), (importer.env.get(v, v) for v in node.args[:2])
    return [_cast(importer, v, dtype) if isinstance(v, relax.Expr) else relax.const(v, dtype) for v in given]


def _cast(importer, value: relax.Expr, dtype: str) -> relax.Expr:
    same = str(value.ty.dtype) == dtype
    return value if same else importer.block_builder.emit(relax.op.astype(value, dtype))


@contextmanager
def promoted(importer, node: torch.fx.Node) -> Iterator[None]:
    """While an element-wise operator is converted: its integer operands as the floats in which PyTorch computes it."""
    wanted = _wanted(node)
    given = {
        source: value
        for source in node.all_input_nodes
        for value in [importer.env.get(source)]
        if wanted and isinstance(value, relax.Expr) and str(getattr(value.ty, "dtype", "")) in _WHOLE
    }
    try:
        for source, value in given.items():
            importer.env[source] = importer.block_builder.emit(relax.op.astype(value, wanted))
        yield
    finally:
        importer.env.update(given)


_WHOLE = ("int64", "int32", "int16", "int8", "uint8")


def _wanted(node: torch.fx.Node) -> str:
    """The float dtype in which PyTorch computes an element-wise operator; empty if it computes in integers."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return ""
    dtype = _dtype(node.meta.get("val"))
    if dtype.startswith("float"):
        return dtype
    return "float32" if any(isinstance(argument, float) for argument in node.args) else ""  # a comparison


def _dtype(value) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
