"""Converters for PyTorch operators that sort, or read and write values at positions.

TVM's importer sorts by calls of its own runtime, and knows a few forms of indexing.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import tvm
from tvm import relax

from tvm_mobilenet.frontend import nests, positions
from tvm_mobilenet.frontend.torch_dtypes import WHOLE, cast, dtype_of


def _extreme(values, places, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """The largest or smallest values along an axis, and their places. TVM's importer sorts for them."""
    data, axis, keep = (*node.args, False)[:3]
    x = importer.env[data]
    order = cast(importer, x, "int8") if str(x.ty.dtype) == "bool" else x
    return importer.block_builder.emit(values(x, axis, keep)), importer.block_builder.emit(places(order, axis, keep))


def _scanned(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """``cumsum`` and ``cumprod``, also of truth values, in the dtype of the result."""
    x = cast(importer, importer.env[node.args[0]], dtype_of(node.meta["val"]))
    return importer.block_builder.emit(operator(x, node.args[1]))


def _ranked(importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """``topk`` and ``sort``; TVM calls its own runtime for them."""
    named = {"topk": ("k", "dim", "largest", "sorted"), "sort": ("dim", "descending")}[node.target._opname]
    stable = node.target._overloadname == "stable"
    names = ("stable", *named) if stable else named
    given = {"dim": -1, "largest": True, "descending": False}
    given |= dict(zip(names, node.args[1:], strict=False)) | node.kwargs
    if not given.get("sorted", True):
        raise ValueError("sorted=False leaves the order of its values open; export it with sorted=True")
    x, axis = importer.env[node.args[0]], given["dim"]
    count = given.get("k", int(x.ty.shape[axis]))
    largest = given["descending"] if node.target._opname == "sort" else given["largest"]
    return nests.ranked(importer.block_builder, x, axis, int(count), bool(largest))


def _at_rank(place, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """The value of one rank along an axis, and its position: ``kthvalue`` and ``median``."""
    data, *others = node.args
    x = importer.env[data]
    place, axis, keep = place(x, *others)
    made = nests.ranked(importer.block_builder, x, axis, place + 1, largest=False)
    emit, axis = importer.block_builder.emit, axis % len(x.ty.shape)
    cut = [emit(relax.op.strided_slice(one, [axis], [place], [place + 1])) for one in made]
    return tuple(one if keep else emit(relax.op.squeeze(one, [axis])) for one in cut)


def _kth(x: relax.Expr, k: int, axis: int = -1, keep: bool = False) -> tuple[int, int, bool]:
    return k - 1, axis, keep


def _median(x: relax.Expr, axis: int = -1, keep: bool = False) -> tuple[int, int, bool]:
    return (int(x.ty.shape[axis]) - 1) // 2, axis, keep


def _median_of_all(importer, own, node: torch.fx.Node) -> relax.Var:
    x, emit = importer.env[node.args[0]], importer.block_builder.emit
    size = math.prod(int(d) for d in x.ty.shape)
    place = (size - 1) // 2
    values, _ = nests.ranked(importer.block_builder, emit(relax.op.reshape(x, [size])), 0, place + 1, largest=False)
    return emit(relax.op.reshape(emit(relax.op.strided_slice(values, [0], [place], [place + 1])), []))


def _index(importer, own, node: torch.fx.Node) -> relax.Var:
    """``x[i, :, j]`` with tensors of indices. TVM's importer knows a few forms of it."""
    data, given = node.args
    indices = [None if one is None else importer.env[one] for one in given]
    known = [i for i in indices if i is not None]
    if any(str(i.ty.dtype) not in WHOLE for i in known):
        raise ValueError("its indices are a mask; the shape of its output depends on data")
    if len(known) == 1 and isinstance(known[0], tvm.ir.Constant) and known[0].value.numpy().min(initial=0) >= 0:
        return own(node)  # it becomes a take, which knows no negative indices
    return nests.indexed(importer.block_builder, importer.env[data], indices)


def _put(importer, own, node: torch.fx.Node) -> relax.Var:
    """``x[i, :, j] = values`` and ``x[mask] = value``. TVM's importer knows a few forms of it."""
    data, given, values, *add = node.args
    x, new = importer.env[data], importer.env[values]
    indices = [None if one is None else importer.env[one] for one in given]
    bb = importer.block_builder
    masks = [(axis, i) for axis, i in enumerate(indices) if i is not None and str(i.ty.dtype) not in WHOLE]
    if not masks and add and add[0] and str(x.ty.dtype) == "bool":  # a sum of truth values is whether there is one
        x, new = (bb.emit(relax.op.astype(one, "int32")) for one in (x, new))
        return bb.emit(relax.op.astype(bb.emit(positions.put(bb, x, indices, new, True)), "bool"))
    if not masks:
        return bb.emit(positions.put(bb, x, indices, new, bool(add and add[0])))
    ((axis, mask),) = masks
    if len(indices) > axis + 1 or (add and add[0]) or values.meta["val"].numel() != 1:
        raise ValueError("a mask with several values: which of them goes where depends on data")
    size = [int(d) for d in mask.ty.shape]
    mask = bb.emit(relax.op.reshape(mask, [*size, *[1] * (len(x.ty.shape) - axis - len(size))]))
    return bb.emit(relax.op.where(mask, bb.emit(relax.op.reshape(new, [])), x))


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min", "add": "add", "multiply": "mul"}


_OF_TRUTHS = {"add": "max", "mul": "min"}  # LLVM has no arithmetic of truth values


def _without_effect(how: str, dtype: str) -> float:
    """The value that changes no sum, product or extreme."""
    if how in ("add", "mul"):
        return float(how == "mul")
    if dtype.startswith("float"):
        return -np.inf if how == "max" else np.inf
    return np.iinfo(dtype).min if how == "max" else np.iinfo(dtype).max


def _scattered(how, importer, own, node: torch.fx.Node) -> relax.Var:
    """``scatter``, ``scatter_add`` and ``scatter_reduce``."""
    data, axis, where, values, *more = node.args
    given = dict(zip(("reduce", "include_self"), more, strict=False)) | node.kwargs
    x, index = importer.env[data], importer.env[where]
    if isinstance(values, torch.fx.Node):
        updates = importer.env[values]
    else:
        updates = relax.const(np.full([int(d) for d in index.ty.shape], values), x.ty.dtype)
    return _reduced(importer.block_builder, x, index, updates, axis, given, how)


def _reduced_at(importer, own, node: torch.fx.Node) -> relax.Var:
    """``index_reduce``: a row of places for whole slices."""
    data, axis, where, values, reduce = node.args
    x, index, updates, bb = *(importer.env[one] for one in (data, where, values)), importer.block_builder
    shape = [int(d) for d in updates.ty.shape]
    row = bb.emit(relax.op.reshape(index, positions.along(axis % len(shape), len(shape))))
    index = bb.emit(relax.op.broadcast_to(row, shape))
    return _reduced(bb, x, index, updates, axis, {"reduce": reduce} | node.kwargs, "update")


def _reduced(bb, x: relax.Expr, index: relax.Expr, updates: relax.Expr, axis: int, given: dict, how: str) -> relax.Var:
    """Values at places: in place of the data's, or reduced with these, or with each other alone."""
    mean = given.get("reduce") == "mean"
    how = "add" if mean else _REDUCTIONS[given["reduce"]] if "reduce" in given else how
    alone = not given.get("include_self", True)
    if str(x.ty.dtype) != "bool":
        return _combined(bb, x, index, updates, axis, how, mean, alone)
    x, updates = (bb.emit(relax.op.astype(one, "int32")) for one in (x, updates))
    made = _combined(bb, x, index, updates, axis, _OF_TRUTHS.get(how, how), mean, alone)
    return bb.emit(relax.op.astype(made, "bool"))


def _combined(bb, x, index, updates, axis: int, how: str, mean: bool, alone: bool) -> relax.Var:
    dtype = str(x.ty.dtype)

    def filled(like: relax.Expr, value: float) -> relax.Expr:
        return relax.const(np.full([int(d) for d in like.ty.shape], value, dtype))

    def scattered(into: relax.Expr, values: relax.Expr, how: str) -> relax.Var:
        return bb.emit(positions.scattered_elements(bb, into, index, values, axis, how))

    start = scattered(x, filled(index, _without_effect(how, dtype)), "update") if alone else x
    made = scattered(start, updates, how)
    if not mean:
        return made
    ones = filled(x, 1.0)
    count = scattered(scattered(ones, filled(index, 0.0), "update") if alone else ones, filled(index, 1.0), "add")
    return bb.emit((relax.op.divide if dtype.startswith("float") else relax.op.floor_divide)(made, count))


def _gathered(importer, own, node: torch.fx.Node) -> relax.Var:
    data, axis, where = node.args[:3]
    bb = importer.block_builder
    return bb.emit(positions.gathered_elements(bb, importer.env[data], importer.env[where], axis))


def _so_far(largest: bool, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """``cummax`` and ``cummin``: the largest or smallest value up to each, and the last place of it."""
    x, axis = importer.env[node.args[0]], node.args[1]
    return nests.extremes_so_far(importer.block_builder, x, axis, largest)


def _log_sums(importer, own, node: torch.fx.Node) -> relax.Var:
    """``logcumsumexp``, relative to the largest value of each row."""
    (data, axis), emit = node.args, importer.block_builder.emit
    x = cast(importer, importer.env[data], dtype_of(node.meta["val"]))
    most = emit(relax.op.max(x, axis, True))
    sums = emit(relax.op.cumsum(emit(relax.op.exp(emit(relax.op.subtract(x, most)))), axis))
    return emit(relax.op.add(emit(relax.op.log(sums)), most))


def _embedded(importer, own, node: torch.fx.Node) -> relax.Var:
    """Rows of a table. TVM reads outside of it at indices outside of it, which an input may have."""
    table, where = (importer.env[one] for one in node.args[:2])
    return nests.indexed(importer.block_builder, table, [where])


def _windows(importer, own, node: torch.fx.Node) -> relax.Var:
    """``x.unfold(axis, size, step)``: the windows along an axis, their values in a last dimension of their own."""
    data, axis, size, step = node.args
    x, emit = importer.env[data], importer.block_builder.emit
    shape = [int(d) for d in x.ty.shape]
    axis %= len(shape)
    starts = range(0, shape[axis] - size + 1, step)
    places = relax.const(np.array([start + i for start in starts for i in range(size)]), "int64")
    made = emit(relax.op.take(x, places, axis))
    made = emit(relax.op.reshape(made, [*shape[:axis], len(starts), size, *shape[axis + 1 :]]))
    order = [i for i in range(len(shape) + 1) if i != axis + 1]
    return emit(relax.op.permute_dims(made, [*order, axis + 1]))


CONVERTERS = {
    "topk.default": _ranked,
    "sort.default": _ranked,
    "sort.stable": _ranked,
    "kthvalue.default": partial(_at_rank, _kth),
    "median.dim": partial(_at_rank, _median),
    "median.default": _median_of_all,
    "index.Tensor": _index,
    "index_put.default": _put,
    "scatter.src": partial(_scattered, "update"),
    "scatter.value": partial(_scattered, "update"),
    "scatter.reduce": partial(_scattered, "update"),
    "scatter_add.default": partial(_scattered, "add"),
    "scatter_reduce.two": partial(_scattered, "update"),
    "index_reduce.default": _reduced_at,
    "gather.default": _gathered,
    "cummax.default": partial(_so_far, True),
    "cummin.default": partial(_so_far, False),
    "logcumsumexp.default": _log_sums,
    "embedding.default": _embedded,
    "unfold.default": _windows,
    "cumsum.default": partial(_scanned, relax.op.cumsum),
    "cumprod.default": partial(_scanned, relax.op.cumprod),
    "max.dim": partial(_extreme, relax.op.max, relax.op.argmax),
    "min.dim": partial(_extreme, relax.op.min, relax.op.argmin),
}
