"""TFLite's operators that run another graph of the file: for each pair of values, or once.

Reductions, sorts and scatters name a graph of one operator, which says how two values become one. Calls and composites
name a graph of any operators, which is written out in their place.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from tvm import relax, te, tirx

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import nests, positions
from tvm_mobilenet.frontend.tflite_elementwise import nchw, own
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op
_SUM, _PRODUCT, _LEAST, _LARGEST = "sum", "product", "least", "largest"
_WAYS = {"ADD": _SUM, "MUL": _PRODUCT, "MULTIPLY": _PRODUCT, "MINIMUM": _LEAST, "MAXIMUM": _LARGEST}
_WAYS |= {"AND": _LEAST, "LOGICAL_AND": _LEAST, "OR": _LARGEST, "LOGICAL_OR": _LARGEST}
_FUNCTIONS = ("", _SUM, _PRODUCT, _LEAST, _LARGEST, _LEAST, _LARGEST)  # of REDUCE_WINDOW, by number
_REDUCED = {_SUM: op.sum, _PRODUCT: op.prod, _LEAST: op.min, _LARGEST: op.max}
_OF_TWO = {_SUM: op.add, _PRODUCT: op.multiply, _LEAST: op.minimum, _LARGEST: op.maximum}
_SCATTERED = {_SUM: "add", _PRODUCT: "mul", _LEAST: "min", _LARGEST: "max", "": "update"}
_MOST_WINDOW = 4_096  # values of a window
_DESCENDING = {5: False, 4: False, 3: True, 2: True}  # by the number of a comparison: LT, LE, GT, GE


def called(call: Call) -> list[Value]:
    """The outputs of a graph."""
    return call.run(call.operator.body, call.values)


def initial(call: Call) -> list[Value]:
    """CALL_ONCE: a graph that gives variables their values."""
    call.run(call.operator.body, [])
    return []


def variable(call: Call) -> Value:
    """VAR_HANDLE: a variable, by its name."""
    given = call.options
    return Value(resource=f"{given['container']}/{given['shared_name'] or call.operator.place}")


def assigned(call: Call) -> list[Value]:
    """ASSIGN_VARIABLE: a variable gets its value."""
    name = call.value(0).resource
    if call.value(1).known is None or name in call.variables:
        raise ValueError("it keeps a state from one run to the next; convert a model without one")
    call.variables[name] = call.value(1)
    return []


def read(call: Call) -> Value:
    """READ_VARIABLE: the value of a variable."""
    found = call.variables.get(call.value(0).resource)
    if found is None:
        raise ValueError("a variable without a value")
    return Value(known=found.known, scales=found.scales)


# ---- reductions


def _way(call: Call, operands: int = 2) -> str:
    """How the graph of an operator makes one of two values; empty if it takes the second one."""
    body = call.operator.body
    if len(body.inputs) != operands or len(body.outputs) != 1 or len(body.operators) > 1:
        raise ValueError(f"a graph of {len(body.operators)} operators for pairs of values")
    if not body.operators:
        if body.outputs[0] != body.inputs[1]:
            raise ValueError("a graph that leaves the data as they are")
        return ""
    (one,) = body.operators
    way = _WAYS.get(one.name.removeprefix("STABLEHLO_"))
    if way is None or {*one.inputs} != {*body.inputs}:
        raise ValueError(f"a reduction by {one.name}")
    return way


def _identity(way: str, dtype: str):
    """The value that a reduction leaves as it is."""
    if way in (_SUM, _PRODUCT):
        return int(way == _PRODUCT)
    if dtype == "bool":
        return way == _LEAST
    if dtype.startswith("float"):
        return np.inf if way == _LEAST else -np.inf
    return np.iinfo(dtype).max if way == _LEAST else np.iinfo(dtype).min


def _first(way: str, dtype: str) -> tirx.PrimExpr:
    """The same for a loop nest."""
    if dtype.startswith("float") and way in (_LEAST, _LARGEST):
        return tirx.infinity(dtype) if way == _LEAST else -tirx.infinity(dtype)
    return tirx.const(_identity(way, dtype), dtype)


def _starts_anew(call: Call, way: str) -> bool:
    """Whether the first value of a reduction, operand 1, changes nothing."""
    value = call.value(1)
    return value.known is not None and (value.real == _identity(way, value.dtype)).all()


def reduced(call: Call) -> Value:
    """STABLEHLO_REDUCE: one value of all along dimensions, and of a first one."""
    if len(call.values) != 2:
        raise ValueError(f"a reduction of {len(call.values) // 2} values at once")
    way, dtype = _way(call), call.value(0).dtype
    x = call.own(0)
    if dtype == "bool":
        x = call.emit(op.astype(x, "int32"))
    made = _REDUCED[way](x, list(call.options["dimensions"]))
    if dtype == "bool":
        made = op.astype(call.emit(made), "bool")
    if not _starts_anew(call, way):
        two = {_LEAST: op.logical_and, _LARGEST: op.logical_or}.get(way) if dtype == "bool" else _OF_TWO[way]
        made = two(call.emit(made), call.own(1))
    return own(call, made)


def stablehlo_window(call: Call) -> Value:
    """STABLEHLO_REDUCE_WINDOW. Operands: data, the first value, which pads have too."""
    given, rank = call.options, len(call.shape(0))
    names = ("window_dimensions", "window_strides", "base_dilations", "window_dilations", "padding")
    ones = [1] * rank
    defaults = (ones, ones, ones, ones, 2 * [0] * rank)
    kernel, strides, between, dilations, pads = (
        list(given[name]) or default for name, default in zip(names, defaults, strict=True)
    )
    return _windows(call, _way(call), kernel, strides, between, dilations, pads)


def window(call: Call) -> Value:
    """REDUCE_WINDOW. Operands: data, the first value, sizes of the window, strides, dilations."""
    number = call.options["reduce_function"]
    way = _FUNCTIONS[number] if 0 <= number < len(_FUNCTIONS) else ""
    if not way:
        raise ValueError(f"the function {number}")
    rank = len(call.shape(0))
    kernel, strides, dilations = (call.numbers(i) for i in (2, 3, 4))
    return _windows(call, way, kernel, strides, [1] * rank, dilations, [0, 0] * rank)


def _windows(call: Call, way: str, kernel, strides, between, dilations, pads) -> Value:
    shape, dtype = call.shape(0), call.value(0).dtype
    rank = len(shape)
    if not len(kernel) == len(strides) == len(between) == len(dilations) == len(pads) // 2 == rank:
        raise ValueError(f"a window {kernel} over data of the shape {list(shape)}")
    if min(*kernel, *strides, *between, *dilations, 1) < 1 or prod(kernel) > _MOST_WINDOW or not way:
        raise ValueError(f"a window {kernel} with strides {strides} and dilations {dilations}")
    anew = _starts_anew(call, way)
    flat = kernel[::3] == strides[::3] == dilations[::3] == [1, 1] and not any((*pads[:2], *pads[6:]))
    if rank == 4 and way == _LARGEST and dtype == "float32" and anew and flat and between == [1] * 4 and min(pads) >= 0:
        around = [pads[2], pads[4], pads[3], pads[5]]
        return nchw(call, op.nn.max_pool2d(call.nchw(0), kernel[1:3], strides[1:3], around, dilations[1:3]))
    befores, behinds = pads[::2], pads[1::2]
    wide = [a + (d - 1) * s + 1 + b for a, d, s, b in zip(befores, shape, between, behinds, strict=True)]
    sizes = [(w - ((k - 1) * d + 1)) // s + 1 for w, k, d, s in zip(wide, kernel, dilations, strides, strict=True)]
    if min(sizes, default=1) < 1:
        raise ValueError(f"a window {kernel} over data of the shape {list(shape)}")
    limits.check_tensor(prod(sizes), np.dtype(dtype).itemsize, call.where)
    whole = "int32" if dtype == "bool" else dtype
    first = _first(way, whole)
    join = {
        _SUM: lambda a, b: a + b,
        _PRODUCT: lambda a, b: a * b,
        _LEAST: lambda a, b: tirx.min(a, b),
        _LARGEST: lambda a, b: tirx.max(a, b),
    }[way]
    reduction = te.comm_reducer(join, lambda _: first, "windows")

    def nest(data: te.Tensor, start: te.Tensor) -> te.Tensor:
        def value(*at):
            axes = [te.reduce_axis((0, k), "r") for k in kernel]
            steps = zip(at, strides, axes, dilations, befores, strict=True)
            own_at = [i * stride + r * dilation - before for i, stride, r, dilation, before in steps]
            there = [tirx.floordiv(i, s) for i, s in zip(own_at, between, strict=True)]
            inside = [
                tirx.all(i >= 0, place < d, tirx.floormod(i, s) == 0)
                for i, place, d, s in zip(own_at, there, shape, between, strict=True)
            ]
            kept = [tirx.max(tirx.min(place, d - 1), 0) for place, d in zip(there, shape, strict=True)]
            read = tirx.Select(tirx.all(*inside), data(*kept).astype(whole), start(0).astype(whole))
            return reduction(read, axis=axes)

        return te.compute(sizes, value, "windows")

    start = call.emit(op.reshape(call.own(1), (1,)))
    made = call.bb.emit_te(nest, call.own(0), start, primfunc_name_hint="windows")
    if not anew:
        made = call.emit(_OF_TWO[way](made, call.emit(op.astype(start, whole)) if whole != dtype else start))
    return own(call, made if whole == dtype else op.astype(made, dtype))


# ---- positions


def scattered(call: Call) -> Value:
    """STABLEHLO_SCATTER. Operands: data, positions, updates. Updates whose place is outside are left out."""
    given = call.options
    shape, update, dtype = call.shape(0), call.shape(2), call.value(0).dtype
    inner, inserted, along = (
        given[name] for name in ("update_window_dims", "inserted_window_dims", "scatter_dims_to_operand_dims")
    )
    outer = [axis for axis in range(len(update)) if axis not in inner]
    kept = [axis for axis in range(len(shape)) if axis not in inserted]
    if len(kept) != len(inner) or any(update[u] > shape[a] for u, a in zip(inner, kept, strict=True)):
        raise ValueError(f"updates of the shape {list(update)} in data of the shape {list(shape)}")
    columns = _columns(call, given["index_vector_dim"], along, outer, update)
    for u, axis in zip(inner, kept, strict=True):
        steps = relax.const(np.arange(update[u]).reshape(positions.along(u, len(update))), "int64")
        columns[axis] = call.emit(op.add(columns[axis], steps)) if axis in columns else steps
    limits.check_tensor(prod(update), 8, call.where)
    place, inside = relax.const(0, "int64"), relax.const(True, "bool")
    zero = relax.const(0, "int64")
    for axis in range(len(shape)):
        column = columns.get(axis, zero)
        place = call.emit(op.add(place, call.emit(op.multiply(column, relax.const(prod(shape[axis + 1 :]), "int64")))))
        for within in (op.greater_equal(column, zero), op.less(column, relax.const(shape[axis], "int64"))):
            inside = call.emit(op.logical_and(inside, call.emit(within)))
    size, count = prod(shape), prod(update)
    place = call.emit(op.where(inside, place, relax.const(size, "int64")))
    place = call.emit(op.reshape(call.emit(op.broadcast_to(place, update)), (count, 1)))
    spare = call.emit(op.zeros((1,), dtype))
    whole = call.emit(op.concat([call.emit(op.reshape(call.own(0), (size,))), spare], 0))
    flat = call.emit(op.reshape(call.own(2), (count,)))
    made = call.emit(positions.scattered(call.bb, whole, place, flat, _SCATTERED[_way(call)]))
    return own(call, op.reshape(call.emit(op.strided_slice(made, [0], [0], [size])), shape))


def gathered(call: Call) -> Value:
    """STABLEHLO_GATHER: pieces of the data, each moved so that all of it is inside. Operands: data, positions."""
    given, shape = call.options, call.shape(0)
    inner, dropped, along, sizes = (
        given[name] for name in ("offset_dims", "collapsed_slice_dims", "start_index_map", "slice_sizes")
    )
    kept = [axis for axis in range(len(shape)) if axis not in dropped]
    if len(sizes) != len(shape) or any(not 0 < n <= d for n, d in zip(sizes, shape, strict=True)):
        raise ValueError(f"pieces of the shape {list(sizes)} of {list(shape)}")
    rank = len(inner) + len(call.shape(1)) - (given["index_vector_dim"] < len(call.shape(1)))
    if len(kept) != len(inner) or any(sizes[axis] != 1 for axis in dropped) or max(inner, default=-1) >= rank:
        raise ValueError(f"dimensions {list(inner)} of pieces without {list(dropped)}")
    outer = [axis for axis in range(rank) if axis not in inner]
    columns = _columns(call, given["index_vector_dim"], along, outer, (0,) * rank)
    for axis, column in columns.items():
        last = relax.const(shape[axis] - sizes[axis], "int64")
        columns[axis] = call.emit(op.maximum(call.emit(op.minimum(column, last)), relax.const(0, "int64")))
    for u, axis in zip(inner, kept, strict=True):
        steps = relax.const(np.arange(sizes[axis]).reshape(positions.along(u, rank)), "int64")
        columns[axis] = call.emit(op.add(columns[axis], steps)) if axis in columns else steps
    none = relax.const(np.zeros([1] * rank, np.int64), "int64")
    return own(call, nests.indexed(call.bb, call.own(0), [columns.get(axis, none) for axis in range(len(shape))]))


def _columns(call: Call, vector: int, along, outer: list[int], sizes) -> dict[int, relax.Expr]:
    """For each dimension that operand 1 has numbers of, these numbers, spread over the dimensions ``outer`` of a value
    of so many dimensions; int64.
    """
    shape = list(call.shape(1))
    where = call.emit(op.astype(call.own(1), "int64"))
    if vector == len(shape):
        shape.append(1)
        where = call.emit(op.reshape(where, shape))
    if not 0 <= vector < len(shape) or shape[vector] != len(along) or len(outer) != len(shape) - 1:
        raise ValueError(f"positions of the shape {shape} for the dimensions {list(along)}")
    rest = [d for i, d in enumerate(shape) if i != vector]
    side = [1] * len(sizes)
    for axis, size in zip(outer, rest, strict=True):
        side[axis] = size
    found = {}
    for i, axis in enumerate(along):
        column = call.emit(op.strided_slice(where, [vector], [i], [i + 1]))
        found[axis] = call.emit(op.reshape(column, side))
    return found


def sorted_by(call: Call) -> list[Value]:
    """STABLEHLO_SORT: values along a dimension in the order of those of one operand. Equal ones keep their order."""
    body, count = call.operator.body, len(call.values)
    if len(body.operators) != 1 or body.operators[0].name != "STABLEHLO_COMPARE" or len(body.inputs) != 2 * count:
        raise ValueError("an order that is not one comparison")
    (one,) = body.operators
    direction = one.options["comparison_direction"]
    pair = [body.inputs.index(i) if i in body.inputs else -1 for i in one.inputs]
    key = pair[0] // 2
    if direction not in _DESCENDING or sorted(pair) != [2 * key, 2 * key + 1]:
        raise ValueError(f"an order by the comparison {direction} of {pair}")
    shape = call.shape(0)
    axis = call.options["dimension"] % len(shape)
    largest = _DESCENDING[direction] != (pair[0] % 2 == 1)
    where = nests.places(call.bb, call.own(key), axis, shape[axis], largest)
    return [Value(own=call.emit(op.gather_elements(call.own(i), where, axis))) for i in range(count)]


CONVERTERS: dict[str, Callable] = {
    "CALL": called,
    "CALL_ONCE": initial,
    "VAR_HANDLE": variable,
    "ASSIGN_VARIABLE": assigned,
    "READ_VARIABLE": read,
    "REDUCE_WINDOW": window,
    "STABLEHLO_COMPOSITE": called,
    "STABLEHLO_REDUCE": reduced,
    "STABLEHLO_REDUCE_WINDOW": stablehlo_window,
    "STABLEHLO_SCATTER": scattered,
    "STABLEHLO_GATHER": gathered,
    "STABLEHLO_SORT": sorted_by,
}
