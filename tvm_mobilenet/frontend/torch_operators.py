"""Converters for PyTorch operators that TVM's importer lacks, or converts differently.

Each takes the importer, TVM's own converter of the operator if there is one, and the node. Those that sort or index
are in `torch_positions`, those that resize in `torch_resizes`, products and norms in `torch_products`, single
functions in `torch_functions` and `torch_special`.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from tvm import relax

from tvm_mobilenet.frontend import (
    nests,
    torch_functions,
    torch_positions,
    torch_products,
    torch_resizes,
    torch_special,
)
from tvm_mobilenet.frontend.torch_dtypes import WHOLE, cast, dtype_of, operands


def converters(importer) -> dict:
    """Converters by the names of operators.

    Parameters
    ----------
    importer : ExportedProgramImporter
    """
    own = importer.convert_map
    parts = (torch_functions, torch_positions, torch_products, torch_resizes, torch_special)
    every = {**_CONVERTERS, **{name: convert for part in parts for name, convert in part.CONVERTERS.items()}}
    return {name: partial(convert, importer, own.get(name)) for name, convert in every.items()}


def random(importer):
    """The converter of every operator that draws random numbers: a reason why there is none."""
    return partial(_random, importer, None)


def _division(importer, own, node: torch.fx.Node) -> relax.Var:
    """A division with a rounding mode; a number has the tensor's dtype."""
    (a, b), how = operands(importer, node), node.kwargs.get("rounding_mode")
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
    a, b = operands(importer, node)
    return importer.block_builder.emit(operator(a, relax.op.multiply(b, relax.const(alpha, b.ty.dtype))))


