"""TFLite's convolutions, matrix products, pools, pads and resizes.

SAME padding puts the odd row or column at the end. Averages do not count padding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import prod

import numpy as np
from tvm import relax

from tvm_mobilenet.frontend import tflite_schema as schema
from tvm_mobilenet.frontend.tflite_elementwise import nchw, number, own
from tvm_mobilenet.frontend.tflite_values import Call, Value
from tvm_mobilenet.kinds.windows import same_padding

op = relax.op


def _window(call: Call, kernel: tuple[int, int], size: tuple[int, ...], dilation=(1, 1)) -> tuple[list, list]:
    """Strides and pads (top, left, bottom, right)."""
    given = call.options
    strides = [given["stride_h"], given["stride_w"]]
    if min(*strides, *kernel, *dilation) < 1:
        raise ValueError(f"a window of {kernel} with strides {strides}")
    if given["padding"] != schema.SAME:
        return strides, [0, 0, 0, 0]
    (top, bottom), (left, right) = (same_padding(*each) for each in zip(size, kernel, strides, dilation, strict=True))
    return strides, [top, left, bottom, right]


def conv(call: Call) -> Value:
    """A convolution; the weight is (n, height, width, channels of a group)."""
    return _convolved(call, (0, 3, 1, 2))


def conv_3d(call: Call) -> Value:
    """A convolution over depth, height and width; the weight is (depth, height, width, channels of a group, n)."""
    given, shape = call.options, call.shape(1)
    names = ("d", "h", "w")
    strides, dilations = ([given[f"{what}_{n}"] for n in names] for what in ("stride", "dilation"))
    if len(shape) != 5 or min(*strides, *dilations) < 1:
        raise ValueError(f"a weight of the shape {list(shape)} with strides {strides}")
    pads = [(0, 0)] * 3
    if given["padding"] == schema.SAME:
        sizes = zip(call.shape(0)[1:4], shape[:3], strides, dilations, strict=True)
        pads = [same_padding(*each) for each in sizes]
    pads = [pad[0] for pad in pads] + [pad[1] for pad in pads]
    x, weight = call.emit(op.permute_dims(call.own(0), (0, 4, 1, 2, 3))), call.weight(1, (4, 3, 0, 1, 2))
    made = op.nn.conv3d(x, weight, strides, pads, dilations, call.shape(0)[4] // shape[3])
    made = call.emit(_with_bias(call, made, (2, 0, 1), (1, -1, 1, 1, 1)))
    return own(call, op.permute_dims(made, (0, 2, 3, 4, 1)))


def transposed_3d(call: Call) -> Value:
    """A transposed convolution over depth too. Operands: shape of the output, weight, data, bias; the weight is
    (depth, height, width, n, channels).
    """
    given, shape = call.options, call.shape(1)
    names = ("d", "h", "w")
    if len(shape) != 5 or any(given[f"dilation_{n}"] != 1 for n in names):
        raise ValueError(f"a weight of the shape {list(shape)} with dilations")
    strides = [given[f"stride_{n}"] for n in names]
    pads, more = _transposed_window(call, call.shape(2)[1:4], call.numbers(0)[1:4], shape[:3], strides)
    weight = call.moved(1, (4, 3, 0, 1, 2), tuple(shape[a] for a in (4, 3, 0, 1, 2)))
    x = call.emit(op.permute_dims(call.own(2), (0, 4, 1, 2, 3)))
    made = op.nn.conv3d_transpose(x, weight, strides, pads, more)
    made = call.emit(_with_bias(call, made, (3, 2, 1), (1, -1, 1, 1, 1)))
    return own(call, op.permute_dims(made, (0, 2, 3, 4, 1)))


def depthwise(call: Call) -> Value:
    """A depthwise convolution; the weight is (1, height, width, n), with ``multiplier`` filters for each channel."""
    return _convolved(call, (3, 0, 1, 2))


def _convolved(call: Call, order: tuple[int, ...]) -> Value:
    shape, given = call.shape(1), call.options
    if len(shape) != 4 or len(call.shape(0)) != 4:
        raise ValueError(f"a weight of the shape {list(shape)} for data of the shape {list(call.shape(0))}")
    _, height, width, channels = call.shape(0)
    weight = call.weight(1, order)
    out, per_group = (int(weight.ty.shape[i]) for i in (0, 1))
    if channels % per_group or out % (channels // per_group):
        raise ValueError(f"a weight of the shape {list(shape)} for {channels} channels")
    dilation = (given["dilation_h"], given["dilation_w"])
    kernel = shape[1:3]
    strides, pads = _window(call, kernel, (height, width), dilation)
    made = op.nn.conv2d(call.nchw(0), weight, strides, pads, list(dilation), channels // per_group, "NCHW", "OIHW")
    return nchw(call, _with_bias(call, made, (2, 0, 1), (1, -1, 1, 1)))


def _with_bias(call: Call, made: relax.Expr, at: tuple[int, int, int], shape: tuple[int, ...]) -> relax.Expr:
    """What is made, with a bias. ``at``: the numbers of bias, data and weight among the operands."""
    if call.has(at[0]) and call.value(at[0]).known is None:
        return op.add(call.emit(made), call.emit(op.reshape(call.own(at[0]), shape)))
    bias = call.biases(*at)
    if bias is None or not bias.any():
        return made
    return op.add(call.emit(made), relax.const(np.ascontiguousarray(bias.reshape(shape)), "float32"))


def transposed(call: Call) -> Value:
    """A transposed convolution. Operands: shape of the output, weight (n, height, width, channels), data, bias."""
    strides = [call.options["stride_h"], call.options["stride_w"]]
    pads, more = _transposed_window(call, call.shape(2)[1:3], call.numbers(0)[1:3], call.shape(1)[1:3], strides)
    weight = call.moved(1, (3, 0, 1, 2), tuple(call.shape(1)[a] for a in (3, 0, 1, 2)))
    made = op.nn.conv2d_transpose(call.nchw(2), weight, strides, pads, more, data_layout="NCHW", kernel_layout="IOHW")
    return nchw(call, _with_bias(call, made, (3, 2, 1), (1, -1, 1, 1)))


def _transposed_window(call: Call, sizes, outputs, kernel, strides) -> tuple[list[int], list[int]]:
    """Pads (all befores, then all behinds) and more of the output at its end than the windows reach."""
    if min(strides) < 1:
        raise ValueError(f"strides {strides}")
    pads, more = [], []
    for size, out, width, stride in zip(sizes, outputs, kernel, strides, strict=True):
        reach = (size - 1) * stride + width
        total = max(reach - out, 0) if call.options["padding"] == schema.SAME else 0
        pads.append((total // 2, total - total // 2))
        more.append(out - (reach - total))
    if min(more) < 0 or max(more) >= max(strides):
        raise ValueError(f"an output of {'x'.join(map(str, outputs))} that its data cannot make")
    return [pad[0] for pad in pads] + [pad[1] for pad in pads], more


def fully_connected(call: Call) -> Value:
    """A matrix product; the weight is (n, k), and the data's last dimensions are joined until they have size k."""
    if call.options["weights_format"]:
        raise ValueError("its weight is shuffled for one kind of CPU")
    shape, data = call.shape(1), call.shape(0)
    n, k = shape
    rows = prod(data) // k
    if rows * k != prod(data):
        raise ValueError(f"a weight of the shape {list(shape)} for data of the shape {list(data)}")
    x = call.own(0) if data == (rows, k) else call.emit(op.reshape(call.own(0), (rows, k)))
    weight = call.emit(op.permute_dims(call.weight(1, (0, 1)), (1, 0)))
    made = _with_bias(call, op.matmul(x, weight), (2, 0, 1), (1, -1))
    if call.options["keep_num_dims"] and len(data) > 2:
        made = op.reshape(call.emit(made), (*data[:-1], n))
    return own(call, made)


