"""Loop nests for operators that TVM computes by calls of its own runtime, or not at all: sorting and indexing.

A device has no TVM runtime. `places` sorts by comparing each value with all others of its row, which suits rows of a
thousand class scores. `indexed` reads the values at given positions, and never outside of its data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import tvm
from tvm import relax, te, tirx


def places(bb: relax.BlockBuilder, x: relax.Expr, axis: int, count: int, largest: bool) -> relax.Var:
    """The positions of the ``count`` largest or smallest values along an axis, in order, int64. Of equal values the
    first comes first. A ValueError if there are fewer values.
    """
    rank = len(x.ty.shape)
    axis %= rank
    if count > int(x.ty.shape[axis]):
        raise ValueError(f"it takes {count} of {int(x.ty.shape[axis])} values")

    def nest(data: te.Tensor) -> te.Tensor:
        size = int(data.shape[axis])
        of = (lambda *at: data(*at).astype("int8")) if data.dtype == "bool" else data  # LLVM does not compare truths

        def before(a, b, i, j):
            """Whether value b at j comes before value a at i."""
            first = b > a if largest else b < a
            return tirx.any(first, tirx.all(b == a, j < i))

        def number(*at):
            j = te.reduce_axis((0, size), "j")
            other = of(*at[:axis], j, *at[axis + 1 :])
            return te.sum(before(of(*at), other, at[axis], j).astype("int32"), axis=j)

        ranks = te.compute(data.shape, number, "ranks")

        def place(*at):  # the maximum keeps it inside the data, whatever NaN does to the ranks
            i = te.reduce_axis((0, size), "i")
            own = ranks(*at[:axis], i, *at[axis + 1 :])
            return te.max(tirx.Select(own == at[axis], i, 0).astype("int64"), axis=i)

        return te.compute([*data.shape[:axis], count, *data.shape[axis + 1 :]], place, "places")

    return bb.emit_te(nest, x, primfunc_name_hint="places")


def ranked(bb: relax.BlockBuilder, x: relax.Expr, axis: int, count: int, largest: bool) -> tuple[relax.Var, relax.Var]:
    """The ``count`` largest or smallest values along an axis, in order, and their positions."""
    where = places(bb, x, axis, count, largest)
    return bb.emit(relax.op.gather_elements(x, where, axis % len(x.ty.shape))), where


def extremes_so_far(bb: relax.BlockBuilder, x: relax.Expr, axis: int, largest: bool) -> tuple[relax.Var, relax.Var]:
    """The largest or smallest value up to each along an axis, and its place, int64: of equal values the last one's."""
    axis %= len(x.ty.shape)

    def values(data: te.Tensor) -> te.Tensor:
        def value(*at):
            j = te.reduce_axis((0, data.shape[axis]), "j")
            there = data(*at[:axis], tirx.min(j, at[axis]), *at[axis + 1 :])
            return (te.max if largest else te.min)(there, axis=j)

        return te.compute(data.shape, value, "so_far")

    def places(data: te.Tensor, extreme: te.Tensor) -> te.Tensor:
        def place(*at):
            j = te.reduce_axis((0, data.shape[axis]), "j")
            before = tirx.min(j, at[axis])
            same = data(*at[:axis], before, *at[axis + 1 :]) == extreme(*at)
            return te.max(tirx.Select(same, before.astype("int64"), tirx.const(0, "int64")), axis=j)

        return te.compute(data.shape, place, "places")

    found = bb.emit_te(values, x, primfunc_name_hint="so_far")
    return found, bb.emit_te(places, x, found, primfunc_name_hint="places_so_far")


