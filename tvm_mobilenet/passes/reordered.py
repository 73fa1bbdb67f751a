"""Operators on tensors with reordered dimensions: channels-last data is computed in its order in memory.

A generic layer reads its tensors in the order of its operator's dimensions. An operator whose attributes name these
dimensions can be rewritten for NHWC, and its data then needs no copy. `reordered` writes such a call. Operators that
are not in `_WAYS` keep their order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.rewrite import array, op_name, static_shape

NHWC = (0, 2, 3, 1)  # of NCHW

BY_ELEMENT = (
    "abs", "ceil", "clip", "cos", "erf", "exp", "floor", "isfinite", "log", "logical_not", "negative", "round",
    "rsqrt", "sigmoid", "sign", "sin", "sqrt", "square", "tan", "tanh", "astype", "nn.gelu", "nn.gelu_tanh",
    "nn.leakyrelu", "nn.relu", "nn.silu", "nn.softplus", "add", "divide", "equal", "floor_divide", "floor_mod",
    "greater", "greater_equal", "less", "less_equal", "logical_and", "logical_or", "maximum", "minimum", "mod",
    "multiply", "not_equal", "power", "subtract", "where",
)  # fmt: skip
REDUCTIONS = ("max", "mean", "min", "prod", "sum", "variance")
PLACES = ("argmax", "argmin")


class _Call:
    """One call, and the new order of its dimensions."""

    def __init__(self, call: relax.Call, order: tuple[int, ...], tensors: dict[relax.Expr, relax.Var]):
        self.call, self.order, self.tensors, self.attrs = call, order, tensors, call.attrs

    def place(self, axis: int) -> int:
        """The place of a dimension in the new order."""
        return self.order.index(int(axis) % len(self.order))

    def axes(self, value) -> list[int]:
        """The places of the dimensions that an attribute names; of all dimensions if it names none."""
        named = range(len(self.order)) if value is None else value
        return [self.place(a) for a in ([named] if isinstance(named, int) else named)]

    def moved(self, argument):
        """An argument in the new order: a tensor, a constant with dimensions, or several of them; other arguments are
        unchanged.
        """
        if isinstance(argument, relax.Tuple):
            return relax.Tuple([self.moved(field) for field in argument.fields])
        if argument in self.tensors:
            return self.tensors[argument]
        known = array(argument)
        if known is None or not known.ndim:
            return argument
        whole = known.reshape((1,) * (len(self.order) - known.ndim) + known.shape).transpose(self.order)
        return relax.const(np.ascontiguousarray(whole), str(known.dtype))

    @property
    def data(self):
        return self.moved(self.call.args[0])


def _by_element(c: _Call) -> relax.Call | None:
    ranks = [len(a.ty.shape) for a in c.call.args if isinstance(getattr(a, "ty", None), relax.TensorType)]
    if max(ranks) > len(c.order):  # it gives more dimensions than the data has
        return None
    return relax.Call(c.call.op, [c.moved(a) for a in c.call.args], c.attrs, c.call.ty_args)


def _reduced(c: _Call) -> relax.Call:
    return getattr(relax.op, op_name(c.call))(c.data, c.axes(c.attrs.axis), True)


def _placed(c: _Call) -> relax.Call | None:
    if c.attrs.axis is None:
        return None
    return getattr(relax.op, op_name(c.call))(c.data, c.place(c.attrs.axis), True)


def _slice(c: _Call) -> relax.Call:
    axes, *rest = c.call.args[1:]
    placed = [c.place(a.value if hasattr(a, "value") else a) for a in axes.fields]
    return relax.op.strided_slice(c.data, placed, *rest, assume_inbound=bool(c.attrs.assume_inbound))


def _take(c: _Call) -> relax.Call | None:
    index = c.call.args[1]
    if c.attrs.axis is None or array(index) is None or array(index).ndim != 1:
        return None
    return relax.op.take(c.data, index, c.place(c.attrs.axis), str(c.attrs.mode))


def _softmax(c: _Call) -> relax.Call:
    return getattr(relax.op.nn, op_name(c.call).removeprefix("nn."))(c.data, c.place(c.attrs.axis))


def _prelu(c: _Call) -> relax.Call:
    return relax.op.nn.prelu(c.data, c.call.args[1], c.place(c.attrs.axis))


def _pad(c: _Call) -> relax.Call:
    widths = np.reshape([int(w) for w in c.attrs.pad_width], (-1, 2))[list(c.order)].reshape(-1)
    return relax.op.nn.pad(c.data, [int(w) for w in widths], str(c.attrs.pad_mode), float(c.attrs.pad_value))


def _broadcast(c: _Call) -> relax.Call | None:
    shape = [int(d) for d in c.call.args[1].values]
    return relax.op.broadcast_to(c.data, [shape[a] for a in c.order]) if len(shape) == len(c.order) else None


def _tile(c: _Call) -> relax.Call | None:
    times = [int(r) for r in c.attrs.repeats]
    return relax.op.tile(c.data, [times[a] for a in c.order]) if len(times) == len(c.order) else None


def _resize(c: _Call) -> relax.Call | None:
    a = c.attrs
    if c.order != NHWC or str(a.layout) != "NCHW":
        return None
    return relax.op.image.resize2d(
        c.data,
        c.call.args[1],
        roi=tuple(float(r) for r in a.roi),
        layout="NHWC",
        method=str(a.method),
        coordinate_transformation_mode=str(a.coordinate_transformation_mode),
        rounding_method=str(a.rounding_method),
        cubic_alpha=float(a.cubic_alpha),
        cubic_exclude=int(a.cubic_exclude),
        extrapolation_value=float(a.extrapolation_value),
    )


def _pool(c: _Call) -> relax.Call | None:
    a = c.attrs
    if c.order != NHWC or str(a.layout) != "NCHW":
        return None
    return getattr(relax.op.nn, op_name(c.call).removeprefix("nn."))(
        c.data,
        *([int(v) for v in values] for values in (a.pool_size, a.strides, a.padding, a.dilation)),
        bool(a.ceil_mode),
        bool(a.count_include_pad),
        layout="NHWC",
    )


_WAYS: dict[str, Callable[[_Call], relax.Call | None]] = {
    **dict.fromkeys(BY_ELEMENT, _by_element),
    **dict.fromkeys(REDUCTIONS, _reduced),
    **dict.fromkeys(PLACES, _placed),
    "broadcast_to": _broadcast,
    "concat": lambda c: relax.op.concat(c.data, c.place(c.attrs.axis)),
    "image.resize2d": _resize,
    "nn.avg_pool2d": _pool,
    "nn.log_softmax": _softmax,
    "nn.max_pool2d": _pool,
    "nn.pad": _pad,
    "nn.prelu": _prelu,
    "nn.softmax": _softmax,
    "strided_slice": _slice,
    "take": _take,
    "tile": _tile,
}


def takes(call: relax.Call) -> bool:
    """Whether a call can be rewritten for other orders."""
    return op_name(call) in _WAYS


def reordered(
    call: relax.Call, order: tuple[int, ...], tensors: list[relax.Expr]
) -> tuple[relax.Call, list[relax.Var]] | None:
    """A call on its tensors in another order, and these tensors; None if that is not an order of them, or the call
    cannot be rewritten.

    Its result has that order, and keeps dimensions that the call drops, with size one.

    Parameters
    ----------
    order : tuple of int
        The new order of the call's dimensions; tensors of fewer dimensions get leading dimensions of size one.
    tensors : list of relax.Expr
        Its arguments that are not constants.
    """
    new: dict[relax.Expr, relax.Var] = {}
    for tensor in tensors:
        shape = static_shape(tensor)
        if len(shape) > len(order):
            return None
        whole = (1,) * (len(order) - len(shape)) + shape
        moved = relax.TensorType([whole[a] for a in order], str(tensor.ty.dtype))
        new.setdefault(tensor, relax.Var(f"x{len(new)}", moved))
    made = _WAYS[op_name(call)](_Call(call, order, new))
    if made is None:
        return None
    made = relax.BlockBuilder().normalize(made)
    if not isinstance(made.ty, relax.TensorType) or isinstance(made.op, tvm.ir.GlobalVar):
        return None
    return made, [new[tensor] for tensor in tensors]
