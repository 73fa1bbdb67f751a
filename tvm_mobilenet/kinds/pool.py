"""Average and maximum pools.

``avg`` divides by the kernel's size, so padding counts. ``mean`` divides by the number of values that a window has
inside the data: ONNX's default, and what TFLite computes.
"""

from __future__ import annotations

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import check_window, inside, padded, taken, window_of


def _reference(layer, x, weight, bias, second):
    import torch

    windows = padded(layer, x, float("-inf") if layer.op == "max" else 0.0)
    for axis in (0, 1):
        kernel, dilation = layer.kernel[axis], layer.dilation[axis]
        windows = windows.unfold(2 + axis, (kernel - 1) * dilation + 1, layer.stride[axis])[..., ::dilation]
    if layer.op == "mean":
        return windows.sum((-1, -2)) / torch.from_numpy(counts(layer))
    return windows.mean((-1, -2)) if layer.op == "avg" else windows.amax((-1, -2))


def _stepped(layer, x, weight, bias, second, steps):
    import numpy as np

    start = -np.inf if layer.op == "max" else 0.0
    sums = np.full((layer.batch, layer.out_height, layer.out_width, layer.channels), start)
    ones = np.ones(1)
    found = [
        (None, where, x[read], ones)
        for kh in range(layer.kernel[0])
        for kw in range(layer.kernel[1])
        for where, read in [taken(layer, kh, kw)]
    ]
    if layer.op != "max":
        taps = counts(layer)[..., None] if layer.op == "mean" else layer.kernel[0] * layer.kernel[1]
        return steps.round(steps.sum_products(sums, found) * steps.round(1.0 / np.asarray(taps), steps.sums))
    for _, where, values, _ in found:
        np.maximum(sums[where], values, out=sums[where])
    return sums


def counts(layer):
    """The number of values that each window has inside the data: an array of (output rows, output columns)."""
    import numpy as np

    rows, columns = (np.array([len(taps) for taps in inside(layer, axis)]) for axis in (0, 1))
    return rows[:, None] * columns


def _average(make, call):
    attrs = call.attrs
    padded = any(int(p) for p in attrs.padding)
    return _pool(make, call, "mean" if padded and not attrs.count_include_pad else "avg")


def _maximum(make, call):
    return _pool(make, call, "max")


def _pool(make, call, op: str):
    x = make.nhwc(make.tensor(call.args[0]))
    n, c, h, w = x.shape
    window = window_of(call.attrs)
    kernel = tuple(int(k) for k in call.attrs.pool_size)
    check_window(make, kernel, window, (h, w))
    layer = make.layer(
        kind="pool", op=op, height=h, width=w, channels=c, out_channels=c, batch=n, kernel=kernel, **window
    )
    expected = make.shape_of(call)[2:]
    if (layer.out_height, layer.out_width) != expected:  # ceil_mode: rows and columns beyond the end
        if op == "avg":
            raise make.Unsupported("an average pool that counts its padding, with ceil_mode")
        top, left, bottom, right = layer.padding
        bottom += (expected[0] - layer.out_height) * layer.stride[0]
        right += (expected[1] - layer.out_width) * layer.stride[1]
        layer = layer.replace(padding=(top, left, bottom, right))
    if op == "mean" and not counts(layer).all():
        raise make.Unsupported("a window without a value of the data has no mean")
    return make.feature_map(call, layer, x)


register(
    Kind(
        name="pool",
        schedule="pool",
        ops=("avg", "mean", "max"),
        selects=("max",),
        windowed=True,
        pitched=True,
        wide=True,
        reference=_reference,
        stepped=_stepped,
        patterns={"nn.avg_pool2d": _average, "nn.max_pool2d": _maximum},
    )
)
