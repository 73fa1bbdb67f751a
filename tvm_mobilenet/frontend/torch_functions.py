"""PyTorch's functions and reductions that TVM's importer lacks, written with operators of Relax.

Each takes the importer, TVM's own converter of the operator if there is one, and the node, as in `torch_operators`.
"""

from __future__ import annotations

import math
from functools import partial, reduce

import numpy as np
import torch
from tvm import relax, te, tirx

from tvm_mobilenet.files import limits
from tvm_mobilenet.frontend import positions
from tvm_mobilenet.frontend.positions import sizes_of
from tvm_mobilenet.frontend.torch_dtypes import cast, dtype_of, operands

op = relax.op


def _is_negative(emit, x: relax.Expr) -> relax.Expr:
    """Whether a value has a sign, as -0.0 has."""
    if not str(x.ty.dtype).startswith("float"):
        return emit(op.less(emit(op.astype(x, "int64")), relax.const(0, "int64")))
    below = emit(op.less(x, relax.const(0, x.ty.dtype)))
    inverse = emit(op.divide(relax.const(1.0, x.ty.dtype), x))
    return emit(op.logical_or(below, emit(op.less(inverse, relax.const(0.0, x.ty.dtype)))))


def _sign_bit(importer, own, node: torch.fx.Node) -> relax.Var:
    return _is_negative(importer.block_builder.emit, importer.env[node.args[0]])


def _with_sign(importer, own, node: torch.fx.Node) -> relax.Var:
    """``copysign``."""
    (a, b), emit = operands(importer, node), importer.block_builder.emit
    size = emit(op.abs(a))
    return emit(op.where(_is_negative(emit, emit(b)), emit(op.negative(size)), size))


