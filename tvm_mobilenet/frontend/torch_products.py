"""Converters for PyTorch's matrix products, norms with their statistics, and sums of rows of tables.

TVM's importer computes every product in float32, and gives one result of a norm for all three.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from tvm import relax

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import nests
from tvm_mobilenet.frontend.positions import sizes_of
from tvm_mobilenet.frontend.torch_dtypes import WHOLE, cast, dtype_of

op = relax.op


def _product(importer, own, node: torch.fx.Node) -> relax.Var:
    dtype = dtype_of(node.meta["val"])
    if dtype == "float32":
        return own(node)
    a, b = (importer.env[one] for one in node.args)
    return importer.block_builder.emit(op.matmul(a, b, out_dtype=dtype))


def _plus_product(total: bool, importer, own, node: torch.fx.Node) -> relax.Var:
    """``beta * x + alpha * (a @ b)``, of all of a batch if it is a ``total``."""
    dtype = dtype_of(node.meta["val"])
    if own is not None and dtype == "float32":
        return own(node)
    emit = importer.block_builder.emit
    x, a, b = (importer.env[one] for one in node.args[:3])
    made = emit(op.matmul(a, b, out_dtype=dtype))
    made = emit(op.sum(made, [0])) if total else made
    beta, alpha = (node.kwargs.get(name, 1) for name in ("beta", "alpha"))
    if dtype in WHOLE:
        beta, alpha = int(beta), int(alpha)
    made = made if alpha == 1 else emit(op.multiply(made, relax.const(alpha, dtype)))
    if beta == 0:  # x may be no number then
        return made
    return emit(op.add(x if beta == 1 else emit(op.multiply(x, relax.const(beta, dtype))), made))


def _others_are_read(node: torch.fx.Node) -> bool:
    """Whether a result but the first is read. An export may name them without a reader."""
    return any(user.args[1] and user.users for user in node.users)


def _moments(emit, x: relax.Expr, axes: list[int], epsilon: float) -> tuple[relax.Var, relax.Var]:
    """The mean along axes, and the inverse of the standard deviation."""
    variance = emit(op.add(emit(op.variance(x, axes)), relax.const(epsilon, x.ty.dtype)))
    return emit(op.mean(x, axes)), emit(op.rsqrt(variance))


def _with_moments(moments, importer, own, node: torch.fx.Node) -> tuple[relax.Var, ...]:
    """A norm with the mean and the inverse deviation of its parts."""
    made = own(node)
    made = importer.block_builder.emit(relax.TupleGetItem(made, 0)) if isinstance(made.ty, relax.TupleType) else made
    if not _others_are_read(node):
        return (made,)
    emit, shapes = importer.block_builder.emit, [[int(d) for d in v.shape] for v in node.meta["val"][1:]]
    found = moments(emit, importer.env[node.args[0]], node)
    return made, *(emit(op.reshape(one, shape)) for one, shape in zip(found, shapes, strict=True))


def _of_layers(emit, x: relax.Expr, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    rank, count = len(sizes_of(x)), len(node.args[1])
    return _moments(emit, x, list(range(rank - count, rank)), node.args[4])


def _of_groups(emit, x: relax.Expr, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    shape, groups = sizes_of(x), node.args[6]
    x = emit(op.reshape(x, [shape[0], groups, math.prod(shape[1:]) // groups]))
    return _moments(emit, x, [2], node.args[7])


def _group_norm(importer, own, node: torch.fx.Node) -> tuple[relax.Var, ...]:
    """A norm of groups, with its moments. TVM's importer needs a weight and a bias."""
    data, weight, bias, *_ = node.args
    x, groups, epsilon = importer.env[data], node.args[6], node.args[7]
    dtype, channels = str(x.ty.dtype), int(x.ty.shape[1])
    gamma, beta = (
        relax.const(np.full(channels, value), dtype) if given is None else importer.env[given]
        for given, value in ((weight, 1.0), (bias, 0.0))
    )
    axes = list(range(2, len(x.ty.shape)))
    made = op.nn.group_norm(x, gamma, beta, groups, channel_axis=1, axes=axes, epsilon=epsilon)
    return _with_moments(_of_groups, importer, lambda _: importer.block_builder.emit(made), node)


def _of_channels(emit, x: relax.Expr, epsilon: float) -> tuple[relax.Var, relax.Var]:
    return _moments(emit, x, [axis for axis in range(len(sizes_of(x))) if axis != 1], epsilon)