def batch_matmul(call: Call) -> Value:
    """A product of two values, each of which may be transposed."""
    operands = []
    for i, adjoint in enumerate(("adj_x", "adj_y")):
        x = call.own(i)
        rank = len(call.shape(i))
        axes = [*range(rank - 2), rank - 1, rank - 2]
        operands.append(call.emit(op.permute_dims(x, axes)) if call.options[adjoint] else x)
    return own(call, op.matmul(*operands))


def average_pool(call: Call) -> Value:
    """An average pool; TFLite does not count padding."""
    kernel, strides, pads = _pool_window(call)
    return nchw(call, op.nn.avg_pool2d(call.nchw(0), kernel, strides, pads, count_include_pad=False))


def max_pool(call: Call) -> Value:
    """A maximum pool; padding never is the maximum."""
    kernel, strides, pads = _pool_window(call)
    return nchw(call, op.nn.max_pool2d(call.nchw(0), kernel, strides, pads))


def norm_pool(call: Call) -> Value:
    """The root of a mean of squares; TFLite does not count padding."""
    kernel, strides, pads = _pool_window(call)
    squares = call.emit(op.multiply(call.nchw(0), call.nchw(0)))
    means = call.emit(op.nn.avg_pool2d(squares, kernel, strides, pads, count_include_pad=False))
    return nchw(call, op.sqrt(means))


