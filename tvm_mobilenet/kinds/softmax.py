"""Softmax over the channels of each position."""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register


def _softmax(make, call):
    x = make.tensor(call.args[0])
    axis = int(call.attrs.axis) % len(x.shape)
    if x.dims[axis] != x.stored[-1:] and axis == len(x.shape) - 1:
        x = make.in_order(x)
        x = make.axes.fresh(x.value, make.four(x.shape), x.shape)
    if x.dims[axis] != x.stored[-1:] or x.shape[axis] != x.nhwc[-1]:
        raise make.Unsupported("a softmax over another axis than the channels")
    n, h, w, c = x.nhwc
    return make.call(
        make.layer(kind="softmax", height=h, width=w, channels=c, out_channels=c, batch=n), [x], x.stored, x.dims
    )


def _stepped(layer, x, weight, bias, second, steps):
    """An exponential rounds its own way: those of NumPy, and their sum as the kernel adds it up."""
    import numpy as np

    exponentials = steps.round(np.exp(steps.round(x - x.max(-1, keepdims=True))))
    sums = np.zeros(x.shape[:-1])
    one = np.ones(1)
    terms = ((None, ..., exponentials[..., c], one) for c in range(layer.channels))
    return steps.round(exponentials / steps.sum_products(sums, terms)[..., None])


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
