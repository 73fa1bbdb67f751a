"""Dtypes of operands: PyTorch computes ``i * 0.5``, ``i / 3`` and ``i.exp()`` in floats; TVM's importer would round the
number, 0.5, to the tensor's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tvm import relax

_BY_TRUTHS = ("where", "masked_fill", "masked_scatter")  # they choose by truth values
WHOLE = ("int64", "int32", "int16", "int8", "uint8")


def operands(importer, node: torch.fx.Node) -> list[relax.Expr]:
    """Both operands in the dtype of the result; a number becomes a constant."""
    dtype, given = dtype_of(node.meta["val"]), (importer.env.get(v, v) for v in node.args[:2])
    return [cast(importer, v, dtype) if isinstance(v, relax.Expr) else relax.const(v, dtype) for v in given]


def cast(importer, value: relax.Expr, dtype: str) -> relax.Expr:
    """A value in a dtype."""
    same = str(value.ty.dtype) == dtype
    return value if same else importer.block_builder.emit(relax.op.astype(value, dtype))


@contextmanager
def promoted(importer, node: torch.fx.Node) -> Iterator[None]:
    """While an element-wise operator is converted: its integer operands as the floats in which PyTorch computes it, and
    truth values as the numbers.
    """
    wanted = {**dict.fromkeys(WHOLE, _wanted(node)), "bool": _wanted_of_truths(node)}
    values = {source: importer.env.get(source) for source in node.all_input_nodes}
    held = {s: str(getattr(v.ty, "dtype", "")) for s, v in values.items() if isinstance(v, relax.Expr)}
    given = {source: values[source] for source, dtype in held.items() if wanted.get(dtype)}
    try:
        for source, value in given.items():
            importer.env[source] = importer.block_builder.emit(relax.op.astype(value, wanted[held[source]]))
        yield
    finally:
        importer.env.update(given)


def _wanted(node: torch.fx.Node) -> str:
    """The float dtype in which PyTorch computes an element-wise operator; empty if it computes in integers."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return ""
    dtype = dtype_of(node.meta.get("val"))
    if dtype.startswith("float"):
        return dtype
    return "float32" if any(isinstance(argument, float) for argument in node.args) else ""  # a comparison


def _wanted_of_truths(node: torch.fx.Node) -> str:
    """The dtype in which PyTorch computes with truth values as numbers; empty if they stay truth values."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()) or node.target._opname in _BY_TRUTHS:
        return ""
    dtype = dtype_of(node.meta.get("val"))
    return "" if dtype == "bool" else dtype


@contextmanager
def as_rows(importer, node: torch.fx.Node) -> Iterator[list[torch.fx.Node]]:
    """While an operator is converted: its operands without dimensions as rows of one number, which PyTorch takes for
    the same; empty if there are none.
    """
    given = {source: importer.env.get(source) for source in node.all_input_nodes}
    single = {s: v for s, v in given.items() if isinstance(v, relax.Expr) and getattr(v.ty, "ndim", None) == 0}
    try:
        for source, value in single.items():
            importer.env[source] = importer.block_builder.emit(relax.op.reshape(value, (1,)))
        yield list(single)
    finally:
        importer.env.update(single)


def in_shape(importer, node: torch.fx.Node, made):
    """Results in the shapes that PyTorch states."""
    due = node.meta["val"]
    if isinstance(made, tuple):
        return tuple(_in(importer, one, value) for one, value in zip(made, due, strict=False))
    return _in(importer, made, due)


def _in(importer, made: relax.Expr, due: torch.Tensor) -> relax.Expr:
    return importer.block_builder.emit(relax.op.reshape(made, [int(d) for d in due.shape]))


class OtherResult(ValueError):
    """A converter makes another shape or kind of number than PyTorch."""


def as_stated(importer, node: torch.fx.Node, made):
    """What a converter makes of an operator, with the results, the shape and the dtype that PyTorch states."""
    due = node.meta.get("val")
    if isinstance(made, relax.Call):
        made = importer.block_builder.emit(made)
    if not isinstance(made, relax.Expr) or not isinstance(made.ty, relax.TensorType):
        return made
    if isinstance(due, list):
        return (made,)  # the others must not read the first one
    if not isinstance(due, torch.Tensor) or made.ty.shape is None:
        return made
    shape, stated = [int(d) for d in made.ty.shape], [int(d) for d in due.shape]
    if shape != stated:
        raise OtherResult(f"TVM's importer makes {shape} of it, PyTorch {stated}")
    held, dtype = str(made.ty.dtype), dtype_of(due)
    if held == dtype or any(not _is_stated(importer, source) for source in node.all_input_nodes):
        return made  # a quantized model is imported in float32
    if held.startswith("float") != dtype.startswith("float"):
        raise OtherResult(f"TVM's importer computes it in {held}, PyTorch in {dtype}")
    return cast(importer, made, dtype)


def _is_stated(importer, node: torch.fx.Node) -> bool:
    held, due = importer.env.get(node), node.meta.get("val")
    return not isinstance(held, relax.Expr) or str(getattr(held.ty, "dtype", "")) == dtype_of(due)


def dtype_of(value) -> str:
    """The name of a tensor's dtype; empty for other values."""
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
