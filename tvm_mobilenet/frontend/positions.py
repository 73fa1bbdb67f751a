"""Values that are read or written at positions, as GatherND, ScatterElements and ``index_put`` do.

TVM's loop nests read and write wherever a position says. Positions that an input has may lie outside of the data, so
they are moved to the nearest value inside, and negative ones count from the end. TVM's `scatter_elements` also takes a
smaller tensor of positions for one of the data's size, unless it differs along the axis alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits

op = relax.op
_ITEM_BYTES = 8  # bytes of a position


def inside(bb: relax.BlockBuilder, positions: relax.Expr, sizes: int | Sequence[int]) -> relax.Expr:
    """Positions in an axis, or one for each of several axes in the last dimension, as int64, none of them outside.

    Parameters
    ----------
    positions : (...) or (..., n) of integers
    sizes : int, or n of them
    """
    positions = _wide(bb, positions)
    size, most, zero = (relax.const(np.array(given, np.int64), "int64") for given in (sizes, np.array(sizes) - 1, 0))
    backwards = bb.emit(op.less(positions, zero))
    positions = bb.emit(op.where(backwards, bb.emit(op.add(positions, size)), positions))
    return bb.emit(op.maximum(bb.emit(op.minimum(positions, most)), zero))


def gathered(bb: relax.BlockBuilder, x: relax.Expr, positions: relax.Expr, batch_dims: int = 0) -> relax.Expr:
    """GatherND: the values at positions (..., n), which count in n dimensions after the batch's."""
    count = int(positions.ty.shape[-1])
    return op.gather_nd(x, inside(bb, positions, sizes_of(x)[batch_dims : batch_dims + count]), batch_dims)


def gathered_elements(bb: relax.BlockBuilder, x: relax.Expr, positions: relax.Expr, axis: int) -> relax.Expr:
    """GatherElements: ``x[i, positions[i, j], ...]``."""
    axis %= len(x.ty.shape)
    return op.gather_elements(x, inside(bb, positions, sizes_of(x)[axis]), axis)


def scattered(
    bb: relax.BlockBuilder, x: relax.Expr, positions: relax.Expr, updates: relax.Expr, how: str = "update"
) -> relax.Expr:
    """ScatterND: the data with updates (..., rest) at positions (..., n) in its first n dimensions.

    Parameters
    ----------
    how : str
        ``update``, ``add``, ``mul``, ``min`` or ``max``.
    """
    count = int(positions.ty.shape[-1])
    return op.scatter_nd(x, inside(bb, positions, sizes_of(x)[:count]), updates, how)


def scattered_elements(
    bb: relax.BlockBuilder, x: relax.Expr, positions: relax.Expr, updates: relax.Expr, axis: int, how: str = "update"
) -> relax.Expr:
    """ScatterElements: the data with ``updates[i, j]`` at ``[i, positions[i, j]]``."""
    size, given = sizes_of(x), sizes_of(positions)
    axis %= len(size)
    if sizes_of(updates) != given:  # PyTorch ignores the rest of its values
        axes = list(range(len(given)))
        updates = bb.emit(op.strided_slice(updates, axes, [0] * len(axes), given))
    if all(a == b for i, (a, b) in enumerate(zip(size, given, strict=True)) if i != axis):
        return op.scatter_elements(x, inside(bb, positions, size[axis]), updates, axis, how)
    count = math.prod(given)
    limits.check_tensor(count * len(size), _ITEM_BYTES, "the positions of a scatter")
    grid = np.moveaxis(np.indices(given), 0, -1).reshape(count, len(size))
    columns = [relax.const(np.array(grid[:, [i]], np.int64), "int64") for i in range(len(size))]
    columns[axis] = _wide(bb, bb.emit(op.reshape(positions, (count, 1))))
    where = bb.emit(op.concat(columns, 1))
    return scattered(bb, x, where, bb.emit(op.reshape(updates, (count,))), how)


def put(
    bb: relax.BlockBuilder, x: relax.Expr, indices: Sequence[relax.Expr | None], values: relax.Expr, add: bool
) -> relax.Expr:
    """PyTorch's ``index_put``: the data with values at ``[i, :, j]``, with None for a whole axis."""
    rank = len(x.ty.shape)
    indices = [*indices, *[None] * (rank - len(indices))]
    taken = [axis for axis in range(rank) if indices[axis] is not None]
    rest = [axis for axis in range(rank) if indices[axis] is None]
    together = list(np.broadcast_shapes(*(tuple(sizes_of(indices[axis])) for axis in taken)))
    columns = [
        bb.emit(op.expand_dims(bb.emit(op.broadcast_to(_wide(bb, indices[axis]), together)), len(together)))
        for axis in taken
    ]
    where = bb.emit(op.concat(columns, -1)) if len(columns) > 1 else columns[0]
    adjacent = taken == list(range(taken[0], taken[0] + len(taken)))
    first = taken[0] if adjacent else 0  # where the broadcast dimensions stand among the values'
    size = sizes_of(x)
    kept = [size[axis] for axis in rest]
    values = bb.emit(op.broadcast_to(values, [*kept[:first], *together, *kept[first:]]))
    order = [
        *range(first, first + len(together)),
        *range(first),
        *range(first + len(together), len(together) + len(kept)),
    ]
    values = bb.emit(op.permute_dims(values, order))
    moved = [*taken, *rest]
    made = bb.emit(scattered(bb, bb.emit(op.permute_dims(x, moved)), where, values, "add" if add else "update"))
    return op.permute_dims(made, [moved.index(axis) for axis in range(rank)])


def _wide(bb: relax.BlockBuilder, index: relax.Expr) -> relax.Expr:
    return index if str(index.ty.dtype) == "int64" else bb.emit(op.astype(index, "int64"))


def sizes_of(x: relax.Expr) -> list[int]:
    """The sizes of a tensor's dimensions."""
    return [int(d) for d in x.ty.shape]


def along(axis: int, rank: int) -> list[int]:
    """The shape of a row of values that lies along an axis, beside tensors of so many dimensions."""
    return [-1 if a == axis else 1 for a in range(rank)]
