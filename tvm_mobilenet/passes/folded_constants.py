"""Operators whose operands are all constants, computed at import: sizes, positions and masks, as exporters write them.

Numpy computes the frequent operators. TVM compiles and runs the others, in a tenth of a second each.
"""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_mobilenet.passes.rewrite import array, static_shape

_NUMPY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "power": np.power,
    "sqrt": np.sqrt,
    "rsqrt": lambda a: 1 / np.sqrt(a),
    "negative": np.negative,
    "abs": np.abs,
    "exp": np.exp,
    "isnan": np.isnan,
    "where": np.where,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_not": np.logical_not,
    "floor_divide": np.floor_divide,
}


def of(name: str, call: relax.Call, bb: relax.BlockBuilder) -> relax.Expr | None:
    """The result of an operator as a constant; None if one of its tensors is not constant, or neither numpy nor TVM can
    compute it.

    Parameters
    ----------
    name : str
        The name of the operator.
    call : relax.Call
    bb : relax.BlockBuilder
        It infers the type of the call.
    """
    if name == "arange":
        ends = [getattr(a, "value", None) for a in call.args]
        return None if None in ends else constant(np.arange(*ends).astype(str(call.attrs.dtype)))
    if name in _FILLED and (value := _fill(name, call)) is not None:
        like = bb.normalize(call).ty
        if isinstance(like.shape, relax.ShapeExpr):
            return constant(np.full([int(d) for d in like.shape], value, str(like.dtype)))
    values = [array(a) for a in _tensors(call)]
    if any(v is None for v in values) or not isinstance(call.op, tvm.ir.Op) or name == "call_dps_packed":
        return None
    call = bb.normalize(call)
    if not isinstance(call.ty, relax.TensorType):
        return None
    if name in ("reshape", "broadcast_to"):
        return constant(getattr(np, name)(values[0], tuple(int(d) for d in call.args[1].values)))
    if name == "take":
        return constant(np.take(*values, axis=call.attrs.axis and int(call.attrs.axis), mode="wrap"))
    if name == "permute_dims":
        axes = call.attrs.axes
        return constant(np.transpose(values[0], None if axes is None else [int(a) for a in axes]))
    if name in ("squeeze", "expand_dims"):
        return constant(values[0].reshape(static_shape(call)))
    if name == "strided_slice":
        return _sliced(values[0], call) or _by_tvm(call, bb)
    if name == "clip":
        ends = [getattr(a, "value", None) for a in call.args[1:]]
        return None if None in ends else constant(np.clip(values[0], *ends).astype(values[0].dtype))
    if name == "astype":
        return constant(values[0].astype(str(call.attrs.dtype)))
    if name in _NUMPY:
        with np.errstate(all="ignore"):
            return constant(np.asarray(_NUMPY[name](*values)).astype(str(call.ty.dtype)))
    return _by_tvm(call, bb)


_FILLED = {"zeros": 0, "zeros_like": 0, "ones": 1, "ones_like": 1, "full": None, "full_like": None}


def _fill(name: str, call: relax.Call) -> np.ndarray | int | None:
    """The value with which an operator fills its result; None if it is not constant."""
    return array(call.args[1]) if _FILLED[name] is None else _FILLED[name]


def _sliced(value: np.ndarray, call: relax.Call) -> relax.Expr | None:
    axes, begins, ends, *strides = ([int(number.value) for number in given.fields] for given in call.args[1:])
    taken = [slice(None)] * value.ndim
    for i, (axis, begin, end) in enumerate(zip(axes, begins, ends, strict=True)):
        taken[axis] = slice(begin, end, strides[0][i] if strides else 1)
    found = value[tuple(taken)]
    return constant(found) if found.shape == static_shape(call) else None


def constant(value: np.ndarray) -> relax.Expr:
    """An array in Relax, with its dtype."""
    value = np.asarray(value, order="C")
    return relax.const(value, str(value.dtype))  # without the argument, a single value would lose its dtype


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors among the arguments, including the fields of tuples."""
    flat = [f for a in call.args for f in (a.fields if isinstance(a, relax.Tuple) else [a])]
    return [a for a in flat if isinstance(getattr(a, "ty", None), relax.TensorType | relax.TupleType)]


def _by_tvm(call: relax.Call, where: relax.BlockBuilder) -> relax.Expr | None:
    """The tensor that TVM computes from constants, by an operator or a loop nest of this builder; None if it cannot."""
    bb = relax.BlockBuilder()
    if call.op.name == "relax.call_tir":
        nest = bb.add_func(where.get()[call.args[0]], "nest")
        call = bb.normalize(relax.Call(call.op, [nest, *call.args[1:]], call.attrs, call.ty_args))
    with bb.function("main", []):
        with bb.dataflow():
            out = bb.emit_output(bb.emit(call))
        bb.emit_func_output(out)
    try:
        mod = relax.transform.LegalizeOps()(bb.get())
        main = relax.transform.FoldConstant()(mod)["main"]
    except (RuntimeError, TypeError, ValueError):
        return None
    made = [b.value for block in main.body.blocks for b in block.bindings] or [main.body.body]
    return made[-1] if isinstance(made[-1], tvm.ir.Constant) else None
