"""StableHLO's operators in a TFLite file, as converters of JAX and PyTorch write them.

Definitions: https://openxla.org/stablehlo/spec. Dimensions are in the file's order.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from tvm import relax, te, tirx

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import tflite_elementwise as elementwise
from tvm_mobilenet.frontend import tflite_positions as positions
from tvm_mobilenet.frontend.tflite_elementwise import own
from tvm_mobilenet.frontend.tflite_values import Call, Value

op = relax.op
_DIRECTIONS = (op.equal, op.not_equal, op.greater_equal, op.greater, op.less_equal, op.less)
_TOTAL_ORDER = 2  # of floats, which orders NaN and the two zeros too


def unary(operator: Callable) -> Callable:
    """An operator on single elements."""
    return lambda call: own(call, operator(call.own(0)))


def cube_root(call: Call) -> Value:
    """The root whose cube each value is, with its sign."""
    root = call.emit(op.power(call.emit(op.abs(call.own(0))), elementwise.number(1 / 3)))
    return own(call, op.multiply(call.emit(op.sign(call.own(0))), root))


def remainder(call: Call) -> Value:
    """What a division leaves that rounds towards zero: it has the sign of the first operand."""

    if not call.value(0).dtype.startswith("float"):
        raise ValueError(f"a remainder of {call.value(0).dtype}")
    quotient = call.emit(op.trunc(call.emit(op.divide(call.own(0), call.own(1)))))
    return own(call, op.subtract(call.own(0), call.emit(op.multiply(quotient, call.own(1)))))


def bits_of_either(call: Call) -> Value:
    """The bits that one of them has; of truths, whether one is true."""
    either = op.logical_or if call.value(0).dtype == "bool" else op.bitwise_or
    return own(call, either(call.own(0), call.own(1)))


def clamp(call: Call) -> Value:
    """Values between others. Operands: the least, values, the largest."""
    return own(call, op.minimum(call.emit(op.maximum(call.own(1), call.own(0))), call.own(2)))


def compare(call: Call) -> Value:
    """A comparison, whose direction is an option."""
    direction = call.options["comparison_direction"]
    if direction >= len(_DIRECTIONS) or call.options["compare_type"] == _TOTAL_ORDER:
        raise ValueError(f"the comparison {direction} of the type {call.options['compare_type']}")
    return own(call, _DIRECTIONS[direction](call.own(0), call.own(1)))


def choose(call: Call) -> Value:
    """One of two values for each element, by a condition, which may be one for all."""
    return own(call, op.where(call.own(0), call.own(1), call.own(2)))


# ---- shapes


def reshape(call: Call) -> Value:
    """Reshape to the file's shape of the output."""
    return own(call, op.reshape(call.own(0), call.size))


def transpose(call: Call) -> Value:
    """Permute the dimensions."""
    return own(call, op.permute_dims(call.own(0), list(call.options["permutation"])))


def concatenate(call: Call) -> Value:
    """Concatenate along a dimension."""
    parts = [call.own(i) for i in range(len(call.values))]
    return own(call, op.concat(parts, call.options["dimension"]) if len(parts) > 1 else parts[0])


def broadcast(call: Call) -> Value:
    """Repeat along new dimensions, and along those of size one."""
    given, shape = call.options["broadcast_dimensions"], call.shape(0)
    if len(given) != len(shape) or sorted({*given}) != list(given) or max(given, default=-1) >= len(call.size):
        raise ValueError(f"dimensions {list(given)} of the shape {list(shape)}")
    sides = [1] * len(call.size)
    for axis, size in zip(given, shape, strict=True):
        sides[axis] = size
    return own(call, op.broadcast_to(call.emit(op.reshape(call.own(0), sides)), call.size))


def cut(call: Call) -> Value:
    """A slice with a stride in each dimension."""
    starts, ends, steps = (list(call.options[name]) for name in ("start_indices", "limit_indices", "strides"))
    shape = call.shape(0)
    if not len(starts) == len(ends) == len(steps) == len(shape) or min(steps, default=1) < 1:
        raise ValueError(f"from {starts} to {ends} by {steps} of the shape {list(shape)}")
    if any(not 0 <= a < b <= size for a, b, size in zip(starts, ends, shape, strict=True)):
        raise ValueError(f"from {starts} to {ends} of the shape {list(shape)}")
    return own(call, op.strided_slice(call.own(0), list(range(len(shape))), starts, ends, steps))