def _reduction(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    data, axes, keep = (*node.args, *(None, False)[len(node.args) - 1 :])[:3]
    keep = node.kwargs.get("keepdim", keep)
    x = cast(importer, importer.env[data], dtype_of(node.meta["val"]))  # products of integers are int64
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
    factor = relax.const(math.prod(kernel) / divisor, dtype_of(node.meta["val"]))
    return importer.block_builder.emit(relax.op.multiply(mean, factor))


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
    if importer.env[node.args[0]].ty.dtype == "bool":
        return _clamp_by_tensors(importer, own, node)
    if not all(isinstance(end, int | float) for end in ends) or low <= high:
        return own(node)
    return importer.block_builder.emit(relax.op.clip(importer.env[node.args[0]], high, high))


def _clamp_by_tensors(importer, own, node: torch.fx.Node) -> relax.Var:
    """Values in a range whose ends are tensors; one of them may be missing."""
    dtype, emit = dtype_of(node.meta["val"]), importer.block_builder.emit
    x, *ends = (importer.env.get(one, one) for one in (*node.args, None)[:3])
    ends = [node.kwargs.get(name) if end is None else end for end, name in zip(ends, ("min", "max"), strict=True)]
    x = cast(importer, x, dtype)
    for operator, end in zip((relax.op.maximum, relax.op.minimum), ends, strict=True):
        if end is not None:
            end = importer.env.get(end, end)
            x = emit(
                operator(x, cast(importer, end, dtype) if isinstance(end, relax.Expr) else relax.const(end, dtype))
            )
    return x


def _negated(importer, own, node: torch.fx.Node) -> relax.Var:
    """A negation, of bytes modulo 256."""
    x = importer.env[node.args[0]]
    if str(x.ty.dtype) != "uint8":
        return own(node)
    return importer.block_builder.emit(relax.op.subtract(relax.const(0, "uint8"), x))


def _pieces(importer, own, node: torch.fx.Node):
    """A split. TVM's importer takes one into a single piece for a tensor."""
    return (importer.env[node.args[0]],) if len(node.meta["val"]) == 1 else own(node)


def _of_range(importer, own, node: torch.fx.Node) -> relax.Var:
    """``hardtanh``, of integers too."""
    dtype, (low, high) = dtype_of(node.meta["val"]), (*node.args[1:], *(-1, 1)[len(node.args) - 1 :])
    if dtype.startswith("float"):
        return own(node)
    x = cast(importer, importer.env[node.args[0]], dtype)
    x = importer.block_builder.emit(relax.op.maximum(x, relax.const(int(low), dtype)))
    return importer.block_builder.emit(relax.op.minimum(x, relax.const(int(high), dtype)))


def _item(importer, own, node: torch.fx.Node) -> relax.Var:
    """One of several results. TVM's importer takes a single one for each of them."""
    made, place = importer.env[node.args[0]], node.args[1]
    if isinstance(made, tuple) and place >= len(made):
        raise ValueError(f"result {place} of {node.args[0].target.__name__} is not computed; leave it out of the model")
    return own(node)


def _compared(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """A comparison of truth values with numbers, which TVM's importer would make truth values."""
    a, b = (importer.env[v] if isinstance(v, torch.fx.Node) else relax.const(float(v)) for v in node.args[:2])
    if str(a.ty.dtype) != "bool" or str(b.ty.dtype) == "bool":
        return own(node)
    return importer.block_builder.emit(operator(cast(importer, a, str(b.ty.dtype)), b))


def _composed(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """An operator that Relax writes with others."""
    return importer.block_builder.emit(operator(*operands(importer, node)))


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


def _random_leaky(importer, own, node: torch.fx.Node) -> tuple[relax.Var]:
    """``rrelu``, which takes the mean of its two slopes at inference."""
    data, _, lower, upper, training = (*node.args, *(0.125, 1 / 3, False)[len(node.args) - 2 :])[:5]
    if training:
        return _random(importer, own, node)
    return (importer.block_builder.emit(relax.op.nn.leakyrelu(importer.env[data], (lower + upper) / 2)),)


def _random(importer, own, node: torch.fx.Node) -> relax.Var:
    raise ValueError("it draws random numbers; export the model in inference mode (model.eval())")


def _any(importer, own, node: torch.fx.Node) -> relax.Var:
    data, axes, keep = (*node.args, *(None, False)[len(node.args) - 1 :])[:3]
    x = cast(importer, importer.env[data], "bool")
    return importer.block_builder.emit(relax.op.max(x, axes if axes or axes == 0 else None, keep))


def _place_of_all(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """The place of an extreme, of a single number too."""
    x = importer.env[node.args[0]]
    if x.ty.shape:
        return own(node)
    return importer.block_builder.emit(operator(importer.block_builder.emit(relax.op.reshape(x, (1,))), 0))


def _branches(importer, own, node: torch.fx.Node) -> relax.Var:
    raise ValueError("what it runs depends on data; export the model without control flow")


def _dropout(importer, own, node: torch.fx.Node) -> tuple[relax.Expr, relax.Expr]:
    """A dropout, which keeps every value at inference, and where it keeps them."""
    if node.args[2] is not False:
        return _random(importer, own, node)
    x = importer.env[node.args[0]]
    return x, importer.block_builder.emit(relax.op.ones([int(d) for d in x.ty.shape], "bool"))


def _maxima(importer, own, node: torch.fx.Node) -> relax.Var | tuple[relax.Var, relax.Var]:
    """A pool with the places of its maxima, for which TVM's importer gives zeros."""
    if len(node.args) > 2 and not node.args[2]:  # strides as long as the windows
        node.args = (*node.args[:2], node.args[1], *node.args[3:])
    made = own(node)
    if not _places_are_read(node):
        return made
    data, kernel, *others = node.args
    stride, pad, dilation = (*others, *([], [0], [1])[len(others) :])[:3]
    rank = len(node.args[0].meta["val"].shape) - 2
    each = [list(given) * (rank if len(given) == 1 else 1) for given in (kernel, stride or kernel, pad, dilation)]
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


def _joined(importer, own, node: torch.fx.Node) -> relax.Var:
    """A concatenation, whose operands may have several dtypes."""
    dtype, parts = dtype_of(node.meta["val"]), node.args[0]
    given = {part: importer.env[part] for part in parts}
    try:
        importer.env.update({part: cast(importer, x, dtype) for part, x in given.items()})
        return own(node)
    finally:
        importer.env.update(given)


def _whole_power(importer, own, node: torch.fx.Node) -> relax.Var:
    """A power of integers, which TVM computes in floats only."""
    dtype = dtype_of(node.meta["val"])
    if dtype not in WHOLE:
        return own(node)
    if node.args[1] == 2:
        x = cast(importer, importer.env[node.args[0]], dtype)
        return importer.block_builder.emit(relax.op.multiply(x, x))
    a, b = (cast(importer, one, "float64") for one in operands(importer, node))
    made = importer.block_builder.emit(relax.op.power(a, b))
    return cast(importer, cast(importer, made, "int64"), dtype)  # which keeps the low bits of what is too large


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
    "clamp.Tensor": _clamp_by_tensors,
    "hardtanh.default": _of_range,
    **dict.fromkeys(("split.Tensor", "split_with_sizes.default"), _pieces),
    "neg.default": _negated,
    "getitem": _item,
    **{
        f"{name}.{of}": partial(_compared, operator)
        for name, operator in _COMPARISONS.items()
        for of in ("Scalar", "Tensor")
    },
    "exp2.default": partial(_composed, _power_of_two),
    "erfc.default": partial(_composed, _complement),
    "hypot.default": partial(_composed, _hypotenuse),
    "grid_sampler_2d.default": _sample,
    "rrelu_with_noise_functional.default": _random_leaky,
    "var_mean.correction": _variance_and_mean,
    "native_dropout.default": _dropout,
    **dict.fromkeys(("any.default", "any.dim", "any.dims"), _any),
    "argmax.default": partial(_place_of_all, relax.op.argmax),
    "argmin.default": partial(_place_of_all, relax.op.argmin),
    **dict.fromkeys(("cond", "while_loop"), _branches),
    **dict.fromkeys(("max_pool2d_with_indices.default", "max_pool3d_with_indices.default"), _maxima),
    "__lshift__.Scalar": partial(_composed, relax.op.left_shift),
    "__rshift__.Scalar": partial(_composed, relax.op.right_shift),
    "adaptive_max_pool2d.default": _adaptive_maximum,
    "adaptive_max_pool3d.default": _adaptive_maximum,
    "convolution.default": _convolution,
    **dict.fromkeys(("pow.Tensor_Tensor", "pow.Tensor_Scalar", "pow.Scalar"), _whole_power),
    "cat.default": _joined,
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
