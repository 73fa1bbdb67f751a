"""TFLite's operators that cut, join or reshape tensors, in TFLite's own order."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import nests
from tvm_mobilenet.frontend.tflite_elementwise import own
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op


def reshape(call: Call) -> Value:
    """Reshape to the second operand, an option, or the file's shape of the output."""
    if call.has(1) and call.value(1).known is not None:
        shape = call.numbers(1)
    else:
        shape = list(call.options["new_shape"] or call.size)
    return own(call, op.reshape(call.own(0), filled(shape, prod(call.shape(0)))))


def filled(shape: list[int], size: int) -> tuple[int, ...]:
    """A shape with its one -1 computed."""
    known = prod(d for d in shape if d != -1)
    if shape.count(-1) > 1 or min(shape, default=0) < -1 or (known == 0 and size):
        raise ValueError(f"the shape {shape}")
    made = tuple(size // known if d == -1 else d for d in shape)
    if prod(made) != size:
        raise ValueError(f"the shape {shape} of {size} values")
    return made


def squeeze(call: Call) -> Value:
    """Drop dimensions of size one: the named ones, or all."""
    shape = call.shape(0)
    axes = [a % len(shape) for a in call.options["squeeze_dims"]] or [i for i, d in enumerate(shape) if d == 1]
    if any(shape[a] != 1 for a in axes):
        raise ValueError(f"dimensions {axes} of the shape {list(shape)}")
    return own(call, op.reshape(call.own(0), [d for i, d in enumerate(shape) if i not in axes]))


def expand_dims(call: Call) -> Value:
    """Add a dimension of size one."""
    (axis,) = call.numbers(1)
    shape = list(call.shape(0))
    shape.insert(axis % (len(shape) + 1), 1)
    return own(call, op.reshape(call.own(0), shape))


def transpose(call: Call) -> Value:
    """Permute the dimensions."""
    return own(call, op.permute_dims(call.own(0), call.numbers(1)))


def concatenation(call: Call) -> Value:
    """Concatenate along an axis."""
    rank = len(call.shape(0))
    parts = [call.own(i) for i in range(len(call.values))]
    return own(call, op.concat(parts, call.options["axis"] % rank) if len(parts) > 1 else parts[0])


def pack(call: Call) -> Value:
    """Stack along a new axis."""
    axis = call.options["axis"] % (len(call.shape(0)) + 1)
    parts = []
    for i in range(len(call.values)):
        shape = list(call.shape(i))
        shape.insert(axis, 1)
        parts.append(call.emit(op.reshape(call.own(i), shape)))
    return own(call, op.concat(parts, axis) if len(parts) > 1 else parts[0])


def _cut(call: Call, x: relax.Expr, axis: int, start: int, stop: int) -> relax.Expr:
    return call.emit(op.strided_slice(x, [axis], [start], [stop]))


def unpack(call: Call) -> list[Value]:
    """One value for each index of an axis, which is dropped."""
    shape = call.shape(0)
    axis = call.options["axis"] % len(shape)
    left = shape[:axis] + shape[axis + 1 :]
    pieces = (_cut(call, call.own(0), axis, i, i + 1) for i in range(shape[axis]))
    return [Value(own=call.emit(op.reshape(piece, left))) for piece in pieces]


def split(call: Call) -> list[Value]:
    """Equal parts along an axis."""
    (axis,) = call.numbers(0)
    axis, count = axis % len(call.shape(1)), call.options["num_splits"]
    size = call.shape(1)[axis]
    if count < 1 or size % count:
        raise ValueError(f"{count} parts of {size}")
    return _pieces(call, 1, axis, [size // count] * count)


def split_v(call: Call) -> list[Value]:
    """Parts of given sizes along an axis; a size of -1 means the rest."""
    (axis,) = call.numbers(2)
    axis, parts = axis % len(call.shape(0)), call.numbers(1)
    size = call.shape(0)[axis]
    left = size - sum(p for p in parts if p >= 0)
    return _pieces(call, 0, axis, [left if p == -1 else p for p in parts])


def _pieces(call: Call, data: int, axis: int, parts: list[int]) -> list[Value]:
    ends = np.cumsum([0, *parts])
    if min(parts) < 1 or ends[-1] != call.shape(data)[axis]:
        raise ValueError(f"parts {parts} of {call.shape(data)[axis]}")
    return [Value(own=_cut(call, call.own(data), axis, int(start), int(stop))) for start, stop in pairwise(ends)]


def sliced(call: Call) -> Value:
    """A piece, given by its start and size; a size of -1 extends to the end."""
    begin, size, shape = call.numbers(1), call.numbers(2), call.shape(0)
    end = [d if s == -1 else b + s for b, s, d in zip(begin, size, shape, strict=True)]
    if any(not 0 <= b < e <= d for b, e, d in zip(begin, end, shape, strict=True)):
        raise ValueError(f"from {begin} on {size} of data of the shape {list(shape)}")
    return own(call, op.strided_slice(call.own(0), list(range(len(shape))), begin, end))


def strided(call: Call) -> tuple[list[slice], list[int | None]]:
    """The slices of STRIDED_SLICE, and the axes that are left, with None for a new one."""
    shape, given = call.shape(0), call.options
    begin, end, strides = (call.numbers(i) for i in (1, 2, 3))
    if given["offset"]:
        raise ValueError("a slice whose ends count from its beginnings")

    def masked(name: str, i: int) -> bool:
        return bool(given[f"{name}_mask"] >> i & 1)

    new = [i for i in range(len(begin)) if masked("new_axis", i) and not masked("ellipsis", i)]
    whole = [i for i in range(len(begin)) if masked("ellipsis", i)]
    rest = len(shape) - (len(begin) - len(new) - len(whole))  # dimensions of the ellipsis, or after all
    if rest < 0 or len(whole) > 1:
        raise ValueError(f"{len(begin)} slices of data of the shape {list(shape)}")
    slices: list[slice] = []
    kept: list[int | None] = []

    def left(one: slice) -> None:
        kept.append(len(slices))
        slices.append(one)

    for i in range(len(begin) + (not whole)):
        if i == len(begin) or i in whole:
            for size in shape[len(slices) : len(slices) + rest]:
                left(slice(0, size, 1))
        elif i in new:
            kept.append(None)
        elif masked("shrink_axis", i):
            at = begin[i] % shape[len(slices)]
            slices.append(slice(at, at + 1, 1))
        else:
            if strides[i] == 0:
                raise ValueError("a stride of 0")
            start = None if masked("begin", i) else begin[i]
            stop = None if masked("end", i) else end[i]
            start, stop, step = slice(start, stop, strides[i]).indices(shape[len(slices)])
            if len(range(start, stop, step)) < 1:
                raise ValueError("a slice of nothing")
            left(slice(start, stop, step))
    return slices, kept


def strided_slice(call: Call) -> Value:
    """A slice with a stride in each dimension."""
    slices, kept = strided(call)
    x = call.own(0)
    for axis, one in enumerate(slices):
        if one.step < 0:
            x = _taken(call, x, axis, range(one.start, one.stop, one.step))
            slices[axis] = slice(0, int(x.ty.shape[axis]), 1)
    axes = [i for i, (s, d) in enumerate(zip(slices, x.ty.shape, strict=True)) if s != slice(0, int(d), 1)]
    if axes:
        cuts = ([getattr(slices[a], end) for a in axes] for end in ("start", "stop", "step"))
        x = call.emit(op.strided_slice(x, axes, *cuts))
    if kept != list(range(len(slices))):
        x = op.reshape(x, [1 if axis is None else int(x.ty.shape[axis]) for axis in kept])
    return own(call, x)


def _taken(call: Call, x: relax.Expr, axis: int, places: range) -> relax.Expr:
    return call.emit(op.take(x, relax.const(np.array(places, np.int64)), axis, mode="clip"))


def reverse(call: Call) -> Value:
    """Reverse the order along some axes."""
    x, shape = call.own(0), call.shape(0)
    for axis in call.numbers(1):
        x = _taken(call, x, axis % len(shape), range(shape[axis])[::-1])
    return own(call, x)


def diagonal_matrix(call: Call) -> Value:
    """Matrices of zeros with the last dimension's values as their diagonals."""
    (*_, size), zero = call.shape(0), relax.const(0, call.value(0).dtype)
    limits.check_tensor(prod(call.shape(0)) * size, np.dtype(call.value(0).dtype).itemsize, call.where)
    row = call.emit(op.expand_dims(call.own(0), -2))
    return own(call, op.where(relax.const(np.eye(size, dtype=bool)), row, zero))


def with_diagonal(call: Call) -> Value:
    """Matrices with other values on their diagonals."""
    rows, columns = call.shape(0)[-2:]
    values = call.emit(op.expand_dims(call.own(1), -2 if columns <= rows else -1))
    return own(call, op.where(relax.const(np.eye(rows, columns, dtype=bool)), values, call.own(0)))


def top(call: Call) -> list[Value]:
    """The largest values of the last axis, in order, and their places."""
    (count,) = call.numbers(1)
    values, places = nests.ranked(call.bb, call.own(0), -1, count, largest=True)
    return [Value(own=values), Value(own=call.emit(op.astype(places, "int32")))]


def space_to_batch(call: Call) -> Value:
    """Pad, and move the pixels of blocks to batches, as before a dilated convolution."""
    shape, block, pads = call.shape(0), call.numbers(1), call.array(2).reshape(-1, 2)
    inner = [d + int(sum(p)) for d, p in zip(shape[1:], pads, strict=False)]
    if min(block, default=0) < 1 or pads.min() < 0 or any(d % b for d, b in zip(inner, block, strict=True)):
        raise ValueError(f"blocks {block} of pixels {inner}")
    rest, count = shape[1 + len(block) :], len(block)
    x = call.own(0)
    if pads.any():
        x = call.emit(op.nn.pad(x, [0, 0, *(int(p) for p in pads.reshape(-1)), *([0, 0] * len(rest))]))
    parts = [part for d, b in zip(inner, block, strict=True) for part in (d // b, b)]
    x = call.emit(op.reshape(x, (shape[0], *parts, *rest)))
    moved, kept = range(2, 2 * count + 1, 2), range(1, 2 * count, 2)
    x = call.emit(op.permute_dims(x, (*moved, 0, *kept, *range(2 * count + 1, 2 * count + 1 + len(rest)))))
    return own(call, op.reshape(x, (shape[0] * prod(block), *parts[::2], *rest)))


def batch_to_space(call: Call) -> Value:
    """Move batches to the pixels of blocks, and crop, as after a dilated convolution."""
    shape, block, crops = call.shape(0), call.numbers(1), call.array(2).reshape(-1, 2)
    if min(block, default=0) < 1 or shape[0] % prod(block) or crops.min() < 0:
        raise ValueError(f"blocks {block} of {shape[0]} batches")
    count, inner, rest = len(block), shape[1 : 1 + len(block)], shape[1 + len(block) :]
    x = call.emit(op.reshape(call.own(0), (*block, shape[0] // prod(block), *inner, *rest)))
    pairs = [axis for i in range(count) for axis in (count + 1 + i, i)]
    x = call.emit(op.permute_dims(x, (count, *pairs, *range(2 * count + 1, 2 * count + 1 + len(rest)))))
    whole = [d * b for d, b in zip(inner, block, strict=True)]
    x = call.emit(op.reshape(x, (shape[0] // prod(block), *whole, *rest)))
    if crops.any():
        starts, stops = [int(c[0]) for c in crops], [d - int(c[1]) for d, c in zip(whole, crops, strict=True)]
        x = call.emit(op.strided_slice(x, list(range(1, count + 1)), starts, stops))
    return own(call, x)


def sums_so_far(call: Call) -> Value:
    """The sum up to each along an axis, or up to the one before; backwards if told so."""
    (axis,) = call.numbers(1)
    x, back = call.own(0), call.options["reverse"]
    made = op.cumsum(call.emit(op.flip(x, axis)) if back else x, axis, exclusive=bool(call.options["exclusive"]))
    return own(call, op.flip(call.emit(made), axis) if back else made)


def fill(call: Call) -> Value:
    """One value, which is computed, everywhere."""
    return own(call, op.broadcast_to(call.own(1), call.numbers(0)))


def to_depth(call: Call) -> Value:
    """Move blocks of pixels to channels, row by row."""
    n, h, w, c = call.shape(0)
    b = call.options["block_size"]
    if b < 1 or h % b or w % b:
        raise ValueError(f"blocks of {b} of {h}x{w} pixels")
    x = call.emit(op.reshape(call.own(0), (n, h // b, b, w // b, b, c)))
    x = call.emit(op.permute_dims(x, (0, 1, 3, 2, 4, 5)))
    return own(call, op.reshape(x, (n, h // b, w // b, b * b * c)))


def to_space(call: Call) -> Value:
    """Move channels to blocks of pixels, row by row."""
    n, h, w, c = call.shape(0)
    b = call.options["block_size"]
    if b < 1 or c % (b * b):
        raise ValueError(f"blocks of {b} of {c} channels")
    x = call.emit(op.reshape(call.own(0), (n, h, w, b, b, c // (b * b))))
    x = call.emit(op.permute_dims(x, (0, 1, 3, 2, 4, 5)))
    return own(call, op.reshape(x, (n, h * b, w * b, c // (b * b))))


def broadcast_to(call: Call) -> Value:
    """Repeat along dimensions of size one."""
    return own(call, op.broadcast_to(call.own(0), call.numbers(1)))


def common_shape(call: Call) -> Value:
    """The shape to which values of two shapes are broadcast, if one of these is computed."""
    ranks = [call.shape(i)[0] for i in (0, 1)]
    one = relax.const(1, call.value(0).dtype)
    sides = [
        call.emit(op.nn.pad(call.own(i), [max(ranks) - rank, 0], "constant", 1.0)) if rank < max(ranks) else call.own(i)
        for i, rank in enumerate(ranks)
    ]
    alone = call.emit(op.equal(sides[0], one))
    return own(call, op.where(alone, sides[1], sides[0]))


def tile(call: Call) -> Value:
    """Repeat a number of times along each dimension."""
    return own(call, op.tile(call.own(0), call.numbers(1)))


def apart(call: Call) -> Value:
    """One value between those of the data: all but one of each step along a dimension."""
    shape, steps, between = call.shape(0), call.numbers(1), call.array(2).reshape(())
    if len(steps) != len(shape) or min(steps, default=1) < 1:
        raise ValueError(f"steps {steps} of data of the shape {list(shape)}")
    x = call.emit(op.reshape(call.own(0), [n for d in shape for n in (d, 1)]))
    x = call.emit(op.nn.pad(x, [n for step in steps for n in (0, 0, 0, step - 1)], "constant", float(between)))
    x = call.emit(op.reshape(x, [d * step for d, step in zip(shape, steps, strict=True)]))
    ends = [(d - 1) * step + 1 for d, step in zip(shape, steps, strict=True)]
    return own(call, op.strided_slice(x, list(range(len(shape))), [0] * len(shape), ends))