def dynamic_cut(call: Call) -> Value:
    """A piece of a given size, whose place is computed: it is moved so that all of it is inside."""
    sizes, shape = call.options["slice_sizes"], call.shape(0)
    if len(sizes) != len(shape) or any(not 0 < n <= size for n, size in zip(sizes, shape, strict=True)):
        raise ValueError(f"a piece of the shape {list(sizes)} of {list(shape)}")
    return positions.piece(call, 0, _starts(call, 1), tuple(sizes))


def dynamic_update(call: Call) -> Value:
    """The data with another value's from a place on, which is moved so that all of them fit."""
    return positions.with_piece(call, _starts(call, 2))


def _starts(call: Call, first: int) -> relax.Expr:
    """The single numbers of the operands from ``first`` on, as one row, int64."""
    rows = [call.emit(op.reshape(call.own(i), (1,))) for i in range(first, len(call.values))]
    if len(rows) != len(call.shape(0)):
        raise ValueError(f"{len(rows)} starts in {len(call.shape(0))} dimensions")
    row = call.emit(op.concat(rows, 0)) if len(rows) > 1 else rows[0]
    return call.emit(op.astype(row, "int64"))


def pad(call: Call) -> Value:
    """A pad before, behind and between values, which may also cut values off. Operands: data, the value of pads."""
    names = ("edge_padding_low", "edge_padding_high", "interior_padding")
    low, high, inside = (call.options[name] for name in names)
    shape = call.shape(0)
    if not len(low) == len(high) == len(inside) == len(shape) or min(inside, default=0) < 0:
        raise ValueError(f"pads {list(low)}, {list(high)} and {list(inside)} of the shape {list(shape)}")
    steps = [n + 1 for n in inside]
    sizes = [a + (d - 1) * s + 1 + b for d, a, b, s in zip(shape, low, high, steps, strict=True)]
    if min(sizes, default=1) < 1:
        raise ValueError(f"pads {list(low)} and {list(high)} leave nothing of the shape {list(shape)}")
    limits.check_tensor(prod(sizes), np.dtype(call.value(0).dtype).itemsize, call.where)
    if not any(inside) and min(*low, *high, 0) == 0 and call.value(1).known is not None:
        fill = float(call.array(1).reshape(()))
        if len(shape) == 4:
            flat = [n for axis in (0, 3, 1, 2) for n in (low[axis], high[axis])]
            return elementwise.nchw(call, op.nn.pad(call.nchw(0), flat, "constant", fill))
        flat = [n for pair in zip(low, high, strict=True) for n in pair]
        return own(call, op.nn.pad(call.own(0), flat, "constant", fill))

    def nest(data: te.Tensor, fill: te.Tensor) -> te.Tensor:
        def value(*at):
            own_at = [i - a for i, a in zip(at, low, strict=True)]
            there = [tirx.floordiv(i, s) for i, s in zip(own_at, steps, strict=True)]
            is_one = [
                tirx.all(i >= 0, place < d, tirx.floormod(i, s) == 0)
                for i, place, d, s in zip(own_at, there, shape, steps, strict=True)
            ]
            kept = [tirx.max(tirx.min(place, d - 1), 0) for place, d in zip(there, shape, strict=True)]
            return tirx.Select(tirx.all(*is_one), data(*kept), fill(0))

        return te.compute(sizes, value, "padded")

    fill = call.emit(op.reshape(call.own(1), (1,)))
    return own(call, call.bb.emit_te(nest, call.own(0), fill, primfunc_name_hint="padded"))


# ---- products


def dot(call: Call) -> Value:
    """Products of two values, summed along pairs of dimensions, for each index of others."""
    sides = []
    for i, name in enumerate(("lhs", "rhs")):
        batch, summed = (call.options[f"{name}_{what}_dimensions"] for what in ("batching", "contracting"))
        shape = call.shape(i)
        if len({*batch, *summed}) != len(batch) + len(summed) or not {*batch, *summed} <= {*range(len(shape))}:
            raise ValueError(f"dimensions {list(batch)} and {list(summed)} of the shape {list(shape)}")
        free = [axis for axis in range(len(shape)) if axis not in (*batch, *summed)]
        order = (*batch, *free, *summed) if i == 0 else (*batch, *summed, *free)
        inner = (prod(shape[a] for a in summed), prod(shape[a] for a in free))
        sizes = [shape[a] for a in batch]
        x = call.moved(i, order, (*sizes, *(inner[::-1] if i == 0 else inner)))
        sides.append((x, sizes, [shape[a] for a in free], [shape[a] for a in summed]))
    (a, batch, rows, summed), (b, other, columns, with_them) = sides
    if batch != other or summed != with_them:
        raise ValueError(f"dimensions of {[*batch, *summed]} and {[*other, *with_them]}")
    return own(call, op.reshape(call.emit(op.matmul(a, b)), (*batch, *rows, *columns)))


