"""Depthwise convolutions: one filter a channel."""

from __future__ import annotations

from math import prod

import numpy as np

from tvm_mobilenet.kinds import Kind, register
from tvm_mobilenet.kinds.windows import conv2d, convolved, convolved_in_steps, filters, squares


def _formula(layer, cost) -> int:
    kernel, size = squares(layer)
    return round(cost.depthwise(kernel, layer.channels, size))


def _pattern(make, call):
    found = conv2d(make, call)
    if not found.depthwise:
        return None
    return make.feature_map(call, found.layer(make, "depthwise"), found.x, weight=found.weight)


def _batch_norm(make, call):
    raise make.Refused("its statistics are not fixed; export the model in inference mode (model.eval())")


def _pad(make, call):
    """A pad of zeros that no convolution has absorbed becomes a depthwise 1x1 layer that pads."""
    widths = [int(i) for i in call.attrs.pad_width]
    if min(widths) < 0:
        raise make.Refused("a negative pad cuts the data; slice it")
    if str(call.attrs.pad_mode) != "constant" or float(call.attrs.pad_value) or len(widths) != 8 or any(widths[:4]):
        raise make.Unsupported("only zeros around the height and width")
    x = make.nhwc(make.tensor(call.args[0]))
    n, c, h, w = x.shape
    padding = (widths[4], widths[6], widths[5], widths[7])
    geometry = {"height": h, "width": w, "channels": c, "out_channels": c, "batch": n, "groups": c}
    layer = make.layer(kind="depthwise", padding=padding, **geometry)
    return make.feature_map(call, layer, x, weight=np.ones((c, 1, 1, 1)))


def _affine(make, call, op: str):
    """Multiplication by, or addition of, one constant a channel becomes a depthwise 1x1 layer."""
    constant = make.array(call.args[1])
    if constant is None:
        return None
    x = make.tensor(call.args[0])
    if make.shape_of(call) != x.shape:
        raise make.Unsupported("a constant of more dimensions than the data")
    shape = (1,) * (len(x.shape) - constant.ndim) + constant.shape
    varying = [i for i, s in enumerate(shape) if s > 1]
    # the normalisation of the network's input, whose channels are not yet the last axis
    own = x.value.startswith("input_") and x.layout == "NCHW" and prod(x.shape[2:]) > 1
    from_nchw = own and x.shape[1] > 1 and varying in ([], [1])
    channels = x.shape[1] if from_nchw else x.nhwc[-1]
    last = x.dims[1] if from_nchw else x.stored[-1:]
    if varying and (len(varying) > 1 or x.dims[varying[0]] != last or constant.size != channels):
        raise make.Unsupported("a constant that is not one value a channel")
    values = np.broadcast_to(constant.reshape(-1), (channels,))
    shift = {"add": values, "sub": -values, "mul": np.zeros(channels)}[op]
    if from_nchw:  # the normalisation of the network's input becomes a 1x1 convolution that reads NCHW
        n, c, h, w = x.shape
        weight = np.diag(values if op == "mul" else np.ones(c)).reshape(c, c, 1, 1)
        layer = make.layer(kind="conv", height=h, width=w, channels=c, out_channels=c, batch=n, input_layout="NCHW")
        return make.feature_map(call, layer, x, weight=weight, bias=shift)
    n, h, w, c = x.nhwc
    weight = values if op == "mul" else np.ones(c)
    layer = make.layer(kind="depthwise", height=h, width=w, channels=c, out_channels=c, batch=n, groups=c)
    return make.call(layer, [x], x.stored, x.dims, weight=weight.reshape(c, 1, 1, 1), bias=shift)


register(
    Kind(
        name="depthwise",
        short="dw",
        schedule="depthwise",
        groups="channels",
        windowed=True,
        pitched=True,
        streams="anywhere",
        weight_shape=filters,
        formula=_formula,
        patterns={
            "nn.conv2d": _pattern,
            "nn.batch_norm": _batch_norm,
            "nn.pad": _pad,
            "add": lambda make, call: _affine(make, call, "add"),
            "subtract": lambda make, call: _affine(make, call, "sub"),
            "multiply": lambda make, call: _affine(make, call, "mul"),
        },
        reference=convolved,
        stepped=convolved_in_steps,
    )
)