def largest_of_windows(bb: relax.BlockBuilder, x: relax.Expr, sizes: Sequence[int]) -> tuple[relax.Var, relax.Var]:
    """The largest value of each of ``sizes`` windows over the last dimensions, which may overlap and differ in size, as
    PyTorch's adaptive pools have them; and its first place in the whole of these dimensions, int64.
    """
    there = [int(d) for d in x.ty.shape][-len(sizes) :]
    longest = [max(-(-(i + 1) * n // m) - i * n // m for i in range(m)) for n, m in zip(there, sizes, strict=True)]

    def window(at) -> tuple[list, list]:
        """Axes to reduce along, and the positions in the data for each of them: the last one repeats."""
        axes = [te.reduce_axis((0, size), "r") for size in longest]
        starts = [i * n // m for i, n, m in zip(at, there, sizes, strict=True)]
        ends = [((i + 1) * n + m - 1) // m for i, n, m in zip(at, there, sizes, strict=True)]
        return axes, [tirx.min(a + r, b - 1) for a, r, b in zip(starts, axes, ends, strict=True)]

    def values(data: te.Tensor) -> te.Tensor:
        def value(*at):
            axes, where = window(at[-len(sizes) :])
            return te.max(data(*at[: -len(sizes)], *where), axis=axes)

        return te.compute([*data.shape[: -len(sizes)], *sizes], value, "largest")

    def places(data: te.Tensor, largest: te.Tensor) -> te.Tensor:
        def place(*at):
            axes, where = window(at[-len(sizes) :])
            return _first_place(data(*at[: -len(sizes)], *where) == largest(*at), where, there, axes)

        return te.compute(largest.shape, place, "places")

    found = bb.emit_te(values, x, primfunc_name_hint="largest")
    return found, bb.emit_te(places, x, found, primfunc_name_hint="places_of_largest")


def places_in_windows(
    bb: relax.BlockBuilder,
    x: relax.Expr,
    largest: relax.Expr,
    kernel: Sequence[int],
    strides: Sequence[int],
    before: Sequence[int],
    dilations: Sequence[int],
) -> relax.Var:
    """The first place of the largest value of each of a pool's windows in its feature map, int64; ``before``: pads."""
    rank = len(kernel)
    there = [int(d) for d in x.ty.shape][-rank:]

    def nest(data: te.Tensor, pooled: te.Tensor) -> te.Tensor:
        def place(*at):
            axes = [te.reduce_axis((0, size), "r") for size in kernel]
            steps = zip(at[-rank:], strides, before, axes, dilations, strict=True)
            where = [i * stride - pad + r * dilation for i, stride, pad, r, dilation in steps]
            inside = tirx.all(*(tirx.all(i >= 0, i < n) for i, n in zip(where, there, strict=True)))
            kept = [tirx.max(tirx.min(i, n - 1), 0) for i, n in zip(where, there, strict=True)]
            same = tirx.all(inside, data(*at[:-rank], *kept) == pooled(*at))
            return _first_place(same, kept, there, axes)

        return te.compute(pooled.shape, place, "places")

    return bb.emit_te(nest, x, largest, primfunc_name_hint="places_in_windows")


def _first_place(is_one, where: list, there: Sequence[int], axes: list):
    """The least place among those of a window that ``is_one``, in the whole of dimensions of these sizes, int64."""
    last = tirx.const(math.prod(there) - 1, "int64")
    return te.min(tirx.Select(is_one, flat(where, there).astype("int64"), last), axis=axes)


def flat(at: Sequence, sizes: Sequence[int]):
    """The place in all of the values of dimensions of these sizes."""
    return reduce(lambda sum, each: sum * each[1] + each[0], zip(at, sizes, strict=True), 0)


def indexed(bb: relax.BlockBuilder, x: relax.Expr, indices: Sequence[relax.Expr | None]) -> relax.Var:
    """The values at positions, as numpy's indexing by arrays: ``x[i, :, j]``, with None for a whole axis.

    The index tensors are broadcast against each other. Negative indices count from the end. An index outside of the
    data, for which other frameworks raise an error, reads the nearest value.
    """
    shape = [int(d) for d in x.ty.shape]
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [[int(d) for d in indices[axis].ty.shape] for axis in axes]
    rank = max(map(len, given))
    padded = [[1] * (rank - len(sizes)) + sizes for sizes in given]
    together = [max(column) for column in zip(*padded, strict=True)]
    adjacent = axes == list(range(axes[0], axes[0] + len(axes)))
    first = axes[0] if adjacent else 0  # where the broadcast dimensions stand in the result
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    before = [axis for axis in rest if axis < first] if adjacent else []
    after = [axis for axis in rest if axis not in before]

    def nest(data: te.Tensor, *positions: te.Tensor) -> te.Tensor:
        def value(*at):
            common = at[len(before) : len(before) + rank]
            own = dict(zip([*before, *after], [*at[: len(before)], *at[len(before) + rank :]], strict=True))
            for axis, index, sizes in zip(axes, positions, padded, strict=True):
                places = [tvm.tirx.const(0, "int64") if size == 1 else i for i, size in zip(common, sizes, strict=True)]
                i = index(*places[rank - len(index.shape) :]).astype("int64")
                i = tirx.Select(i < 0, i + shape[axis], i)
                own[axis] = tirx.max(tirx.min(i, shape[axis] - 1), 0)
            return data(*(own[axis] for axis in range(len(shape))))

        sizes = [*(shape[axis] for axis in before), *together, *(shape[axis] for axis in after)]
        return te.compute(sizes, value, "indexed")

    return bb.emit_te(nest, x, *(indices[axis] for axis in axes), primfunc_name_hint="indexed")
