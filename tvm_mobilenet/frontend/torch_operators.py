"""Converters for PyTorch operators that TVM's importer lacks, or converts differently.

`promoted` handles integers among operands. PyTorch computes ``i * 0.5``, ``i / 3`` and ``i.exp()`` in floats; TVM's
importer would round the number, 0.5, to the tensor's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from tvm import relax

from tvm_mobilenet.files import limits


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
        """A resize to the value at or before each position, or before half a position more ("nearest-exact"). TVM's
        importer takes other values at most ratios.
        """
        x, there, sizes = importer.env[node.args[0]], _sizes(node.args[0]), _sizes(node)
        half = "exact" in node.target.__name__
        places = [_places(node, axis) for axis in (0, 1)]
        exact = [[((2 * i + half) * n) // (2 * m) for i in range(m)] for n, m in zip(there, sizes, strict=True)]
        if places == exact:
            return importer.block_builder.emit(
                relax.op.image.resize2d(
                    x,
                    sizes,
                    layout="NCHW",
                    method="nearest_neighbor",
                    coordinate_transformation_mode="tf_half_pixel_for_nn" if half else "asymmetric",
                    rounding_method="floor",
                )
            )
        for axis, index in enumerate(places, 2):
            x = importer.block_builder.emit(relax.op.take(x, relax.const(np.array(index), "int64"), axis))
        return x

    own_elu, own_average, own_bilinear = (
        importer.convert_map[name] for name in ("elu.default", "avg_pool2d.default", "upsample_bilinear2d.vec")
    )

    def with_alpha(operator, name: str):
        """An addition or a subtraction whose second operand has a factor, which TVM's importer ignores."""
        own = importer.convert_map[name]

        def convert(node: torch.fx.Node) -> relax.Var:
            if (alpha := node.kwargs.get("alpha", 1)) == 1:
                return own(node)
            dtype = _dtype(node.meta["val"])
            a, b = (importer.env.get(v, v) for v in node.args)
            a, b = (cast(v, dtype) if isinstance(v, relax.Expr) else relax.const(v, dtype) for v in (a, b))
            return importer.block_builder.emit(operator(a, relax.op.multiply(b, relax.const(alpha, dtype))))

        return convert

    def elu(node: torch.fx.Node) -> relax.Var:
        """``scale * (relu(x) - alpha * relu(1 - exp(input_scale * x)))``, also SELU. TVM's importer ignores both
        scales.
        """
        data, alpha, scale, input_scale = (*node.args, *(1.0, 1.0, 1.0)[len(node.args) - 1 :])
        if scale == input_scale == 1:
            return own_elu(node)
        x = importer.env[data]
        one, alpha, scale, input_scale = (relax.const(n, x.ty.dtype) for n in (1.0, alpha, scale, input_scale))
        below = relax.op.nn.relu(relax.op.subtract(one, relax.op.exp(relax.op.multiply(x, input_scale))))
        made = relax.op.subtract(relax.op.nn.relu(x), relax.op.multiply(below, alpha))
        return importer.block_builder.emit(relax.op.multiply(made, scale))

    def average(node: torch.fx.Node) -> relax.Var:
        """TVM's importer ignores ``divisor_override``."""
        data, kernel, stride, padding, ceil, _, divisor = (
            *node.args,
            *(None, [], [0, 0], False, True, None)[len(node.args) - 1 :],
        )
        if divisor is None:
            return own_average(node)
        if ceil:
            raise ValueError("divisor_override with ceil_mode is not supported; export it without one of them")
        x = importer.env[data]
        mean = relax.op.nn.avg_pool2d(x, kernel, stride or kernel, padding, count_include_pad=True)
        size = relax.const(math.prod(kernel) / divisor, x.ty.dtype)
        return importer.block_builder.emit(relax.op.multiply(mean, size))

    def bilinear(node: torch.fx.Node) -> relax.Var:
        """TVM's importer computes positions from the sizes, PyTorch from the factor unless corners are aligned."""
        if node.args[2] or _whole(_sizes(node.args[0]), _factors(node, 3), _sizes(node)):
            return own_bilinear(node)
        return weighted(node)

    def weighted(node: torch.fx.Node) -> relax.Var:
        """A resize as two products with PyTorch's weights, those of rows and those of columns. TVM's importer leaves
        out the filter of an antialiased one.
        """
        x = importer.env[node.args[0]]
        rows, columns = (_weights(node, axis) for axis in (0, 1))
        x = importer.block_builder.emit(relax.op.matmul(relax.const(rows), x))
        return importer.block_builder.emit(relax.op.matmul(x, relax.const(columns.T.copy())))

    return {
        "add.Tensor": with_alpha(relax.op.add, "add.Tensor"),
        "sub.Tensor": with_alpha(relax.op.subtract, "sub.Tensor"),
        "elu.default": elu,
        "avg_pool2d.default": average,
        "upsample_nearest2d.vec": nearest,
        "_upsample_nearest_exact2d.vec": nearest,
        "upsample_bilinear2d.vec": bilinear,
        "_upsample_bilinear2d_aa.default": weighted,
        "_upsample_bicubic2d_aa.default": weighted,
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


def _sizes(node: torch.fx.Node) -> list[int]:
    """Height and width of a node's feature map."""
    return [int(n) for n in node.meta["val"].shape[2:]]


def _factors(node: torch.fx.Node, place: int) -> list[float]:
    """The factors of a resize, from this argument on; empty if it has sizes only."""
    given = node.args[place:]
    return [f for f in (given[0] if given and isinstance(given[0], list) else given) if f is not None]


def _places(node: torch.fx.Node, axis: int) -> list[int]:
    """The rows (axis 0) or columns (axis 1) that a resize by nearest neighbour takes, found by PyTorch."""
    n, size, factors = _sizes(node.args[0])[axis], _sizes(node)[axis], _factors(node, 2)
    found = torch.nn.functional.interpolate(
        torch.arange(n, dtype=torch.float32).reshape(1, 1, n, 1),
        **({"scale_factor": (factors[axis], 1.0)} if factors else {"size": (size, 1)}),
        mode="nearest-exact" if "exact" in node.target.__name__ else "nearest",
    )
    return found.reshape(-1).long().tolist()


def _whole(there: list[int], factors: list[float], sizes: list[int]) -> bool:
    """Whether a resize has no factors, or sizes that follow from them without rounding."""
    return not factors or all(n * f == size for n, f, size in zip(there, factors, sizes, strict=True))


def _weights(node: torch.fx.Node, axis: int) -> np.ndarray:
    """The weights of a resize along rows (axis 0) or columns (axis 1), (outputs, inputs) float32: PyTorch's result for
    the unit matrix, whose width stays.
    """
    n, size, factors = _sizes(node.args[0])[axis], _sizes(node)[axis], _factors(node, 3)
    limits.check_tensor(n * max(n, size), torch.float32.itemsize, f"the weights of {node.name}")
    found = torch.nn.functional.interpolate(
        torch.eye(n)[None, None],
        **({"scale_factor": (factors[axis], 1.0)} if factors else {"size": (size, n)}),
        mode="bicubic" if "bicubic" in node.target.__name__ else "bilinear",
        align_corners=node.args[2],
        antialias="_aa." in node.target.__name__,
    )
    return found[0, 0].numpy()


def _dtype(value) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
