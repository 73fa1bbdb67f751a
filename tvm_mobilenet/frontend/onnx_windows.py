"""ONNX's operators on windows that TVM's importer lacks or converts wrongly: pools with the places of their maxima,
their inverse, columns of an image, and convolutions whose windows are deformed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from tvm import relax, te, tirx

from tvm_mobilenet.frontend import nests
from tvm_mobilenet.frontend.onnx_arguments import OUTPUTS, array_of, text

op = relax.op


def max_pool(bb, inputs, attrs, otherwise):
    """A pool; if its second output is read, with the places of its maxima in all of the data."""
    made = otherwise(inputs)
    if attrs[OUTPUTS] < 2:
        return made
    x, kernel = inputs[0], [int(k) for k in attrs["kernel_shape"]]
    strides, dilations, pads = _window(attrs, len(kernel))
    largest = bb.emit(made)
    shape = [int(d) for d in x.ty.shape]
    places = nests.places_in_windows(bb, x, largest, kernel, strides, pads[: len(kernel)], dilations)
    if attrs.get("storage_order", 0):
        places = _by_columns(bb, places, shape[2:])
    maps = np.arange(math.prod(shape[:2])).reshape([*shape[:2], *[1] * len(kernel)]) * math.prod(shape[2:])
    return relax.Tuple([largest, op.add(places, relax.const(maps, "int64"))])


def norm_pool(bb, inputs, attrs, otherwise):
    """LpPool: a root of a sum of powers. TVM's importer counts windows that exceed the data as whole ones."""
    x, kernel, p = inputs[0], [int(k) for k in attrs["kernel_shape"]], float(attrs.get("p", 2))
    rank, dtype = len(kernel), str(x.ty.dtype)
    strides, dilations, pads = _window(attrs, rank)
    widths = [0] * 4
    for axis, (n, k) in enumerate(zip([int(d) for d in x.ty.shape][2:], kernel, strict=True)):
        before, after, step = pads[axis], pads[rank + axis], strides[axis]
        left = n + before + after - dilations[axis] * (k - 1) - 1
        count = (-(-left // step) if attrs.get("ceil_mode", 0) else left // step) + 1
        count -= bool(attrs.get("ceil_mode", 0)) and (count - 1) * step >= n + before  # it begins after the data
        widths += [before, after + max(0, (count - 1) * step - left)]
    powers = bb.emit(op.power(bb.emit(op.abs(x)), relax.const(p, dtype)))
    powers = bb.emit(op.nn.pad(powers, widths)) if any(widths) else powers
    pool = {1: op.nn.avg_pool1d, 2: op.nn.avg_pool2d, 3: op.nn.avg_pool3d}[rank]
    means = bb.emit(pool(powers, kernel, strides, [0] * 2 * rank, dilations, count_include_pad=True))
    total = bb.emit(op.multiply(means, relax.const(float(math.prod(kernel)), dtype)))
    return op.power(total, relax.const(1 / p, dtype))


def _by_columns(bb, places: relax.Expr, sizes: Sequence[int]) -> relax.Expr:
    """Places that count along the first dimension first."""
    made, rest, step = None, places, 1
    steps = [math.prod(sizes[:i]) for i in range(len(sizes))]
    for size, step in zip(reversed(sizes), reversed(steps), strict=True):
        count = relax.const(size, "int64")
        part = bb.emit(op.multiply(bb.emit(op.floor_mod(rest, count)), relax.const(step, "int64")))
        rest = bb.emit(op.floor_divide(rest, count))
        made = part if made is None else bb.emit(op.add(made, part))
    return made


def max_unpool(bb, inputs, attrs, otherwise):
    """Zeros, with values at their places in all of the result."""
    x, places = inputs[:2]
    kernel = [int(k) for k in attrs["kernel_shape"]]
    rank, shape = len(kernel), [int(d) for d in x.ty.shape]
    strides, _, pads = _window(attrs, rank)
    plain = [
        (n - 1) * step - before - after + k
        for n, step, before, after, k in zip(shape[2:], strides, pads[:rank], pads[rank:], kernel, strict=True)
    ]
    given = inputs[2] if len(inputs) > 2 else None
    wanted = plain if given is None else [int(d) for d in array_of(given)][-rank:]
    count, size = math.prod(shape), math.prod(shape[:2]) * math.prod(plain)
    zeros = relax.const(np.zeros(size, str(x.ty.dtype)))
    flat, where = (bb.emit(op.reshape(one, (count,))) for one in (x, places))
    made = bb.emit(op.scatter_elements(zeros, where, flat, 0))
    made = bb.emit(op.reshape(made, (*shape[:2], *plain)))
    if wanted == plain:
        return made
    widths = [0] * 4 + [w for have, due in zip(plain, wanted, strict=True) for w in (0, due - have)]
    return op.nn.pad(made, widths)


def columns_to_image(bb, inputs, attrs, otherwise):
    """Col2Im: each pixel is the sum of the columns' values that belong to it."""
    image, block = ([int(n) for n in array_of(one)] for one in inputs[1:3])
    strides, dilations, pads = _window(attrs, len(block))
    x, taps = inputs[0], math.prod(block)
    batch, rows, columns = (int(d) for d in x.ty.shape)
    counts = [
        (n + before + after - dilation * (k - 1) - 1) // stride + 1
        for n, before, after, dilation, k, stride in zip(
            image, pads[: len(block)], pads[len(block) :], dilations, block, strides, strict=True
        )
    ]
    if rows % taps or math.prod(counts) != columns:
        raise ValueError(f"{rows} x {columns} values of blocks {block} for an image of {image}")

    def nest(data: te.Tensor) -> te.Tensor:
        def pixel(n, c, *at):
            axes = [te.reduce_axis((0, k), "r") for k in block]
            reach = [i + before - r * d for i, before, r, d in zip(at, pads, axes, dilations, strict=False)]
            window = [tirx.floordiv(p, stride) for p, stride in zip(reach, strides, strict=True)]
            held = [
                tirx.all(p >= 0, tirx.floormod(p, stride) == 0, w < count)
                for p, w, stride, count in zip(reach, window, strides, counts, strict=True)
            ]
            kept = [tirx.max(tirx.min(w, count - 1), 0) for w, count in zip(window, counts, strict=True)]
            value = data(n, c * taps + nests.flat(axes, block), nests.flat(kept, counts))
            return te.sum(tirx.Select(tirx.all(*held), value, tirx.const(0, data.dtype)), axis=axes)

        return te.compute((batch, rows // taps, *image), pixel, "image")

    return bb.emit_te(nest, x, primfunc_name_hint="columns_to_image")


def deformed_convolution(bb, inputs, attrs, otherwise):
    """DeformConv: a product of weights with values between pixels, whose positions are given."""
    x, weight, offsets, bias, mask = (*inputs, None, None)[:5]
    batch, channels, _height, _width = (int(d) for d in x.ty.shape)
    filters, per_group, *kernel = (int(d) for d in weight.ty.shape)
    strides, dilations, pads = _window(attrs, 2)
    sides, groups = int(attrs.get("offset_group", 1)), int(attrs.get("group", 1))
    _, _, rows, columns = (int(d) for d in offsets.ty.shape)
    taps = math.prod(kernel)

    def nest(data: te.Tensor, moved: te.Tensor, *shares: te.Tensor) -> te.Tensor:
        def sample(n, c, tap, row, column):
            side = tirx.floordiv(c, channels // sides)
            first = (side * taps + tap) * 2
            y = row * strides[0] - pads[0] + tirx.floordiv(tap, kernel[1]) * dilations[0] + moved(n, first, row, column)
            z = first + 1
            x = column * strides[1] - pads[1] + tirx.floormod(tap, kernel[1]) * dilations[1] + moved(n, z, row, column)
            value = _between(data, (n, c), y, x)
            return value * shares[0](n, side * taps + tap, row, column) if shares else value

        return te.compute((batch, channels, taps, rows, columns), sample, "samples")

    given = [x, offsets, *([] if mask is None else [mask])]
    samples = bb.emit_te(nest, *given, primfunc_name_hint="deformed_windows")
    depth, pixels = per_group * taps, rows * columns
    samples = bb.emit(op.reshape(samples, (batch, groups, depth, pixels)))
    weight = bb.emit(op.reshape(weight, (1, groups, filters // groups, depth)))
    made = bb.emit(op.reshape(bb.emit(op.matmul(weight, samples)), (batch, filters, rows, columns)))
    return made if bias is None else op.add(made, bb.emit(op.reshape(bias, (1, filters, 1, 1))))


def _between(data: te.Tensor, of: tuple, y, x):
    """The value at a position between four pixels; pixels outside of the data are 0."""
    top, left = tirx.floor(y), tirx.floor(x)
    height, width = (int(d) for d in data.shape[2:])
    total = None
    for i, down in ((0, 1 - (y - top)), (1, y - top)):
        for j, along in ((0, 1 - (x - left)), (1, x - left)):
            row, column = top.astype("int64") + i, left.astype("int64") + j
            inside = tirx.all(row >= 0, row < height, column >= 0, column < width)
            kept = data(*of, tirx.max(tirx.min(row, height - 1), 0), tirx.max(tirx.min(column, width - 1), 0))
            part = tirx.Select(inside, kept * down * along, tirx.const(0, data.dtype))
            total = part if total is None else total + part
    return total


def aligned_regions(bb, inputs, attrs, otherwise):
    """RoiAlign. TVM's importer moves regions by half a pixel before it scales them, and has the maximum of samples
    instead of that of their four parts.
    """
    x, regions, batch = inputs[:3]
    scale, dtype = float(attrs.get("spatial_scale", 1.0)), str(regions.ty.dtype)
    last = relax.const(int(x.ty.shape[0]) - 1, str(batch.ty.dtype))
    zero = relax.const(0, str(batch.ty.dtype))
    batch = bb.emit(op.maximum(bb.emit(op.minimum(batch, last)), zero))  # none outside of the data is read
    half = text(attrs.get("coordinate_transformation_mode", "half_pixel")) == "half_pixel"
    if text(attrs.get("mode", "avg")) == "max":
        return _largest_parts(bb, x, regions, batch, attrs, 0.5 if half else 0.0)
    if half and scale != 1:
        regions = bb.emit(op.add(regions, relax.const(0.5 - 0.5 / scale, dtype)))
    return otherwise(type(inputs)([x, regions, batch]))


def _largest_parts(bb, x, regions, batch, attrs, less: float) -> relax.Expr:
    height, width = (int(d) for d in list(x.ty.shape)[2:])
    rows, columns = int(attrs.get("output_height", 1)), int(attrs.get("output_width", 1))
    scale, samples = float(attrs.get("spatial_scale", 1.0)), int(attrs.get("sampling_ratio", 0))

    def nest(data: te.Tensor, given: te.Tensor, images: te.Tensor) -> te.Tensor:
        def largest(r, c, row, column):
            at, axes = [], []
            for i, (place, count) in enumerate(((row, rows), (column, columns))):
                start, end = (given(r, j) * scale - less for j in (1 - i, 3 - i))
                size = end - start if less else tirx.max(end - start, tirx.const(1, given.dtype))
                step = size / count
                taps = samples or tirx.ceil(step).astype("int32")
                axes.append(te.reduce_axis((0, taps), "r"))
                at.append(start + step * (place + (axes[-1] + 0.5) / taps))
            outside = tirx.any(at[0] < -1, at[0] > height, at[1] < -1, at[1] > width)
            y, x = (tirx.min(tirx.max(a, 0), n - 1) for a, n in zip(at, (height, width), strict=True))
            parts = [data(images(r), c, i, j) * share for i, j, share in _corners(y, x, height, width)]
            best = parts[0]
            for part in parts[1:]:
                best = tirx.max(best, part)
            return te.max(tirx.Select(outside, tirx.const(0, data.dtype), best), axis=axes)

        return te.compute((given.shape[0], data.shape[1], rows, columns), largest, "largest")

    return bb.emit_te(nest, x, regions, batch, primfunc_name_hint="aligned_regions")


def _corners(y, x, height: int, width: int) -> list[tuple]:
    """The four pixels around a position inside of the data, each with its share."""
    top, left = (tirx.floor(a).astype("int64") for a in (y, x))
    below, right = tirx.min(top + 1, height - 1), tirx.min(left + 1, width - 1)
    down, along = y - top, x - left
    return [
        (top, left, (1 - down) * (1 - along)),
        (top, right, (1 - down) * along),
        (below, left, down * (1 - along)),
        (below, right, down * along),
    ]


def _window(attrs, rank: int) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads."""
    given = (("strides", [1] * rank), ("dilations", [1] * rank), ("pads", [0] * 2 * rank))
    return tuple([int(n) for n in attrs.get(name, default)] for name, default in given)


CONVERTERS = {
    "MaxPool": max_pool,
    "LpPool": norm_pool,
    "MaxUnpool": max_unpool,
    "Col2Im": columns_to_image,
    "RoiAlign": aligned_regions,
    "DeformConv": deformed_convolution,
}
