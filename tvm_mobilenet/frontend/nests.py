"""Loop nests for operators that TVM computes by calls of its own runtime, or not at all: sorting and indexing.

A device has no TVM runtime. `places` sorts by comparing each value with all others of its row, which suits rows of a
thousand class scores. `indexed` reads the values at given positions, and never outside of its data.
"""

from __future__ import annotations

from collections.abc import Sequence

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

        def before(a, b, i, j):
            """Whether value b at j comes before value a at i."""
            first = b > a if largest else b < a
            return tirx.any(first, tirx.all(b == a, j < i))

        def number(*at):
            j = te.reduce_axis((0, size), "j")
            other = data(*at[:axis], j, *at[axis + 1 :])
            return te.sum(before(data(*at), other, at[axis], j).astype("int32"), axis=j)

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
