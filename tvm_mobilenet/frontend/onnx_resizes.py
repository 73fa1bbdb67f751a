"""ONNX's Resize: by TVM where its sizes determine its positions, else by ONNX Runtime's own positions and weights.

TVM's converter does not know empty operands, resizes only the last two dimensions, and computes from sizes, so scales
without whole sizes would give other values. Such a resize takes values (nearest neighbour), or is a product with the
weights of each axis.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend.onnx_arguments import array_of, is_empty, text
from tvm_mobilenet.frontend.positions import along

_WHERE, _CROP = "coordinate_transformation_mode", "tf_crop_and_resize"


def resize(bb, inputs, attrs: dict, otherwise: Callable) -> relax.Expr:
    """The Relax expression of a Resize, see `onnx_operators`."""
    given = type(inputs)  # it gives None for missing inputs
    inputs = given(None if i and x is not None and is_empty(x) else x for i, x in enumerate(inputs))
    x, axes = inputs[0], [int(a) for a in attrs.pop("axes", ())]
    shape = [int(d) for d in x.ty.shape]
    axes = [a % len(shape) for a in axes] or list(range(len(shape)))
    scales, wanted, whole = _wanted(shape, axes, inputs, attrs)
    places = text(attrs.get(_WHERE, "half_pixel"))
    changed = [a for a in range(len(shape)) if wanted[a] != shape[a]]
    if places == _CROP and isinstance(inputs[1], tvm.ir.Constant):
        return _cropped(bb, x, axes, array_of(inputs[1]), scales, wanted, attrs)
    if places == _CROP and axes != list(range(len(shape))):
        raise ValueError("a part of some axes that is computed; export it with a constant roi")
    if places != _CROP:
        if whole and not changed:
            return x
        last = all(a >= len(shape) - 2 for a in changed) or (len(shape) == 4 and changed in ([1], [2], [1, 2]))
        if not whole or attrs.get("antialias") or not last or len(shape) < 3:
            return _weighed(bb, x, _all_positions(places, shape, wanted, scales), scales, attrs)
    if places == "half_pixel_symmetric":
        attrs[_WHERE] = b"half_pixel"  # equivalent for whole sizes
    nhwc = len(shape) == 4 and 1 in changed  # TVM's importer does not know this
    if nhwc:
        x, wanted = bb.emit(relax.op.permute_dims(x, [0, 3, 1, 2])), [wanted[a] for a in (0, 3, 1, 2)]
    # a single row of align_corners is the first row; TVM would divide by the number of rows minus one
    alone = [a for a in range(2, len(wanted)) if wanted[a] == 1 and places == "align_corners"]
    first = [0] * len(alone)
    if alone:
        x = bb.emit(relax.op.strided_slice(x, alone, first, [1] * len(alone)))
    sizes = [2 if a in alone else size for a, size in enumerate(wanted)]
    if [int(d) for d in x.ty.shape] != wanted:
        x = bb.emit(otherwise(given([x, inputs[1], None, relax.const(np.array(sizes, np.int64), "int64")])))
        x = bb.emit(relax.op.strided_slice(x, alone, first, [1] * len(alone))) if alone else x
    return relax.op.permute_dims(x, [0, 2, 3, 1]) if nhwc else x


def _wanted(shape: list[int], axes: list[int], inputs, attrs: dict) -> tuple[np.ndarray, list[int], bool]:
    """The scale and the size of each axis, and whether the scales make whole sizes."""
    policy = text(attrs.pop("keep_aspect_ratio_policy", "stretch"))
    scales, wanted = np.ones(len(shape)), list(shape)
    if len(inputs) > 2 and inputs[2] is not None:
        scales[axes] = array_of(inputs[2]).astype(np.float64)
        sizes = scales * shape
        if np.abs(sizes - np.round(sizes)).max() <= 1e-3:
            return scales, [int(s) for s in np.round(sizes)], True
        return scales, [int(np.float32(n) * np.float32(s)) for n, s in zip(shape, scales, strict=True)], False
    for axis, size in zip(axes, array_of(inputs[3]), strict=True):
        wanted[axis], scales[axis] = int(size), int(size) / shape[axis]
    if policy == "stretch":
        return scales, wanted, True
    one = (min if policy == "not_larger" else max)(scales[axis] for axis in axes)
    for axis in axes:
        scales[axis], wanted[axis] = one, int(np.floor(one * shape[axis] + 0.5))
    return scales, wanted, all(wanted[a] == one * shape[a] for a in axes)


def _cropped(bb, x: relax.Expr, axes: list[int], part: np.ndarray, scales, wanted: list[int], attrs) -> relax.Expr:
    """A resize of a part of the data, whose ends are given as shares of each axis; other values lie outside of it."""
    shape, ends = [int(d) for d in x.ty.shape], part.astype(np.float32).reshape(2, -1).T
    places: list[np.ndarray | None] = [None] * len(shape)
    outside = np.zeros(wanted, bool)
    for axis, (start, end) in zip(axes, ends, strict=True):
        n, size = shape[axis], wanted[axis]
        at, last = np.arange(size, dtype=np.float32), np.float32(n - 1)
        if size > 1:
            at = start * last + at * ((end - start) * last / np.float32(size - 1))
        else:
            at = np.full(1, np.float32(0.5) * (start + end) * last, np.float32)
        places[axis] = None if np.array_equal(at, np.arange(n)) else at
        outside |= ((at < 0) | (at > last)).reshape(along(axis, len(shape)))
    made = _weighed(bb, x, places, scales, attrs)
    if not outside.any():
        return made
    limits.check_tensor(outside.size, 1, "the mask of a Resize")
    beside = relax.const(float(attrs.get("extrapolation_value", 0.0)), str(x.ty.dtype))
    return relax.op.where(relax.const(outside, "bool"), beside, made)


def _weighed(bb, x: relax.Expr, places: list[np.ndarray | None], scales: np.ndarray, attrs: dict) -> relax.Expr:
    """A resize of each axis by itself: the values at positions in the data. An axis without positions stays."""
    mode, rounding = text(attrs.get("mode", "nearest")), text(attrs.get("nearest_mode", "round_prefer_floor"))
    for axis, (at, scale) in enumerate(zip(places, scales.astype(np.float32), strict=True)):
        n = int(x.ty.shape[axis])
        if at is None:
            continue
        if mode == "nearest":
            index = _ROUNDED[rounding](at).clip(0, n - 1).astype(np.int64)
            x = bb.emit(relax.op.take(x, relax.const(index, "int64"), axis))
            continue
        limits.check_tensor(n * len(at), at.itemsize, "the weights of a Resize")
        x = _along(bb, x, axis, _weights(at, n, scale, mode, attrs))
    return x


def _along(bb, x: relax.Expr, axis: int, weights: np.ndarray) -> relax.Expr:
    """The product of weights (outputs, inputs) with an axis."""
    rank = len(x.ty.shape)
    if axis == rank - 2:
        return bb.emit(relax.op.matmul(relax.const(weights), x))
    order = [a for a in range(rank) if a != axis] + [axis]
    moved = x if axis == rank - 1 else bb.emit(relax.op.permute_dims(x, order))
    made = bb.emit(relax.op.matmul(moved, relax.const(weights.T.copy())))
    return made if axis == rank - 1 else bb.emit(relax.op.permute_dims(made, [order.index(a) for a in range(rank)]))


def _all_positions(where: str, shape: list[int], wanted: list[int], scales: np.ndarray) -> list[np.ndarray | None]:
    """ONNX Runtime's positions for each axis, which follow from its scale; None for one that stays."""
    each = zip(shape, wanted, scales.astype(np.float32), strict=True)
    return [None if scale == 1 and size == n else _positions(where, n, size, scale) for n, size, scale in each]


