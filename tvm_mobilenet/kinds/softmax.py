"""Softmax over the channels of each position."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register


def _softmax(make, call):
    x = make.tensor(call.args[0])
    axis, rank = int(call.attrs.axis) % len(x.shape), len(x.shape)
    order = [i for i in range(rank) if i != axis] + [axis]
    if x.dims[axis] != x.stored[-1:] or x.shape[axis] != x.nhwc[-1]:  # not the last axis in memory
        x = make.in_order(x.permuted(order))
        x = make.axes.fresh(x.value, make.four(x.shape), x.shape)
        back = [order.index(i) for i in range(rank)]
    else:
        back = list(range(rank))
    n, h, w, c = x.nhwc
    layer = make.layer(kind="softmax", height=h, width=w, channels=c, out_channels=c, batch=n)
    return make.call(layer, [x], x.stored, x.dims).permuted(back)


SUMS = 8  # sums of exponentials in a fixed order: channel c goes to sum c modulo this, then these are added in order


def _stepped(layer, x, weight, bias, second, steps):
    import numpy as np

    powers = steps.exponential(steps.round(x - x.max(-1, keepdims=True)))
    sums = np.zeros((*x.shape[:-1], SUMS))
    one = np.ones(1)
    terms = [(None, (..., c % SUMS), powers[..., c], one) for c in range(layer.channels)]
    sums = steps.sum_products(sums, terms)
    total = sums[..., 0]
    for i in range(1, SUMS):
        total = steps.round(total + sums[..., i])
    return steps.round(powers * steps.round(1.0 / total)[..., None])


register(
    Kind(
        name="softmax",
        schedule="softmax",
        function="softmax",
        wide=True,
        patterns={"nn.softmax": _softmax},
        epilogue=False,
        reference=lambda layer, x, weight, bias, second: x,
        stepped=_stepped,
    )
)
