"""TFLite's operators that read or write values at positions, which an input or a constant has."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import nests, positions
from tvm_mobilenet.frontend.tflite_elementwise import own
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op


def gathered(call: Call) -> tuple[np.ndarray, int]:
    """The indices and the axis of a gather of constants; a ValueError if they are invalid."""
    if call.options["batch_dims"]:
        raise ValueError("a gather of each of a batch")
    places, axis = call.array(1), call.options["axis"] % len(call.shape(0))
    size = call.shape(0)[axis]
    if places.size == 0 or places.min() < 0 or places.max() >= size:
        raise ValueError(f"places out of {size}")
    return places, axis


def gather(call: Call) -> Value:
    """Values at indices of an axis, which may be of each of a batch."""
    axis, batch = call.options["axis"] % len(call.shape(0)), call.options["batch_dims"] % (len(call.shape(1)) + 1)
    if call.value(1).known is None or batch:
        if batch not in (0, axis):
            raise ValueError(f"a gather of axis {axis} of each of {batch} dimensions")
        rank = len(call.shape(1))
        each = [
            relax.const(np.arange(n).reshape(positions.along(a, rank)), "int64")
            for a, n in enumerate(call.shape(0)[:batch])
        ]
        return Value(own=nests.indexed(call.bb, call.own(0), [*each, *[None] * (axis - batch), call.own(1)]))
    places, axis = gathered(call)
    flat = relax.const(places.reshape(-1).astype(np.int64))
    x = call.emit(op.take(call.own(0), flat, axis, mode="clip"))
    shape = call.shape(0)
    return own(call, op.reshape(x, shape[:axis] + places.shape + shape[axis + 1 :]))


def gather_nd(call: Call) -> Value:
    """Values at positions, whose numbers are in the last dimension."""
    return own(call, positions.gathered(call.bb, call.own(0), call.own(1)))


def scatter_nd(call: Call) -> Value:
    """Zeros, with the sums of updates at positions. Operands: positions, updates, shape."""
    zeros = call.emit(op.zeros(call.numbers(2), call.value(1).dtype))
    return own(call, positions.scattered(call.bb, zeros, call.own(0), call.own(1), "add"))


def dense(call: Call) -> Value:
    """One value everywhere, with others at positions. Operands: positions, shape, values, the one."""
    shape, given = call.numbers(1), call.shape(0)
    count = given[0] if given else 1
    limits.check_tensor(prod(shape), np.dtype(call.value(2).dtype).itemsize, call.where)
    where = call.emit(op.reshape(call.own(0), (count, len(shape))))
    values = call.emit(op.broadcast_to(call.own(2), (count,)))
    return own(call, positions.scattered(call.bb, call.emit(op.broadcast_to(call.own(3), shape)), where, values))


def segment_sum(call: Call) -> Value:
    """Sums of rows with the same number, which the second operand has in order."""
    numbers = call.array(1)
    if numbers.size == 0 or numbers.min() < 0:
        raise ValueError("segments below 0")
    return _segments(call, int(numbers.max()) + 1, "add", 0)


def segments(how: str, start: float) -> Callable:
    """What is made of the rows with the same number; an infinite start is the last number that there is."""

    def make(call: Call) -> Value:
        (count,) = call.numbers(2)
        return _segments(call, count, how, start)

    return make


def _segments(call: Call, count: int, how: str, start: float) -> Value:
    x, dtype, rest = call.own(0), call.value(0).dtype, call.shape(0)[len(call.shape(1)) :]
    if count < 1 or call.shape(0)[: len(call.shape(1))] != call.shape(1):
        raise ValueError(f"{count} segments with numbers {list(call.shape(1))} of data {list(call.shape(0))}")
    limits.check_tensor((count + 1) * prod(rest), np.dtype(dtype).itemsize, call.where)
    last = np.finfo(dtype) if dtype == "float32" else np.iinfo(dtype)
    begin = relax.const(np.clip(start, last.min, last.max).astype(dtype), dtype)
    zero, beyond = (relax.const(n, call.value(1).dtype) for n in (0, count))  # negative numbers are left out
    where = call.own(1)
    where = call.emit(op.where(call.emit(op.less(where, zero)), beyond, where))
    whole = call.emit(op.full((count + 1, *rest), begin, dtype))
    made = call.emit(positions.scattered(call.bb, whole, call.emit(op.expand_dims(where, -1)), x, how))
    return own(call, op.strided_slice(made, [0], [0], [count]))


def rows_of_table(call: Call) -> Value:
    """Rows of the second operand, by their numbers."""
    return Value(own=nests.indexed(call.bb, call.own(1), [call.own(0)]))


def one_hot(call: Call) -> Value:
    """One value where the index is that of the place, else another. Operands: indices, depth, values."""
    rank, (depth,) = len(call.shape(0)), call.numbers(1)
    axis = call.options["axis"] % (rank + 1)
    dtype = call.value(0).dtype
    places = np.arange(depth, dtype=dtype).reshape(positions.along(axis, rank + 1))
    hit = call.emit(op.equal(call.emit(op.expand_dims(call.own(0), axis)), relax.const(places, dtype)))
    return own(call, op.where(hit, call.own(2), call.own(3)))


def reverse_sequences(call: Call) -> Value:
    """Reverse the first values along an axis, as many as the second operand has for each index of another."""
    shape = call.shape(0)
    along, batch = (call.options[name] % len(shape) for name in ("seq_dim", "batch_dim"))
    if along == batch or call.shape(1) != (shape[batch],):
        raise ValueError(f"lengths {list(call.shape(1))} for axes {along} and {batch} of the shape {list(shape)}")
    sides = [positions.along(axis, len(shape)) for axis in range(len(shape))]
    places = [relax.const(np.arange(n).reshape(side), "int64") for n, side in zip(shape, sides, strict=True)]
    lengths = call.emit(op.astype(call.emit(op.reshape(call.own(1), sides[batch])), "int64"))
    behind = call.emit(op.subtract(lengths, relax.const(1, "int64")))
    inside = call.emit(op.less(places[along], lengths))
    places[along] = call.emit(op.where(inside, call.emit(op.subtract(behind, places[along])), places[along]))
    return Value(own=nests.indexed(call.bb, call.own(0), places))


def updated_slice(call: Call) -> Value:
    """The data with another value's from a place on, which is moved so that all of them fit. Operands: data, the
    others, place.
    """
    shape, size = call.shape(0), call.shape(1)
    if len(size) != len(shape) or any(n > most for n, most in zip(size, shape, strict=True)):
        raise ValueError(f"a piece of the shape {list(size)} in {list(shape)}")
    room = np.subtract(shape, size).astype(np.int64)
    starts = call.emit(op.astype(call.own(2), "int64"))
    starts = call.emit(op.minimum(call.emit(op.maximum(starts, relax.const(0, "int64"))), relax.const(room, "int64")))
    places, inside = [], []
    for axis, (length, count) in enumerate(zip(shape, size, strict=True)):
        side = positions.along(axis, len(shape))
        start = call.emit(op.strided_slice(starts, [0], [axis], [axis + 1]))
        place = call.emit(op.reshape(call.emit(op.subtract(relax.const(np.arange(length), "int64"), start)), side))
        behind = call.emit(op.less(place, relax.const(count, "int64")))
        inside.append(call.emit(op.logical_and(call.emit(op.greater_equal(place, relax.const(0, "int64"))), behind)))
        places.append(place)
    new = nests.indexed(call.bb, call.own(1), places)
    return own(call, op.where(reduce(lambda a, b: call.emit(op.logical_and(a, b)), inside), new, call.own(0)))