def _positions(where: str, n: int, size: int, scale: np.float32) -> np.ndarray:
    """The position in the data of each value of the result, float32."""
    at = np.arange(size, dtype=np.float32)
    if where == "asymmetric":
        return at / scale
    if where == "align_corners":
        return at * np.float32((n - 1) / (size - 1)) if size > 1 else at * 0
    at = (at + np.float32(0.5)) / scale - np.float32(0.5)
    if where == "half_pixel_symmetric":
        return at + np.float32(n / 2 * (1 - size / (float(scale) * n)))
    if where == "pytorch_half_pixel":
        return at * (size > 1)
    if where != "half_pixel":
        raise ValueError(f"{where} with these sizes; export it with sizes of rows and columns")
    return at


def _weights(at: np.ndarray, n: int, scale: np.float32, mode: str, attrs: dict) -> np.ndarray:
    """The share of each value of the data in each value of the result, (outputs, inputs) float32."""
    wide = max(1.0, 1.0 / float(scale)) if attrs.get("antialias") else 1.0
    kernel, reach = (_triangle, 1) if mode == "linear" else (_keys(float(attrs.get("cubic_coeff_a", -0.75))), 2)
    if mode == "linear" and wide == 1:
        at = at.clip(0, n - 1)
    at = at.astype(np.float64)
    first = np.floor(at - reach * wide).astype(np.int64)
    weights, rows = np.zeros((len(at), n)), np.arange(len(at))
    inside = bool(attrs.get("exclude_outside"))
    for i in range(2 * int(np.ceil(reach * wide)) + 2):
        taps = first + i
        share = kernel((taps - at) / wide)
        if inside:
            share = np.where((taps >= 0) & (taps < n), share, 0)
        np.add.at(weights, (rows, taps.clip(0, n - 1)), share)
    if inside or attrs.get("antialias"):
        weights /= weights.sum(1, keepdims=True)
    return weights.astype(np.float32)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _keys(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """The cubic of Keys (1981), with this coefficient."""

    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0))

    return kernel


_ROUNDED = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
}