def _trained_norm(importer, own, node: torch.fx.Node) -> tuple[relax.Var, ...]:
    """A batch norm by the statistics of its own data, which also gives the next running ones."""
    data, weight, bias, mean, variance, training, momentum, epsilon = node.args
    emit, x = importer.block_builder.emit, importer.env[data]
    if not training:
        raise ValueError("it has statistics of its own, but is not in training mode; use batch_norm")
    dtype, shape = x.ty.dtype, sizes_of(x)
    count = math.prod(shape) // shape[1]
    own_mean, inverse = _of_channels(emit, x, epsilon)
    along = [1, shape[1], *[1] * (len(shape) - 2)]

    def apart(value: relax.Expr) -> relax.Expr:
        return emit(op.reshape(value, along))

    made = emit(op.multiply(emit(op.subtract(x, apart(own_mean))), apart(inverse)))
    made = made if weight is None else emit(op.multiply(made, apart(importer.env[weight])))
    made = made if bias is None else emit(op.add(made, apart(importer.env[bias])))
    spread = emit(op.variance(x, [axis for axis in range(len(shape)) if axis != 1]))
    spread = emit(op.multiply(spread, relax.const(count / max(1, count - 1), dtype)))

    def moved(before: relax.Expr, now: relax.Expr) -> relax.Expr:
        kept = emit(op.multiply(before, relax.const(1 - momentum, dtype)))
        return emit(op.add(kept, emit(op.multiply(now, relax.const(momentum, dtype)))))

    return made, own_mean, inverse, moved(importer.env[mean], own_mean), moved(importer.env[variance], spread)


def _bags(importer, own, node: torch.fx.Node) -> tuple[relax.Var]:
    """``embedding_bag``: the sum, the mean or the largest of the rows of each bag, which begins at an offset."""
    names = ("table", "rows", "offsets", "scale", "mode", "sparse", "shares", "last", "padding")
    given = dict.fromkeys(names) | dict(zip(names, node.args, strict=False)) | node.kwargs
    bb, emit = importer.block_builder, importer.block_builder.emit
    table, rows, offsets = (importer.env[given[name]] for name in names[:3])
    offsets = cast(importer, offsets, "int64")
    values = nests.indexed(bb, table, [rows])
    (count, width), dtype = sizes_of(values), str(table.ty.dtype)
    (bags,) = sizes_of(offsets)
    limits.check_tensor(bags * count * (width if given["mode"] == 2 else 1), 4, "the bags of embedding_bag")
    last = emit(relax.const(np.array([count]), "int64"))
    if given["last"]:
        bags -= 1
    starts = emit(op.strided_slice(offsets, [0], [0], [bags])) if given["last"] else offsets
    ends = emit(op.concat([emit(op.strided_slice(offsets, [0], [1], [bags])), last])) if bags > 1 else last
    at = relax.const(np.arange(count), "int64")
    begun, over = (emit(op.less_equal(emit(op.expand_dims(one, 1)), at)) for one in (starts, ends))
    member = emit(op.logical_and(begun, emit(op.logical_not(over))))
    if given["padding"] is not None and given["padding"] >= 0:
        member = emit(op.logical_and(member, emit(op.not_equal(rows, relax.const(given["padding"], rows.ty.dtype)))))
    if given["shares"] is not None:
        values = emit(op.multiply(values, emit(op.expand_dims(importer.env[given["shares"]], 1))))
    number = emit(op.astype(member, dtype))
    many = emit(op.sum(number, [1], keepdims=True))
    if given["mode"] == 2:
        kept = emit(op.where(emit(op.expand_dims(member, 2)), values, relax.const(-np.inf, dtype)))
        filled = emit(op.greater(many, relax.const(0, dtype)))
        return (emit(op.where(filled, emit(op.max(kept, [1])), relax.const(0, dtype))),)
    made = emit(op.matmul(number, values))
    if given["mode"] == 1:
        made = emit(op.divide(made, emit(op.maximum(many, relax.const(1, dtype)))))
    return (made,)


CONVERTERS = {
    **dict.fromkeys(("matmul.default", "mm.default", "bmm.default"), _product),
    **dict.fromkeys(("addmm.default", "baddbmm.default", "addmv.default"), partial(_plus_product, False)),
    "addbmm.default": partial(_plus_product, True),
    "native_group_norm.default": _group_norm,
    "native_layer_norm.default": partial(_with_moments, _of_layers),
    "_native_batch_norm_legit.no_stats": partial(
        _with_moments, lambda emit, x, node: _of_channels(emit, x, node.args[5])
    ),
    "_native_batch_norm_legit_functional.default": _trained_norm,
    **dict.fromkeys(("_embedding_bag.default", "_embedding_bag_forward_only.default"), _bags),
}
