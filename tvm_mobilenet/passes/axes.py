"""The place in memory of a tensor's logical dimensions.

An imported graph has NCHW tensors, which it flattens, permutes and squeezes; memory is channels-last. A `Tensor`
records both: ``stored`` is the order of its axes in memory, ``dims`` the axes that make up each logical dimension. A
permute then costs nothing. The flatten of a feature map becomes a dimension of three axes, until the weights behind it
are reordered. Axes of size one have no place in memory and are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


class Axis:
    """One axis of size two or more, or the outer or inner part of a ``whole`` axis. Two axes are equal only if they are
    the same object.
    """

    def __init__(self, size: int, whole: Axis | None = None):
        self.size, self.whole = size, whole
        self._parts: dict[int, tuple[Axis, Axis]] = {}

    def parts(self, outer: int) -> tuple[Axis, Axis]:
        """Its outer part, of the given size, and its inner part. Every call returns the same two objects."""
        if outer not in self._parts:
            self._parts[outer] = Axis(outer, self), Axis(self.size // outer, self)
        return self._parts[outer]


Dim = tuple[Axis, ...]


def dim(size: int) -> Dim:
    """A new dimension of one new axis, or of none if its size is one."""
    return (Axis(size),) if size != 1 else ()


@dataclass(frozen=True)
class Tensor:
    """A value, and the way to read it.

    Parameters
    ----------
    value : str
        The name of the value (`layer_graph.LayerCall.output` or an input of main).
    nhwc : (int, int, int, int)
        The shape in which it was written, row-major.
    stored : tuple of Axis
        Its axes, slowest first.
    dims : tuple of tuple of Axis
        The axes of each logical dimension, slowest first.
    """

    value: str
    nhwc: tuple[int, int, int, int]
    stored: tuple[Axis, ...]
    dims: tuple[Dim, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(a.size for a in d) for d in self.dims)

    @property
    def contiguous(self) -> bool:
        """Whether memory is in logical order."""
        return flat(self.dims) == self.stored

    @property
    def layout(self) -> str | None:
        """The layout in memory of a logical (N, C, H, W): NHWC, NCHW or neither."""
        if len(self.dims) != 4:
            return None
        n, c, h, w = self.dims
        return {flat((n, c, h, w)): "NCHW", flat((n, h, w, c)): "NHWC"}.get(self.stored)

    @property
    def order(self) -> tuple[int, ...] | None:
        """The logical dimensions in their order in memory; None if the axes of one are not adjacent."""
        if self.layout == "NHWC":
            return 0, 2, 3, 1
        filled = [i for i, d in enumerate(self.dims) if d]
        found = [i for i, d in enumerate(self.dims) if not d]
        found += sorted(filled, key=lambda i: self.stored.index(self.dims[i][0]))
        return tuple(found) if flat(self.dims[i] for i in found) == self.stored else None

    def permuted(self, order: list[int] | None) -> Tensor:
        """The same memory with its logical dimensions in another order; None: the last first."""
        order = range(len(self.dims))[::-1] if order is None else order
        return Tensor(self.value, self.nhwc, self.stored, tuple(self.dims[i] for i in order))

    def reshaped(self, shape: tuple[int, ...]) -> Tensor | None:
        """The same memory in another logical shape, with axes cut or joined as needed; None if that needs a copy."""
        dims, axes, cut = [], list(flat(self.dims)), {}
        for size in shape if prod(shape) else ():  # a tensor without values has no order
            taken: list[Axis] = []
            while (left := size // prod(a.size for a in taken)) > 1 and axes:
                axis = axes.pop(0)
                if axis.size > left and axis.size % left == 0:
                    cut[axis] = axis.parts(left)
                    axis, rest = cut[axis]
                    axes.insert(0, rest)
                taken.append(axis)
            dims.append(tuple(taken))
        if tuple(prod(a.size for a in d) for d in dims) == tuple(shape) and not axes:
            return Tensor(self.value, self.nhwc, _cut(self.stored, cut), tuple(dims))._joined()
        return fresh(self.value, self.nhwc, shape) if self.contiguous else None

    def _joined(self) -> Tensor:
        """The tensor with both parts of an axis replaced by that axis, if they are adjacent in memory and in a
        dimension.
        """
        dims, stored = [list(d) for d in self.dims], list(self.stored)
        for found in dims:
            i = 0
            while i + 1 < len(found):
                first, second = found[i : i + 2]
                at = stored.index(first)
                if first.whole is not None and first.whole is second.whole and stored[at + 1 : at + 2] == [second]:
                    found[i : i + 2] = stored[at : at + 2] = [first.whole]
                    i = max(0, i - 1)
                else:
                    i += 1
        return Tensor(self.value, self.nhwc, tuple(stored), tuple(map(tuple, dims)))

    def with_axes_of(self, other: Tensor) -> Tensor | None:
        """This tensor with the axes of another of the same shape; None if their dimensions divide differently."""
        renamed = {}
        for mine, theirs in zip(self.dims, other.dims, strict=True):
            if [a.size for a in mine] != [a.size for a in theirs]:
                return None
            renamed.update(zip(mine, theirs, strict=True))
        return Tensor(self.value, self.nhwc, tuple(renamed[a] for a in self.stored), other.dims)


def fresh(value: str, nhwc: tuple[int, int, int, int], shape: tuple[int, ...]) -> Tensor:
    """A tensor of new axes, whose memory is in logical order."""
    dims = tuple(dim(s) for s in shape)
    return Tensor(value, nhwc, flat(dims), dims)


def _cut(axes: tuple[Axis, ...], cut: dict[Axis, tuple[Axis, Axis]]) -> tuple[Axis, ...]:
    """The axes, with each axis in ``cut`` replaced by its parts."""
    return tuple(part for a in axes for part in (_cut(cut[a], cut) if a in cut else (a,)))


def flat(dims) -> tuple[Axis, ...]:
    """The axes of several dimensions, in order."""
    return tuple(a for d in dims for a in d)
