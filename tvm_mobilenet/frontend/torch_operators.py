"""Converters for PyTorch operators that TVM's importer lacks, or converts differently.

Each takes the importer, TVM's own converter of the operator if there is one, and the node. `promoted` handles integers
among operands. PyTorch computes ``i * 0.5``, ``i / 3`` and ``i.exp()`` in floats; TVM's importer would round the
number, 0.5, to the tensor's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
import tvm
from tvm import relax

from tvm_mobilenet.frontend import nests, positions, torch_resizes


def converters(importer) -> dict:
    """Converters by the names of operators.

    Parameters
    ----------
    importer : ExportedProgramImporter
    """
    own = importer.convert_map
    every = {**_CONVERTERS, **torch_resizes.CONVERTERS}
    return {name: partial(convert, importer, own.get(name)) for name, convert in every.items()}


def _division(importer, own, node: torch.fx.Node) -> relax.Var:
    """A division with a rounding mode; a number has the tensor's dtype."""
    (a, b), how = _operands(importer, node), node.kwargs.get("rounding_mode")
    if how == "floor":
        return importer.block_builder.emit(relax.op.floor_divide(a, b))
    made = importer.block_builder.emit(relax.op.divide(a, b))  # TVM truncates a division of integers
    if how == "trunc" and node.meta["val"].dtype.is_floating_point:
        made = importer.block_builder.emit(relax.op.trunc(made))
    return made


