"""Converters for PyTorch operators that TVM's importer lacks, or converts differently.

`promoted` handles integers among operands. PyTorch computes ``i * 0.5``, ``i / 3`` and ``i.exp()`` in floats; TVM's
importer would round the number, 0.5, to the tensor's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from tvm import relax


def converters(importer) -> dict:
    """Converters by the names of operators.

    Parameters
    ----------
    importer : ExportedProgramImporter
    """

    def cast(value: relax.Expr, dtype: str) -> relax.Expr:
        same = str(value.ty.dtype) == dtype
        return value if same else importer.block_builder.emit(relax.op.astype(value, dtype))

    def division(node: torch.fx.Node) -> relax.Var:
        """A division with a rounding mode; a number has the tensor's dtype."""
        (a, b), how = (importer.env.get(v, v) for v in node.args[:2]), node.kwargs.get("rounding_mode")
        dtype = _dtype(node.meta["val"])
        a, b = (cast(v, dtype) if isinstance(v, relax.Expr) else relax.const(v, dtype) for v in (a, b))
        if how == "floor":
            return importer.block_builder.emit(relax.op.floor_divide(a, b))
        made = importer.block_builder.emit(relax.op.divide(a, b))  # TVM truncates a division of integers
        if how == "trunc" and node.meta["val"].dtype.is_floating_point:
            made = importer.block_builder.emit(relax.op.trunc(made))
        return made

    def reduction(operator):
        def convert(node: torch.fx.Node) -> relax.Var:
            data, axes, keep = (*node.args, *(None, False)[len(node.args) - 1 :])[:3]
            keep = node.kwargs.get("keepdim", keep)
            x = cast(importer.env[data], _dtype(node.meta["val"]))  # products of integers are int64
            return importer.block_builder.emit(operator(x, axes if axes or axes == 0 else None, keep))

        return convert

    def nearest(node: torch.fx.Node) -> relax.Var:
        """A resize to the value at or before each position. TVM's importer takes the nearest of half pixels, which is
        another one at most ratios.
        """
        x, sizes = importer.env[node.args[0]], node.meta["val"].shape[2:]
        factors = node.args[2] if len(node.args) > 2 else None
        there = [int(n) for n in node.args[0].meta["val"].shape[2:]]
        if factors is None or all(n * f == size for n, f, size in zip(there, factors, sizes, strict=True)):
            return importer.block_builder.emit(
                relax.op.image.resize2d(
                    x,
                    [int(n) for n in sizes],
                    layout="NCHW",
                    method="nearest_neighbor",
                    coordinate_transformation_mode="asymmetric",
                    rounding_method="floor",
                )
            )
        for axis, (n, factor, size) in enumerate(zip(there, factors, sizes, strict=True), 2):  # size was rounded
            places = (torch.arange(size, dtype=torch.float32) * torch.tensor(1 / factor)).floor().long()
            index = relax.const(places.clamp(max=n - 1).numpy(), "int64")
            x = importer.block_builder.emit(relax.op.take(x, index, axis))
        return x

    return {
        "upsample_nearest2d.vec": nearest,
        "div.Tensor_mode": division,
        "div.Scalar_mode": division,
        "amax.default": reduction(relax.op.max),
        "amin.default": reduction(relax.op.min),
        "prod.dim_int": reduction(relax.op.prod),
    }


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
