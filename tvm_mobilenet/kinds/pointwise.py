"""Pointwise (1x1) convolutions and dense layers: matrix products of pixels, or of images, with a weight."""

from __future__ import annotations

import math
from math import prod

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import conv2d, convolved, convolved_in_steps, matrix, window_of


def _formula(layer, cost) -> int:
    return round(cost.pointwise(layer.channels, layer.out_channels, math.sqrt(layer.height * layer.batch)))


def _pixels(make, call):
    """A 1x1 convolution; with one pixel an image, a dense layer."""
    if (made := _in_any_order(make, call)) is not None:
        return made
    found = conv2d(make, call)
    if not found.product:
        return None
    n, h, w, c = (found.sizes[name] for name in ("batch", "height", "width", "channels"))
    out, kind = found.sizes["out_channels"], "dense" if h * w == 1 else "pointwise"
    layer = make.layer(kind=kind, height=n * h * w, channels=c, out_channels=out)
    return make.feature_map(call, layer, found.x, weight=found.weight.reshape(out, c))


def _in_any_order(make, call):
    """A 1x1 convolution of pixels whose channels are contiguous but that lie in another order, as after a transposed
    convolution. Its output has the same order.
    """
    x, weight, attrs = make.tensor(call.args[0]), make.array(call.args[1]), call.attrs
    if len(x.dims) != 4 or x.layout or len(x.dims[1]) != 1 or x.stored[-1:] != x.dims[1]:
        return None
    if weight is None or str(attrs.data_layout) != "NCHW" or weight.shape[1:] != (*x.shape[1:2], 1, 1):
        return None
    if window_of(attrs) != window_of(None):
        return None
    n, c, h, w = x.shape
    layer = make.layer(kind="pointwise", height=n * h * w, channels=c, out_channels=len(weight))
    channel = make.axes.dim(len(weight))
    dims = (x.dims[0], channel, *x.dims[2:])
    return make.call(layer, [x], x.stored[:-1] + channel, dims, weight=weight.reshape(-1, c))


def _matmul(make, call):
    x, weight = make.tensor(call.args[0]), make.array(call.args[1])
    if weight is None or weight.ndim != 2:
        raise make.Unsupported("only products with a constant matrix")
    rows, k = make.axes.flat(x.dims[:-1]), x.dims[-1]
    if x.stored[: len(rows)] != rows:
        raise make.Unsupported("its rows are not contiguous in memory")
    # order the weight's k as memory is, so that a flatten of a feature map costs nothing at run time
    memory = x.stored[len(rows) :]
    by_axis = weight.reshape([a.size for a in k] + [weight.shape[1]])
    weight = by_axis.transpose([k.index(a) for a in memory] + [len(k)]).reshape(weight.shape).T
    m = prod(x.shape[:-1])
    layer = make.layer(kind="dense", height=m, channels=weight.shape[1], out_channels=weight.shape[0])
    columns = make.axes.dim(weight.shape[0])
    return make.call(layer, [x], rows + columns, (*x.dims[:-1], columns), weight=weight)


_PRODUCT = {
    "schedule": "pointwise",
    "keeps_channels": False,
    "pixels": True,
    "weight_shape": matrix,
    "formula": _formula,
    "reference": convolved,
    "stepped": convolved_in_steps,
}

register(
    Kind(
        name="pointwise",
        patterns={"nn.conv2d": _pixels},
        short="pw",
        with_rows="conv",
        pitched=True,
        streams="anywhere",
        **_PRODUCT,
    )
)
register(Kind(name="dense", images=True, patterns={"matmul": _matmul}, **_PRODUCT))
