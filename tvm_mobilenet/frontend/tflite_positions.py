"""TFLite's operators that read or write values at positions, which an input or a constant has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from math import prod

import numpy as np
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import nests, positions
from tvm_mobilenet.frontend.positions import along
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
        each = [relax.const(np.arange(n).reshape(along(a, rank)), "int64") for a, n in enumerate(call.shape(0)[:batch])]
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


_SUM, _MEAN, _ROOT = range(3)  # combiners


def sums_of_rows(call: Call) -> Value:
    """Weighted sums of rows of a table. Operands: their numbers (n,), where each belongs (n, r), the shape (r,) of all
    these places, weights (n,), the table. Rows that differ in the last place alone are added.
    """
    shape, (count, rank), table = call.numbers(2), call.shape(1), call.shape(4)
    combiner = call.options["combiner"]
    if len(shape) != rank or rank < 2 or call.shape(0) != (count,) != call.shape(3) or not _SUM <= combiner <= _ROOT:
        raise ValueError(f"{count} rows at places of the shape {shape}, combined by {combiner}")
    sizes, rest = shape[:-1], table[1:]
    limits.check_tensor(prod(sizes) * prod(rest), 4, call.where)
    where = call.emit(op.strided_slice(call.own(1), [1], [0], [rank - 1]))
    weights = call.own(3)
    column = call.emit(op.reshape(weights, (count, *[1] * len(rest))))
    rows = call.emit(op.multiply(nests.indexed(call.bb, call.own(4), [call.own(0)]), column))

    def total(of: relax.Expr, tail: tuple[int, ...]) -> relax.Var:
        return call.emit(
            positions.scattered(call.bb, call.emit(op.zeros((*sizes, *tail), "float32")), where, of, "add")
        )

    made = total(rows, rest)
    if combiner == _SUM:
        return own(call, made)
    part = weights if combiner == _MEAN else call.emit(op.multiply(weights, weights))
    whole = total(part, ())
    whole = whole if combiner == _MEAN else call.emit(op.sqrt(whole))
    whole = call.emit(op.reshape(whole, (*sizes, *[1] * len(rest))))
    none, one = (relax.const(n, "float32") for n in (0.0, 1.0))
    return own(call, op.divide(made, call.emit(op.where(call.emit(op.equal(whole, none)), one, whole))))


def rows_of_keys(call: Call) -> list[Value]:
    """Rows of a table by their keys: zeros for one that is none, and whether each is one. Operands: keys that are
    wanted, keys, table.
    """
    if len(call.shape(0)) != 1 or call.shape(1) != call.shape(2)[:1]:
        raise ValueError(f"keys {list(call.shape(1))} of a table {list(call.shape(2))}")
    wanted, keys = (call.emit(op.expand_dims(call.own(i), 1 - i)) for i in (0, 1))
    same = call.emit(op.astype(call.emit(op.equal(wanted, keys)), "float32"))
    hits = call.emit(op.greater(call.emit(op.max(same, [1])), relax.const(0.0, "float32")))
    rows = nests.indexed(call.bb, call.own(2), [call.emit(op.argmax(same, 1))])
    column = call.emit(op.reshape(hits, (*call.shape(0), *[1] * (len(call.shape(2)) - 1))))
    found = call.emit(op.where(column, rows, relax.const(0, call.value(2).dtype)))
    return [Value(own=found), Value(own=call.emit(op.astype(hits, "uint8")))]


def one_hot(call: Call) -> Value:
    """One value where the index is that of the place, else another. Operands: indices, depth, values."""
    rank, (depth,) = len(call.shape(0)), call.numbers(1)
    axis = call.options["axis"] % (rank + 1)
    dtype = call.value(0).dtype
    places = np.arange(depth, dtype=dtype).reshape(along(axis, rank + 1))
    hit = call.emit(op.equal(call.emit(op.expand_dims(call.own(0), axis)), relax.const(places, dtype)))
    return own(call, op.where(hit, call.own(2), call.own(3)))


def reverse_sequences(call: Call) -> Value:
    """Reverse the first values along an axis, as many as the second operand has for each index of another."""
    shape = call.shape(0)
    axis, batch = (call.options[name] % len(shape) for name in ("seq_dim", "batch_dim"))
    if axis == batch or call.shape(1) != (shape[batch],):
        raise ValueError(f"lengths {list(call.shape(1))} for axes {axis} and {batch} of the shape {list(shape)}")
    sides = [along(a, len(shape)) for a in range(len(shape))]
    places = [relax.const(np.arange(n).reshape(side), "int64") for n, side in zip(shape, sides, strict=True)]
    lengths = call.emit(op.astype(call.emit(op.reshape(call.own(1), sides[batch])), "int64"))
    behind = call.emit(op.subtract(lengths, relax.const(1, "int64")))
    inside = call.emit(op.less(places[axis], lengths))
    places[axis] = call.emit(op.where(inside, call.emit(op.subtract(behind, places[axis])), places[axis]))
    return Value(own=nests.indexed(call.bb, call.own(0), places))


def updated_slice(call: Call) -> Value:
    """The data with another value's from a place on, which is moved so that all of them fit. Operands: data, the
    others, place.
    """
    return with_piece(call, call.emit(op.astype(call.own(2), "int64")))


def with_piece(call: Call, starts: relax.Expr) -> Value:
    """Operand 0 with the values of operand 1 from a place (n,) on, which is moved so that all of them fit."""
    shape, size = call.shape(0), call.shape(1)
    if len(size) != len(shape) or any(n > most for n, most in zip(size, shape, strict=True)):
        raise ValueError(f"a piece of the shape {list(size)} in {list(shape)}")
    places, inside = [], []
    for start, axis, length, count in _each_start(call, starts, shape, size):
        place = call.emit(op.subtract(relax.const(np.arange(length).reshape(along(axis, len(shape))), "int64"), start))
        behind = call.emit(op.less(place, relax.const(count, "int64")))
        inside.append(call.emit(op.logical_and(call.emit(op.greater_equal(place, relax.const(0, "int64"))), behind)))
        places.append(place)
    new = nests.indexed(call.bb, call.own(1), places)
    return own(call, op.where(reduce(lambda a, b: call.emit(op.logical_and(a, b)), inside), new, call.own(0)))


def piece(call: Call, i: int, starts: relax.Expr, size: tuple[int, ...]) -> Value:
    """A piece of an operand from a place (n,) on, which is moved so that all of it is inside."""
    shape = call.shape(i)
    places = [
        call.emit(op.add(relax.const(np.arange(count).reshape(along(axis, len(shape))), "int64"), start))
        for start, axis, _, count in _each_start(call, starts, shape, size)
    ]
    return own(call, nests.indexed(call.bb, call.own(i), places))


def _each_start(call: Call, starts: relax.Expr, shape, size) -> Iterator[tuple[relax.Expr, int, int, int]]:
    """For each dimension the start of a piece, moved so that all of it is inside, the dimension, its size and that of
    the piece.
    """
    room = relax.const(np.subtract(shape, size).astype(np.int64), "int64")
    starts = call.emit(op.minimum(call.emit(op.maximum(starts, relax.const(0, "int64"))), room))
    for axis, (length, count) in enumerate(zip(shape, size, strict=True)):
        start = call.emit(op.strided_slice(starts, [0], [axis], [axis + 1]))
        yield call.emit(op.reshape(start, [1] * len(shape))), axis, length, count