def convolution(call: Call) -> Value:
    """A convolution over two dimensions, in any order of dimensions."""
    given = call.options
    data, kernel, out = (
        (given[f"{of}_{first}_dimension"], given[f"{of}_{second}_dimension"], *given[f"{of}_spatial_dimensions"])
        for of, first, second in (
            ("input", "batch", "feature"),
            ("kernel", "output_feature", "input_feature"),
            ("output", "batch", "feature"),
        )
    )
    if any(sorted(order) != [0, 1, 2, 3] for order in (data, kernel, out)) or given["batch_group_count"] != 1:
        raise ValueError(f"dimensions {data}, {kernel} and {out}, {given['batch_group_count']} groups of batches")
    strides, before, dilation = (
        list(given[name]) or [1, 1] for name in ("window_strides", "lhs_dilation", "rhs_dilation")
    )
    pads = list(given["padding"]) or [0] * 4
    if before != [1, 1] or any(given["window_reversal"]) or min(pads) < 0:
        raise ValueError(f"data dilated by {before}, reversed windows {given['window_reversal']}, pads {pads}")
    x = call.nchw(0) if data == (0, 3, 1, 2) else call.emit(op.permute_dims(call.own(0), list(data)))
    made = op.nn.conv2d(
        x,
        call.weight(1, kernel),
        strides,
        [pads[0], pads[2], pads[1], pads[3]],
        dilation,
        given["feature_group_count"],
        "NCHW",
        "OIHW",
    )
    if out == (0, 3, 1, 2):
        return elementwise.nchw(call, made)
    return own(call, op.permute_dims(call.emit(made), [out.index(axis) for axis in range(4)]))


def same_as_first(call: Call) -> Value:
    """A note on how devices share a value, which one device does not need."""
    if call.options["call_target_name"] != "Sharding":
        raise ValueError(f"a call of {call.options['call_target_name'] or 'nothing'}, which the file does not define")
    return elementwise.as_it_is(call)


def convert(call: Call) -> Value:
    """Conversion to the dtype of the output."""
    return own(call, op.astype(call.own(0), call.known_dtype()))


CONVERTERS: dict[str, Callable] = {
    **{
        f"STABLEHLO_{name}": elementwise.binary(operator)
        for name, operator in {
            "DIVIDE": op.divide,
            "MAXIMUM": op.maximum,
            "MINIMUM": op.minimum,
            "POWER": op.power,
        }.items()
    },
    **{
        f"STABLEHLO_{name}": unary(operator)
        for name, operator in {
            "ABS": op.abs,
            "COSINE": op.cos,
            "EXPONENTIAL": op.exp,
            "FLOOR": op.floor,
            "LOG": op.log,
            "LOGISTIC": op.sigmoid,
            "NEGATE": op.negative,
            "RSQRT": op.rsqrt,
            "TANH": op.tanh,
        }.items()
    },
    "STABLEHLO_ADD": elementwise.arithmetic(op.add),
    "STABLEHLO_SUBTRACT": elementwise.arithmetic(op.subtract),
    "STABLEHLO_MULTIPLY": elementwise.arithmetic(op.multiply),
    "STABLEHLO_AND": elementwise.bits_of_both,
    "STABLEHLO_OR": bits_of_either,
    "STABLEHLO_SHIFT_LEFT": elementwise.left_shift,
    "STABLEHLO_CBRT": cube_root,
    "STABLEHLO_REMAINDER": remainder,
    "STABLEHLO_CLAMP": clamp,
    "STABLEHLO_COMPARE": compare,
    "STABLEHLO_CONVERT": convert,
    "STABLEHLO_SELECT": choose,
    "STABLEHLO_RESHAPE": reshape,
    "STABLEHLO_TRANSPOSE": transpose,
    "STABLEHLO_CONCATENATE": concatenate,
    "STABLEHLO_BROADCAST_IN_DIM": broadcast,
    "STABLEHLO_SLICE": cut,
    "STABLEHLO_DYNAMIC_SLICE": dynamic_cut,
    "STABLEHLO_DYNAMIC_UPDATE_SLICE": dynamic_update,
    "STABLEHLO_PAD": pad,
    "STABLEHLO_DOT_GENERAL": dot,
    "STABLEHLO_CONVOLUTION": convolution,
    "STABLEHLO_CUSTOM_CALL": same_as_first,
}