def local_response_normalization(call: Call) -> Value:
    """``x / (bias + alpha * s) ** beta``, where s sums the squares of the channels within a radius."""
    radius, bias, alpha, beta = (call.options[name] for name in ("radius", "bias", "alpha", "beta"))
    x, rank, channels = call.own(0), len(call.shape(0)), call.shape(0)[-1]
    widths = [0] * (2 * rank - 2) + [radius] * 2
    wide = call.emit(op.nn.pad(call.emit(op.multiply(x, x)), widths, "constant", 0.0))
    parts = [call.emit(op.strided_slice(wide, [rank - 1], [i], [i + channels])) for i in range(2 * radius + 1)]
    total = reduce(lambda a, b: call.emit(op.add(a, b)), parts)
    scaled = call.emit(op.add(call.emit(op.multiply(total, number(alpha))), number(bias)))
    return own(call, op.divide(x, call.emit(op.power(scaled, number(beta)))))


def _pool_window(call: Call) -> tuple[list, list, list]:
    kernel = (call.options["filter_h"], call.options["filter_w"])
    if len(call.shape(0)) != 4:
        raise ValueError(f"data of the shape {list(call.shape(0))}")
    strides, pads = _window(call, kernel, call.shape(0)[1:3])
    return list(kernel), strides, pads


def mean(call: Call) -> Value:
    """A mean; over height and width it is a pool."""
    rank, keep = len(call.shape(0)), bool(call.options["keep_dims"])
    axes = sorted({a % rank for a in call.numbers(1)})
    if rank == 4 and axes == [1, 2]:
        made = call.emit(op.mean(call.nchw(0), [2, 3], keepdims=keep))
        return Value(nchw=made) if keep else Value(own=made)
    return own(call, op.mean(call.own(0), axes, keepdims=keep))


def reduction(operator: Callable) -> Callable:
    """A reduction along the axes of the second operand."""

    def make(call: Call) -> Value:
        rank = len(call.shape(0))
        axes = sorted({a % rank for a in call.numbers(1)})
        return own(call, operator(call.own(0), axes, keepdims=bool(call.options["keep_dims"])))

    return make


def extreme_index(operator: Callable) -> Callable:
    """The index of the largest or smallest value along one axis."""

    def make(call: Call) -> Value:
        (axis,) = call.numbers(1)
        made = operator(call.own(0), axis % len(call.shape(0)))
        return own(call, made if call.dtype == "int64" else op.astype(call.emit(made), "int32"))

    return make


# ---- padding and sizes


def pad(call: Call) -> Value:
    """A pad with zeros, or with PADV2's number; feature maps are padded in NCHW."""
    widths = call.array(1).reshape(-1, 2)
    fill = float(call.array(2).reshape(())) if call.has(2) else 0.0
    if len(widths) != len(call.shape(0)) or widths.min() < 0:
        raise ValueError(f"pads {widths.tolist()} of data of the shape {list(call.shape(0))}")
    if len(widths) == 4:
        flat = [int(w) for w in widths[[0, 3, 1, 2]].reshape(-1)]
        return nchw(call, op.nn.pad(call.nchw(0), flat, "constant", fill))
    return own(call, op.nn.pad(call.own(0), [int(w) for w in widths.reshape(-1)], "constant", fill))


def mirror_pad(call: Call) -> Value:
    """A mirrored pad: REFLECT leaves out the edge itself, SYMMETRIC does not."""
    widths = call.array(1).reshape(-1, 2)
    if call.options["mode"]:
        return own(
            call, reduce(lambda x, a: _mirrored(call, x, a, *map(int, widths[a])), range(len(widths)), call.own(0))
        )
    return own(call, op.nn.pad(call.own(0), [int(w) for w in widths.reshape(-1)], "reflect"))


def _mirrored(call: Call, x: relax.Expr, axis: int, before: int, behind: int) -> relax.Expr:
    if not before and not behind:
        return x
    size = int(x.ty.shape[axis])
    if min(before, behind) < 0 or max(before, behind) > size:
        raise ValueError(f"a mirrored pad of {before} and {behind} around {size} values")
    places = [*range(before - 1, -1, -1), *range(size), *range(size - 1, size - 1 - behind, -1)]
    return call.emit(op.take(x, relax.const(np.array(places, np.int64)), axis, mode="clip"))


def resized(method: str) -> Callable:
    """A resize to a height and width; an option gives the positions of pixels."""

    def make(call: Call) -> Value:
        given, size = call.options, call.numbers(1)
        corners, half = given["align_corners"], given["half_pixel"]
        where = "align_corners" if corners else "half_pixel" if half else "asymmetric"
        rounding = "floor" if where == "asymmetric" else "round_prefer_ceil"
        rounding = rounding if method == "nearest_neighbor" else ""
        return own(
            call,
            op.image.resize2d(
                call.own(0),
                tuple(size),
                layout="NHWC",
                method=method,
                coordinate_transformation_mode=where,
                rounding_method=rounding,
            ),
        )

    return make
