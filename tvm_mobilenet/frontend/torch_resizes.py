"""Converters for PyTorch's resizes. TVM's importer takes other positions, or leaves out a filter.

PyTorch computes positions from the factor, if a resize has one, and rounds the size of the output down. So positions
follow from the sizes only if the size was not rounded.
"""

from __future__ import annotations

import numpy as np
import torch
from tvm import relax

from tvm_mobilenet.files import limits


def _nearest(importer, own, node: torch.fx.Node) -> relax.Var:
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


def _bilinear(importer, own, node: torch.fx.Node) -> relax.Var:
    """TVM's importer computes positions from the sizes, which is right if corners are aligned too."""
    factors = _factors(node, 3)
    followed = [n * factor for n, factor in zip(_sizes(node.args[0]), factors, strict=False)]
    if node.args[2] or not factors or followed == _sizes(node):
        return own(node)
    return _weighted(importer, own, node)


def _weighted(importer, own, node: torch.fx.Node) -> relax.Var:
    """A resize as two products with PyTorch's weights, those of rows and those of columns. TVM's importer leaves out
    the filter of an antialiased one.
    """
    rows, columns = (relax.const(w) for w in (_weights(node, 0), _weights(node, 1).T.copy()))
    x = importer.block_builder.emit(relax.op.matmul(rows, importer.env[node.args[0]]))
    return importer.block_builder.emit(relax.op.matmul(x, columns))


CONVERTERS = {
    "upsample_nearest2d.vec": _nearest,
    "_upsample_nearest_exact2d.vec": _nearest,
    "upsample_bilinear2d.vec": _bilinear,
    "upsample_bicubic2d.vec": _weighted,
    "_upsample_bilinear2d_aa.default": _weighted,
    "_upsample_bicubic2d_aa.default": _weighted,
}


def _sizes(node: torch.fx.Node) -> list[int]:
    """Height and width of a node's feature map."""
    return [int(n) for n in node.meta["val"].shape[2:]]


def _factors(node: torch.fx.Node, place: int) -> list[float]:
    """The factors of a resize, from this argument on; empty if it has sizes only."""
    given = node.args[place:]
    return [f for f in (given[0] if given and isinstance(given[0], list) else given) if f is not None]


def _places(node: torch.fx.Node, axis: int) -> list[int]:
    """The rows (axis 0) or columns (axis 1) that a resize by nearest neighbour takes, found by PyTorch."""
    rows = torch.arange(_sizes(node.args[0])[axis], dtype=torch.float32)[None, None, :, None]
    mode = "nearest-exact" if "exact" in node.target.__name__ else "nearest"
    return _resized(rows, node, axis, _factors(node, 2), mode=mode).reshape(-1).long().tolist()


def _weights(node: torch.fx.Node, axis: int) -> np.ndarray:
    """The weights of a resize along rows (axis 0) or columns (axis 1), (outputs, inputs) float32: PyTorch's result for
    the unit matrix, whose width stays.
    """
    n, size, name = _sizes(node.args[0])[axis], _sizes(node)[axis], node.target.__name__
    limits.check_tensor(n * max(n, size), torch.float32.itemsize, f"the weights of {node.name}")
    mode = "bicubic" if "bicubic" in name else "bilinear"
    how = {"mode": mode, "align_corners": node.args[2], "antialias": "_aa." in name}
    return _resized(torch.eye(n)[None, None], node, axis, _factors(node, 3), **how)[0, 0].numpy()


def _resized(x: torch.Tensor, node: torch.fx.Node, axis: int, factors: list[float], **how) -> torch.Tensor:
    """PyTorch's resize of the rows of ``x`` (1, 1, rows, columns), as the node resizes this axis; columns stay."""
    to = {"scale_factor": (factors[axis], 1.0)} if factors else {"size": (_sizes(node)[axis], x.shape[3])}
    return torch.nn.functional.interpolate(x, **to, **how)
