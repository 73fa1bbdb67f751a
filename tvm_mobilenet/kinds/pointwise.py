"""Pointwise (1x1) convolutions and dense layers: matrix products of pixels, or of images, with a weight."""

from __future__ import annotations

import math
from math import prod

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import conv2d, convolved, convolved_in_steps, matrix


def _formula(layer, cost) -> int:
    return round(cost.pointwise(layer.channels, layer.out_channels, math.sqrt(layer.height * layer.batch)))


def _pixels(make, call):
    """A 1x1 convolution; with one pixel an image, a dense layer."""
    found = conv2d(make, call)
    if not found.product:
        return None
    n, h, w, c = (found.sizes[name] for name in ("batch", "height", "width", "channels"))
    out, kind = found.sizes["out_channels"], "dense" if h * w == 1 else "pointwise"
    layer = make.layer(kind=kind, height=n * h * w, channels=c, out_channels=out)
    return make.feature_map(call, layer, found.x, weight=found.weight.reshape(out, c))


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