def _of_numbers(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """``fmax`` and ``fmin``: of a number and NaN the number."""
    (a, b), emit = operands(importer, node), importer.block_builder.emit
    if not dtype_of(node.meta["val"]).startswith("float"):
        return emit(operator(a, b))
    both = emit(op.where(emit(op.isnan(b)), a, emit(operator(a, b))))
    return emit(op.where(emit(op.isnan(a)), b, both))


def _times_power_of_two(importer, own, node: torch.fx.Node) -> relax.Var:
    (a, b), emit = operands(importer, node), importer.block_builder.emit
    return emit(op.multiply(a, emit(op.power(relax.const(2.0, a.ty.dtype), b))))


def _places_of_order(importer, own, node: torch.fx.Node) -> relax.Var:
    """``searchsorted``: how many values of a sorted row are smaller, or not larger."""
    emit, (row, x) = importer.block_builder.emit, node.args[:2]
    row = importer.env[row]
    x = importer.env[x] if isinstance(x, torch.fx.Node) else relax.const(x, row.ty.dtype)
    if node.kwargs.get("sorter") is not None:
        raise ValueError("its rows have an order of their own (sorter); export it with sorted rows")
    right = node.kwargs.get("right", False) or node.kwargs.get("side") == "right"
    if len(row.ty.shape) > 1:
        row = emit(op.expand_dims(row, -2))
    limits.check_tensor(math.prod(sizes_of(x)) * sizes_of(row)[-1], 1, "the comparisons of searchsorted")
    before = emit((op.less_equal if right else op.less)(row, emit(op.expand_dims(x, -1))))
    return emit(op.sum(emit(op.astype(before, dtype_of(node.meta["val"]))), [-1]))


def _histogram(importer, own, node: torch.fx.Node) -> relax.Var:
    """``histc``: the number of values in each of equal parts of a range; without a range, that of the data."""
    emit, x = importer.block_builder.emit, importer.env[node.args[0]]
    bins, low, high = (*node.args[1:], *(100, 0, 0)[len(node.args) - 1 :])
    x = emit(op.reshape(x, [math.prod(sizes_of(x))]))
    dtype = str(x.ty.dtype)
    limits.check_tensor(bins * sizes_of(x)[0], 1, "the comparisons of histc")
    if low == high:  # a range without a width
        low, high = emit(op.min(x)), emit(op.max(x))
        alone = emit(op.astype(emit(op.equal(low, high)), dtype))  # a range of its own, around the only value
        low, high = emit(op.subtract(low, alone)), emit(op.add(high, alone))
    else:
        low, high = relax.const(low, dtype), relax.const(high, dtype)
    inside = emit(op.logical_and(emit(op.greater_equal(x, low)), emit(op.less_equal(x, high))))
    width = emit(op.divide(emit(op.subtract(high, low)), relax.const(bins, dtype)))
    share = emit(op.divide(emit(op.subtract(x, low)), width))
    part = emit(op.minimum(emit(op.floor(share)), relax.const(bins - 1, dtype)))
    part = emit(op.where(inside, part, relax.const(-1, dtype)))
    hit = emit(op.equal(part, relax.const(np.arange(bins).reshape(-1, 1).astype(dtype))))
    return emit(op.sum(emit(op.astype(hit, dtype)), [1]))


def _most_frequent(importer, own, node: torch.fx.Node) -> tuple[relax.Var, relax.Var]:
    """``mode``: the smallest of the most frequent values of a row, and its last place."""
    emit, x = importer.block_builder.emit, importer.env[node.args[0]]
    axis, keep = (*node.args[1:], *(-1, False)[len(node.args) - 1 :])
    shape, dtype = sizes_of(x), str(x.ty.dtype)
    x = cast(importer, x, "uint8") if dtype == "bool" else x
    axis %= len(shape)
    order = [a for a in range(len(shape)) if a != axis] + [axis]
    row = emit(op.permute_dims(x, order))
    limits.check_tensor(math.prod(shape) * shape[axis], 4, "the comparisons of mode")
    same = emit(op.equal(emit(op.expand_dims(row, -1)), emit(op.expand_dims(row, -2))))
    count = emit(op.sum(emit(op.astype(same, "int32")), [-1]))
    often = emit(op.equal(count, emit(op.max(count, [-1], keepdims=True))))
    largest = emit(op.max(row, [-1], keepdims=True))
    value = emit(op.min(emit(op.where(often, row, largest)), [-1], keepdims=True))
    places = relax.const(np.arange(shape[axis]), "int64")
    place = emit(op.max(emit(op.where(emit(op.equal(row, value)), places, relax.const(-1, "int64"))), [-1], True))
    kept = [1 if a == axis else d for a, d in enumerate(shape)] if keep else [shape[a] for a in order[:-1]]
    return tuple(emit(op.reshape(one, kept)) for one in (cast(importer, value, dtype), place))


def _masked_in_order(importer, own, node: torch.fx.Node) -> relax.Var:
    """``masked_scatter``: the values of a source, one after the other where a mask is true."""
    emit = importer.block_builder.emit
    x, mask, source = (importer.env[one] for one in node.args)
    shape = np.broadcast_shapes(sizes_of(x), sizes_of(mask))
    x, mask = (emit(op.broadcast_to(one, shape)) for one in (x, mask))
    count = math.prod(shape)
    flat = emit(op.reshape(mask, [count]))
    place = emit(op.subtract(emit(op.cumsum(emit(op.astype(flat, "int64")), 0)), relax.const(1, "int64")))
    values = emit(op.reshape(source, [math.prod(sizes_of(source))]))
    place = positions.inside(
        importer.block_builder, emit(op.maximum(place, relax.const(0, "int64"))), sizes_of(values)[0]
    )
    return emit(op.where(mask, emit(op.reshape(emit(op.take(values, place, 0, mode="clip")), shape)), x))


def _strided(importer, own, node: torch.fx.Node) -> relax.Var:
    """``as_strided`` of data in its own order, which the export checks."""
    data, size, steps, *first = node.args
    emit, x = importer.block_builder.emit, importer.env[data]
    limits.check_tensor(math.prod(size), 8, "the places of as_strided")
    grid = np.indices(size).reshape(len(size), -1)
    start = (first[0] if first else node.kwargs.get("storage_offset")) or 0
    places = (np.asarray(steps, np.int64).reshape(-1, 1) * grid).sum(0) + start
    flat = emit(op.reshape(x, [math.prod(sizes_of(x))]))
    return emit(op.reshape(emit(op.take(flat, relax.const(places.astype(np.int64)), 0)), size))


def _count(emit, x: relax.Expr, axes: list[int] | None, keep: bool = False) -> relax.Var:
    """The number of values that are not 0 along axes, which is their norm 0."""
    dtype = x.ty.dtype
    other = emit(op.not_equal(x, relax.const(0, dtype)))
    return emit(op.sum(emit(op.astype(other, dtype)), axes, keepdims=keep))


def _norm(emit, x: relax.Expr, p: float, axes: list[int] | None) -> relax.Var:
    """The p-norm along axes."""
    dtype = x.ty.dtype
    if p == 0:
        return _count(emit, x, axes)
    if p == 2:
        return emit(op.sqrt(emit(op.sum(emit(op.multiply(x, x)), axes))))
    size = emit(op.abs(x))
    if math.isinf(p):
        return emit((op.max if p > 0 else op.min)(size, axes))
    if p == 1:
        return emit(op.sum(size, axes))
    total = emit(op.sum(emit(op.power(size, relax.const(float(p), dtype))), axes))
    return emit(op.power(total, relax.const(1 / p, dtype)))


def _distances(importer, own, node: torch.fx.Node) -> relax.Var:
    """``cdist``: the norm of the difference of each two rows."""
    emit = importer.block_builder.emit
    a, b, p = (importer.env[node.args[0]], importer.env[node.args[1]], node.args[2])
    limits.check_tensor(math.prod(sizes_of(a)) * sizes_of(b)[-2], 4, "the differences of cdist")
    apart = emit(op.subtract(emit(op.expand_dims(a, -2)), emit(op.expand_dims(b, -3))))
    return _norm(emit, apart, p, [-1])


def _distance(importer, own, node: torch.fx.Node) -> relax.Var:
    emit, (a, b) = importer.block_builder.emit, operands(importer, node)
    return _norm(emit, emit(op.subtract(a, b)), node.args[2] if len(node.args) > 2 else 2, None)


def _count_norm(importer, own, node: torch.fx.Node) -> relax.Var:
    """``vector_norm``, whose norm 0 is the number of values that are not 0; TVM divides by the 0."""
    order = node.args[1] if len(node.args) > 1 else node.kwargs.get("ord", 2)
    if order != 0:
        return own(node)
    data, _, axes, keep = (*node.args, *(2, None, False)[len(node.args) - 1 :])[:4]
    x = cast(importer, importer.env[data], dtype_of(node.meta["val"]))
    return _count(importer.block_builder.emit, x, axes or None, bool(keep))


def _sample_of_volume(importer, own, node: torch.fx.Node) -> relax.Var:
    """``grid_sample`` of volumes, whose positions are (N, D, H, W, 3)."""
    data, grid = (importer.env[one] for one in node.args[:2])
    mode, padding, corners = node.args[2:]
    made = op.image.grid_sample(
        data,
        importer.block_builder.emit(op.permute_dims(grid, [0, 4, 1, 2, 3])),
        method=("bilinear", "nearest")[mode],
        layout="NCDHW",
        padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=corners,
    )
    return importer.block_builder.emit(made)


def _regions(importer, own, node: torch.fx.Node) -> relax.Var:
    """torchvision's ``roi_align``. TVM's importer moves regions by half a pixel before it scales them."""
    emit, (x, regions) = importer.block_builder.emit, (importer.env[one] for one in node.args[:2])
    scale, height, width, samples, aligned = node.args[2:7]
    dtype, batch = str(regions.ty.dtype), sizes_of(x)[0]
    image = emit(op.strided_slice(regions, [1], [0], [1]))
    image = emit(op.clip(image, 0, batch - 1))  # none outside of the data is read
    boxes = emit(op.strided_slice(regions, [1], [1], [5]))
    if aligned:
        boxes = emit(op.subtract(boxes, relax.const(0.5 / scale, dtype)))
    given = emit(op.concat([image, boxes], 1))
    made = op.vision.roi_align(x, given, (height, width), scale, samples, aligned, layout="NCHW", mode="avg")
    return emit(made)


def _of_floats(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    """A test of floats, of integers and truth values too."""
    x = importer.env[node.args[0]]
    x = x if str(x.ty.dtype).startswith("float") else cast(importer, x, "float32")
    return importer.block_builder.emit(operator(x))


def _sign(importer, own, node: torch.fx.Node) -> relax.Expr:
    x = importer.env[node.args[0]]
    return x if str(x.ty.dtype) == "bool" else own(node)


def _angle(importer, own, node: torch.fx.Node) -> relax.Var:
    """The angle of a real number: pi if it is negative."""
    dtype, emit = dtype_of(node.meta["val"]), importer.block_builder.emit
    x = cast(importer, importer.env[node.args[0]], dtype)
    zero = emit(op.where(emit(op.isnan(x)), x, relax.const(0, dtype)))
    return emit(op.where(emit(op.less(x, relax.const(0, dtype))), relax.const(math.pi, dtype), zero))


def _trilinear(importer, own, node: torch.fx.Node) -> relax.Var:
    """The sum of products of three tensors along axes, as in ``torch.nn.Bilinear``."""
    emit, *given = importer.block_builder.emit, *node.args[:3]
    parts = [importer.env[one] for one in given]
    for i, axes in enumerate(node.args[3:6]):
        for axis in sorted(axes):
            parts[i] = emit(op.expand_dims(parts[i], axis))
    sizes = np.broadcast_shapes(*map(sizes_of, parts))
    limits.check_tensor(math.prod(sizes), 4, "the products of a bilinear layer")
    made = emit(op.multiply(emit(op.multiply(parts[0], parts[1])), parts[2]))
    return emit(op.sum(made, node.args[6]))


def _bits(importer, own, node: torch.fx.Node) -> relax.Expr:
    """``view(dtype)``: the same bytes as numbers of another dtype, more or fewer of them in a row."""
    x, dtype = importer.env[node.args[0]], dtype_of(node.meta["val"])
    given, shape = str(x.ty.dtype), [int(d) for d in node.meta["val"].shape]
    before, after = (getattr(torch, one).itemsize for one in (given, dtype))
    held, made = f"uint{8 * before}", f"uint{8 * after}"

    def read(value, own: str, other: str):
        return value.astype(other) if "bool" in (own, other) else tirx.reinterpret(other, value)  # of one bit in LLVM

    def nest(data: te.Tensor) -> te.Tensor:
        def value(*at):
            *row, last = at
            if after == before:
                return read(data(*at), given, dtype)
            if after > before:
                count = after // before
                parts = [read(data(*row, last * count + i), given, held).astype(made) for i in range(count)]
                return read(
                    reduce(lambda a, b: a | b, (p << (8 * before * i) for i, p in enumerate(parts))), made, dtype
                )
            count = before // after
            whole = read(data(*row, last // count), given, held)
            return read((whole >> (last % count * 8 * after).astype(held)).astype(made), made, dtype)

        return te.compute(shape, value, "bits")

    return x if given == dtype else importer.block_builder.emit_te(nest, x, primfunc_name_hint="bits")


def _created(importer, own, node: torch.fx.Node) -> relax.Expr:
    """A tensor of numbers in order, computed by PyTorch; TVM's importer knows fewer arguments."""
    due = node.meta["val"]
    given = {key: value for key, value in node.kwargs.items() if key in ("start", "end", "step", "base", "row", "col")}
    like = node.target(*node.args, **given, dtype=due.dtype, device="meta")
    if like.shape != due.shape:
        raise ValueError(f"it makes {tuple(like.shape)} values, not {tuple(due.shape)}")
    made = node.target(*node.args, **given, dtype=due.dtype, device="cpu").numpy()
    return importer.block_builder.emit(relax.const(made, dtype_of(due)))


def _shifted(operator, importer, own, node: torch.fx.Node) -> relax.Var:
    return importer.block_builder.emit(operator(*operands(importer, node)))


CONVERTERS = {
    "view.dtype": _bits,
    **dict.fromkeys(
        (
            *("arange.default", "arange.start", "arange.start_step", "linspace.default", "logspace.default"),
            *("tril_indices.default", "triu_indices.default"),
        ),
        _created,
    ),
    "signbit.default": _sign_bit,
    **{f"{name}.default": partial(_of_floats, getattr(op, name)) for name in ("isnan", "isinf", "isfinite")},
    **dict.fromkeys(("sign.default", "sgn.default"), _sign),
    "angle.default": _angle,
    "roi_align.default": _regions,
    "_trilinear.default": _trilinear,
    **dict.fromkeys(("copysign.Tensor", "copysign.Scalar"), _with_sign),
    "fmax.default": partial(_of_numbers, op.maximum),
    "fmin.default": partial(_of_numbers, op.minimum),
    "ldexp.Tensor": _times_power_of_two,
    **dict.fromkeys(("searchsorted.Tensor", "searchsorted.Scalar"), _places_of_order),
    "histc.default": _histogram,
    "mode.default": _most_frequent,
    "masked_scatter.default": _masked_in_order,
    "as_strided.default": _strided,
    "_cdist_forward.default": _distances,
    "dist.default": _distance,
    "linalg_vector_norm.default": _count_norm,
    "grid_sampler_3d.default": _sample_of_volume,
    **dict.fromkeys(("__lshift__.Tensor", "bitwise_left_shift.Tensor"), partial(_shifted, op.left_shift)),
    **dict.fromkeys(("__rshift__.Tensor", "bitwise_right_shift.Tensor"), partial(_shifted, op.right_shift)),
}
