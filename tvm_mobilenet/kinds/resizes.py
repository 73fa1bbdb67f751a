"""Resizes of feature maps: the rows and columns that each output position reads, in whole numbers.

ONNX's coordinate transformations are all linear, so output position i lies at ``(step * i + offset) / unit`` of the
data. This quotient is exact here. Frameworks compute it in float32, and for sizes such as 40 to 26 round a position
that lies halfway between two values the other way.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import numpy as np

MODES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_half_pixel")
ROUNDINGS = ("floor", "ceil", "prefer_floor", "prefer_ceil")
NEAREST = {f"{mode}_{rounding}": (mode, rounding) for mode in MODES for rounding in ROUNDINGS}


@dataclass(frozen=True)
class Positions:
    """The positions in the data of one axis of the output.

    Attributes
    ----------
    step, offset, unit : int
        Output position i lies at ``(step * i + offset) / unit``.
    last : int
        The last index of the data; indices beyond either end become that end.
    blends : bool
        Whether an output is a weighted mean of two neighbours; otherwise it is the value at or before its position.
    """

    step: int
    offset: int
    unit: int
    last: int
    blends: bool

    @property
    def period(self) -> int:
        """The number of outputs after which neighbours and weights repeat."""
        return self.unit // gcd(self.step, self.unit)

    def before(self, i: int) -> int:
        """The index at or before an output position; it may lie outside the data."""
        return (self.step * i + self.offset) // self.unit

    def read(self, i: int) -> tuple[int, int | None, float]:
        """The index that an output reads, the one that it is blended with, and the share of that one; None and 0 if it
        is a copy.
        """
        low = min(max(self.before(i), 0), self.last)
        high, rest = min(max(self.before(i) + 1, 0), self.last), (self.step * i + self.offset) % self.unit
        if not self.blends or low == high or not rest:
            return low, None, 0.0
        return low, high, float(np.float32(rest) / np.float32(self.unit))


def positions(layer, axis: int) -> Positions:
    """The positions of a layer's rows (axis 0) or columns (axis 1)."""
    n, m = (layer.height, layer.width)[axis], layer.size[axis]
    mode, rounding = NEAREST.get(layer.op, (layer.op, ""))
    step, offset, unit = _exact(mode, n, m)
    if rounding in ("prefer_floor", "prefer_ceil"):  # a half is added
        step, offset, unit = 2 * step, 2 * offset + unit, 2 * unit
    if rounding == "ceil":
        offset += unit - 1
    if rounding == "prefer_floor":
        offset -= 1  # halves stay below
    common = gcd(step, unit)
    if rounding or offset % common == 0:  # the index at or before a position does not depend on the rest
        step, offset, unit = step // common, offset // common, unit // common
    blends = not rounding and n > 1 and (step % unit > 0 or offset % unit > 0)
    return Positions(step, offset, unit, n - 1, blends)


def _exact(mode: str, n: int, m: int) -> tuple[int, int, int]:
    if mode == "asymmetric":
        return n, 0, m
    if mode == "tf_half_pixel":
        return 2 * n, n, 2 * m
    if m == 1 and mode in ("align_corners", "pytorch_half_pixel"):
        return 0, 0, 1
    return (n - 1, 0, m - 1) if mode == "align_corners" else (2 * n, n - m, 2 * m)


def pattern(op: Callable[[str, str], str], kind: str, method: str):
    """The pattern of a kind for Relax's resizes by ``method``; ``op(mode, rounding)`` gives the layer's op."""

    def make_layer(make, call):
        attrs = call.attrs
        if str(attrs.method) != method:
            return None
        mode, rounding = str(attrs.coordinate_transformation_mode), str(attrs.rounding_method)
        mode = "tf_half_pixel" if mode == "tf_half_pixel_for_nn" else mode
        rounding = rounding or ("round" if mode == "align_corners" else "floor")
        rounding = "prefer_ceil" if rounding == "round" else rounding.removeprefix("round_")
        if mode not in MODES or rounding not in ROUNDINGS:
            raise make.Unsupported(f"positions by {mode} and {rounding}")
        x, nhwc = make.tensor(call.args[0]), str(attrs.layout) == "NHWC"
        x = make.nhwc(x.permuted([0, 3, 1, 2]) if nhwc else x)
        n, c, h, w = x.shape
        size = make.shape_of(call)[1:3] if nhwc else make.shape_of(call)[2:]
        if mode == "pytorch_half_pixel" and min(size) > 1:
            mode = "half_pixel"
        sizes = {"height": h, "width": w, "channels": c, "out_channels": c, "batch": n, "size": tuple(size)}
        return make.feature_map(call, make.layer(kind=kind, op=op(mode, rounding), **sizes), x, nhwc=nhwc)

    return make_layer


def reference(layer, x, weight, bias, second):
    """The resize of a float64 tensor, channels second: rows, then columns."""
    import torch

    for axis in (0, 1):
        reads = [positions(layer, axis).read(i) for i in range(layer.size[axis])]
        low, high = ([read[end] for read in _filled(reads)] for end in (0, 1))
        share = torch.tensor([read[2] for read in reads], dtype=x.dtype)
        share = share.reshape(-1, 1) if axis == 0 else share
        x = x.index_select(2 + axis, torch.tensor(low)) * (1 - share) + (
            x.index_select(2 + axis, torch.tensor(high)) * share
        )
    return x


def _filled(reads: list) -> list:
    return [(low, low if high is None else high, share) for low, high, share in reads]


def stepped(layer, x, weight, bias, second, steps):
    """The same in the order of the kernel: a difference, then its share is added in one step; channels last."""
    for axis in (0, 1):
        reads = [positions(layer, axis).read(i) for i in range(layer.size[axis])]
        low, high = (x.take([read[end] for read in _filled(reads)], 1 + axis) for end in (0, 1))
        shape = [-1 if a == 1 + axis else 1 for a in range(4)]
        share = np.array([steps.const(read[2]) for read in reads]).reshape(shape)
        x = steps.round(low + steps.round(high - low) * share)
    return x