def _with_alpha(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An addition or a subtraction. TVM's importer ignores the factor of its second operand."""
    if (alpha := node.kwargs.get("alpha", 1)) == 1:
        return own(node)
    a, b = _operands(importer, node)
    return importer.block_builder.emit(operator(a, relax.op.multiply(b, relax.const(alpha, b.ty.dtype))))


def _reduction(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    data, axes, keep = (*node.args, *(None, False)[len(node.args) - 1 :])[:3]
    keep = node.kwargs.get("keepdim", keep)
    x = _cast(importer, importer.env[data], _dtype(node.meta["val"]))  # products of integers are int64
    return importer.block_builder.emit(operator(x, axes if axes or axes == 0 else None, keep))


def _elu(importer, own, node: torch.fx.Node) -> relax.Var:
    """``scale * (relu(x) - alpha * relu(1 - exp(input_scale * x)))``, also SELU. TVM's importer ignores both scales."""
    data, alpha, scale, input_scale = (*node.args, *(1.0, 1.0, 1.0)[len(node.args) - 1 :])
    if scale == input_scale == 1:
        return own(node)
    x = importer.env[data]
    one, alpha, scale, input_scale = (relax.const(n, x.ty.dtype) for n in (1.0, alpha, scale, input_scale))
    below = relax.op.nn.relu(relax.op.subtract(one, relax.op.exp(relax.op.multiply(x, input_scale))))
    made = relax.op.subtract(relax.op.nn.relu(x), relax.op.multiply(below, alpha))
    return importer.block_builder.emit(relax.op.multiply(made, scale))


def _average(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An average pool. TVM's importer ignores ``divisor_override``."""
    data, kernel, stride, padding, ceil, _, divisor = (
        *node.args,
        *(None, [], 0, False, True, None)[len(node.args) - 1 :],
    )
    if divisor is None:
        return own(node)
    if ceil:
        raise ValueError("divisor_override with ceil_mode is not supported; export it without one of them")
    mean = operator(importer.env[data], kernel, stride or kernel, padding, count_include_pad=True)
    factor = relax.const(math.prod(kernel) / divisor, _dtype(node.meta["val"]))
    return importer.block_builder.emit(relax.op.multiply(mean, factor))


def _extreme(values, places, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """The largest or smallest values along an axis, and their places. TVM's importer sorts for them."""
    data, axis, keep = (*node.args, False)[:3]
    x = importer.env[data]
    if not x.ty.shape:
        return _only(importer, x)
    return tuple(importer.block_builder.emit(operator(x, axis, keep)) for operator in (values, places))


def _adaptive_maximum(importer, own, node: torch.fx.Node) -> tuple[relax.Var, ...]:
    """A pool of windows that may differ in size. Equal ones whose places nobody reads are an ordinary pool."""
    there, sizes = ([int(n) for n in value.shape[2:]] for value in (node.args[0].meta["val"], node.meta["val"][0]))
    uneven = len(sizes) != 2 or any(n % size for n, size in zip(there, sizes, strict=True))
    if uneven or _places_are_read(node):
        return nests.largest_of_windows(importer.block_builder, importer.env[node.args[0]], sizes)
    window = [n // size for n, size in zip(there, sizes, strict=True)]
    return (importer.block_builder.emit(relax.op.nn.max_pool2d(importer.env[node.args[0]], window, window)),)


def _places_are_read(node: torch.fx.Node) -> bool:
    """Whether the places of a pool's maxima are read. An export may name them without a reader."""
    return any(user.args[1] and user.users for user in node.users)


def _clamp(importer, own, node: torch.fx.Node) -> relax.Var:
    """Values in a range. If its lower end is above its upper end, PyTorch gives the upper one, TVM's importer the lower
    one.
    """
    ends = (*node.args[1:], *(node.kwargs.get(name) for name in ("min", "max")[len(node.args) - 1 :]))
    low, high = ends
    if not all(isinstance(end, int | float) for end in ends) or low <= high:
        return own(node)
    return importer.block_builder.emit(relax.op.clip(importer.env[node.args[0]], high, high))


def _compared(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """A comparison of truth values with numbers, which TVM's importer would make truth values."""
    a, b = (importer.env[v] if isinstance(v, torch.fx.Node) else relax.const(float(v)) for v in node.args[:2])
    if str(a.ty.dtype) != "bool" or str(b.ty.dtype) == "bool":
        return own(node)
    return importer.block_builder.emit(operator(_cast(importer, a, str(b.ty.dtype)), b))


def _composed(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An operator that Relax writes with others."""
    return importer.block_builder.emit(operator(*_operands(importer, node)))


def _only(importer, x: relax.Expr) -> tuple[relax.Var, relax.Var]:
    """The extreme of a single number, and its place."""
    return x, importer.block_builder.emit(relax.const(0, "int64"))


def _scanned(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """``cumsum`` and ``cumprod``, also of truth values, in the dtype of the result."""
    x = _cast(importer, importer.env[node.args[0]], _dtype(node.meta["val"]))
    return importer.block_builder.emit(operator(x, node.args[1])) if x.ty.shape else x


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
    if not x.ty.shape:
        return _only(importer, x)
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
    if any(str(i.ty.dtype) not in _WHOLE for i in known):
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
    masks = [(axis, i) for axis, i in enumerate(indices) if i is not None and str(i.ty.dtype) not in _WHOLE]
    if not masks:
        return bb.emit(positions.put(bb, x, indices, new, bool(add and add[0])))
    ((axis, mask),) = masks
    if len(indices) > axis + 1 or (add and add[0]) or values.meta["val"].numel() != 1:
        raise ValueError("a mask with several values: which of them goes where depends on data")
    size = [int(d) for d in mask.ty.shape]
    mask = bb.emit(relax.op.reshape(mask, [*size, *[1] * (len(x.ty.shape) - axis - len(size))]))
    return bb.emit(relax.op.where(mask, bb.emit(relax.op.reshape(new, [])), x))


_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


def _scattered(how, importer, own, node: torch.fx.Node) -> relax.Var:
    """``scatter``, ``scatter_add`` and ``scatter_reduce``."""
    data, axis, where, values, *more = node.args
    given = dict(zip(("reduce", "include_self"), more, strict=False)) | node.kwargs
    if not given.get("include_self", True) or given.get("reduce", "sum") not in _REDUCTIONS:
        raise ValueError(f"reduce={given['reduce']!r} with include_self={given.get('include_self', True)}")
    x, index = importer.env[data], importer.env[where]
    if isinstance(values, torch.fx.Node):
        updates = importer.env[values]
    else:
        updates = relax.const(np.full([int(d) for d in index.ty.shape], values), x.ty.dtype)
    how = _REDUCTIONS[given["reduce"]] if "reduce" in given else how
    bb = importer.block_builder
    return bb.emit(positions.scattered_elements(bb, x, index, updates, axis, how))


def _gathered(importer, own, node: torch.fx.Node) -> relax.Var:
    data, axis, where = node.args[:3]
    bb = importer.block_builder
    return bb.emit(positions.gathered_elements(bb, importer.env[data], importer.env[where], axis))


def _so_far(largest: bool, importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """``cummax`` and ``cummin``: the largest or smallest value up to each, and the last place of it."""
    data, axis = node.args
    return nests.extremes_so_far(importer.block_builder, importer.env[data], axis, largest)


def _log_sums(importer, own, node: torch.fx.Node) -> relax.Var:
    """``logcumsumexp``, relative to the largest value of each row."""
    (data, axis), emit = node.args, importer.block_builder.emit
    x = importer.env[data]
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


def _sample(importer, own, node: torch.fx.Node) -> relax.Var:
    """``grid_sample``. TVM's importer takes PyTorch's positions (N, H, W, 2) for Relax's (N, 2, H, W)."""
    data, grid = (importer.env[one] for one in node.args[:2])
    mode, padding, corners = node.args[2:]
    made = relax.op.image.grid_sample(
        data,
        importer.block_builder.emit(relax.op.permute_dims(grid, [0, 3, 1, 2])),
        method=("bilinear", "nearest", "bicubic")[mode],
        padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=corners,
    )
    return importer.block_builder.emit(made)


def _group_norm(importer, own, node: torch.fx.Node) -> relax.Var:
    """TVM's importer needs a weight and a bias."""
    data, weight, bias, *_ = node.args
    if weight is not None and bias is not None:
        return own(node)
    x, groups, epsilon = importer.env[data], node.args[6], node.args[7]
    dtype, channels = str(x.ty.dtype), int(x.ty.shape[1])
    gamma, beta = (
        relax.const(np.full(channels, value), dtype) if given is None else importer.env[given]
        for given, value in ((weight, 1.0), (bias, 0.0))
    )
    axes = list(range(2, len(x.ty.shape)))
    made = relax.op.nn.group_norm(x, gamma, beta, groups, channel_axis=1, axes=axes, epsilon=epsilon)
    return importer.block_builder.emit(made)


def _random_leaky(importer, own, node: torch.fx.Node) -> tuple[relax.Var]:
    """``rrelu``, which takes the mean of its two slopes at inference."""
    data, _, lower, upper, training = (*node.args, *(0.125, 1 / 3, False)[len(node.args) - 2 :])[:5]
    if training:
        return _random(importer, own, node)
    return (importer.block_builder.emit(relax.op.nn.leakyrelu(importer.env[data], (lower + upper) / 2)),)


def _random(importer, own, node: torch.fx.Node) -> relax.Var:
    raise ValueError("it draws random numbers; export the model in inference mode (model.eval())")


def _dropout(importer, own, node: torch.fx.Node):
    return _random(importer, own, node) if node.args[2] is not False else own(node)


def _maxima(importer, own, node: torch.fx.Node) -> relax.Var | tuple[relax.Var, relax.Var]:
    """A pool with the places of its maxima, for which TVM's importer gives zeros."""
    made = own(node)
    if not _places_are_read(node):
        return made
    data, kernel, *others = node.args
    stride, pad, dilation = (*others, *([], [0], [1])[len(others) :])[:3]
    each = [list(given) * (1 if len(given) == 2 else 2) for given in (kernel, stride or kernel, pad, dilation)]
    bb = importer.block_builder
    largest = bb.emit(relax.TupleGetItem(made, 0)) if isinstance(made.ty, relax.TupleType) else made
    return largest, nests.places_in_windows(bb, importer.env[data], largest, *each)


def _convolution(importer, own, node: torch.fx.Node) -> relax.Var:
    """A convolution, whose data may have no batch."""
    data, emit = node.args[0], importer.block_builder.emit
    x = importer.env[data]
    if len(x.ty.shape) == len(importer.env[node.args[1]].ty.shape):
        return own(node)
    importer.env[data] = emit(relax.op.expand_dims(x, 0))
    try:
        return emit(relax.op.squeeze(own(node), [0]))
    finally:
        importer.env[data] = x


def _whole_power(importer, own, node: torch.fx.Node) -> relax.Var:
    """A power of integers, which TVM computes in floats only."""
    dtype = _dtype(node.meta["val"])
    if dtype not in _WHOLE:
        return own(node)
    a, b = (_cast(importer, one, "float64") for one in _operands(importer, node))
    made = importer.block_builder.emit(relax.op.power(a, b))
    return _cast(importer, _cast(importer, made, "int64"), dtype)  # which keeps the low bits of what is too large


def _variance_and_mean(importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    data, axes, x = node.args[0], node.args[1] if len(node.args) > 1 else None, importer.env[node.args[0]]
    keep, less = node.kwargs.get("keepdim", False), node.kwargs.get("correction", 1)
    emit = importer.block_builder.emit
    count = data.meta["val"].numel() / max(1, node.meta["val"][0].numel())
    variance = emit(relax.op.variance(x, axes or None, keep))
    if less := (1 if less is None else less):
        variance = emit(relax.op.multiply(variance, relax.const(count / (count - less), x.ty.dtype)))
    return variance, emit(relax.op.mean(x, axes or None, keep))


def _power_of_two(x: relax.Expr) -> relax.Expr:
    return relax.op.power(relax.const(2.0, x.ty.dtype), x)


def _hypotenuse(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    return relax.op.sqrt(relax.op.add(relax.op.multiply(a, a), relax.op.multiply(b, b)))


def _complement(x: relax.Expr) -> relax.Expr:
    return relax.op.subtract(relax.const(1.0, x.ty.dtype), relax.op.erf(x))


_COMPARISONS = {
    "eq": relax.op.equal,
    "ne": relax.op.not_equal,
    "lt": relax.op.less,
    "le": relax.op.less_equal,
    "gt": relax.op.greater,
    "ge": relax.op.greater_equal,
}
_CONVERTERS = {
    "clamp.default": _clamp,
    **{
        f"{name}.{of}": partial(_compared, operator)
        for name, operator in _COMPARISONS.items()
        for of in ("Scalar", "Tensor")
    },
    "exp2.default": partial(_composed, _power_of_two),
    "erfc.default": partial(_composed, _complement),
    "hypot.default": partial(_composed, _hypotenuse),
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
    "gather.default": _gathered,
    "cummax.default": partial(_so_far, True),
    "cummin.default": partial(_so_far, False),
    "logcumsumexp.default": _log_sums,
    "embedding.default": _embedded,
    "unfold.default": _windows,
    "grid_sampler_2d.default": _sample,
    "native_group_norm.default": _group_norm,
    "rrelu_with_noise_functional.default": _random_leaky,
    "var_mean.correction": _variance_and_mean,
    "native_dropout.default": _dropout,
    "max_pool2d_with_indices.default": _maxima,
    **dict.fromkeys(
        ("bernoulli.p", "rand.default", "rand_like.default", "randint.low", "randn.default", "randn_like.default"),
        _random,
    ),
    "__lshift__.Scalar": partial(_composed, relax.op.left_shift),
    "__rshift__.Scalar": partial(_composed, relax.op.right_shift),
    "adaptive_max_pool2d.default": _adaptive_maximum,
    "adaptive_max_pool3d.default": _adaptive_maximum,
    "convolution.default": _convolution,
    "pow.Tensor_Tensor": _whole_power,
    "cumsum.default": partial(_scanned, relax.op.cumsum),
    "cumprod.default": partial(_scanned, relax.op.cumprod),
    "max.dim": partial(_extreme, relax.op.max, relax.op.argmax),
    "min.dim": partial(_extreme, relax.op.min, relax.op.argmin),
    "add.Tensor": partial(_with_alpha, relax.op.add),
    "sub.Tensor": partial(_with_alpha, relax.op.subtract),
    "elu.default": _elu,
    "avg_pool2d.default": partial(_average, relax.op.nn.avg_pool2d),
    "avg_pool3d.default": partial(_average, relax.op.nn.avg_pool3d),
    "div.Tensor_mode": _division,
    "div.Scalar_mode": _division,
    "amax.default": partial(_reduction, relax.op.max),
    "amin.default": partial(_reduction, relax.op.min),
    "prod.dim_int": partial(_reduction, relax.op.prod),
}


def _operands(importer, node: torch.fx.Node) -> list[relax.Expr]:
    """Both operands in the dtype of the result; a number becomes a constant."""
    dtype, given = _dtype(node.meta["val"]), (importer.env.get(v, v) for v in node.args[:2])
    return [_cast(importer, v, dtype) if isinstance(v, relax.Expr) else relax.const(v, dtype) for v in given]


def _cast(importer, value: relax.Expr, dtype: str) -> relax.Expr:
    same = str(value.ty.dtype) == dtype
    return value if same else importer.block_builder.emit(relax.op.astype(value, dtype))


@contextmanager
def promoted(importer, node: torch.fx.Node) -> Iterator[None]:
    """While an element-wise operator is converted: its integer operands as the floats in which PyTorch computes it."""
    wanted = _wanted(node)
    given = {
        source: value
        for source in node.all_input_nodes
        for value in [importer.env.get(source)]
        if wanted and isinstance(value, relax.Expr) and str(getattr(value.ty, "dtype", "")) in _WHOLE
    }
    try:
        for source, value in given.items():
            importer.env[source] = importer.block_builder.emit(relax.op.astype(value, wanted))
        yield
    finally:
        importer.env.update(given)


_WHOLE = ("int64", "int32", "int16", "int8", "uint8")


def _wanted(node: torch.fx.Node) -> str:
    """The float dtype in which PyTorch computes an element-wise operator; empty if it computes in integers."""
    if torch.Tag.pointwise not in getattr(node.target, "tags", ()):
        return ""
    dtype = _dtype(node.meta.get("val"))
    if dtype.startswith("float"):
        return dtype
    return "float32" if any(isinstance(argument, float) for argument in node.args) else ""  # a comparison


def _dtype(value) -> str:
    return str(value.dtype).removeprefix("torch.") if isinstance(value, torch.Tensor) else ""
