"""Runs a graph of layers for tests, layer by layer in PyTorch."""

import numpy as np
import torch
import torch.nn.functional as F

from tvm_mobilenet.dtypes import OF_DATA

ACTIVATION = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
}


NUMBERED = {  # followed by numbers in a layer's name
    "leaky": lambda x, slope: x.clamp(min=0) + slope * x.clamp(max=0),
    "clip": lambda x, low, high: torch.where(x < low, low, torch.where(x > high, high, x)),
    "hardswish": lambda x, slope, offset: x * F.hardtanh(slope * x + offset, 0.0, 1.0),
}


def _activated(x, word, slopes):
    if word == "prelu":
        return x.clamp(min=0) + torch.as_tensor(slopes).reshape(-1, 1, 1) * x.clamp(max=0)
    if word in ACTIVATION:
        return ACTIVATION[word](x)
    kind = next(kind for kind in NUMBERED if word.startswith(kind))
    return NUMBERED[kind](x, *map(float, word.removeprefix(kind).split(",")))


def run_in_torch(graph, *inputs):
    """The outputs of a graph of layers, each computed by what `Layer` says of it. Arrays in, list of arrays out."""
    signature = graph.signature
    values = {p.value: torch.as_tensor(x).reshape(-1) for p, x in zip(signature.inputs, inputs, strict=True)}
    for call in graph.calls:
        operands = [values[v] for v in call.inputs]
        values[call.output] = _layer(call, *operands).reshape(-1)
    return [values[p.value].reshape(p.shape).numpy() for p in signature.outputs]


def assert_close(graph, model, *inputs):
    """The graph computes what the PyTorch model does, and the model's output is not all the same."""
    with torch.no_grad():
        expected = model(*[torch.as_tensor(x) for x in inputs])
    expected = [expected] if isinstance(expected, torch.Tensor) else list(expected)
    found = run_in_torch(graph, *inputs)
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        e = e.numpy()
        assert f.shape == e.shape
        spread = e.std() or 1.0
        assert np.abs(f - e).max() <= 1e-4 * spread, f"differs by {np.abs(f - e).max() / spread:.1e} of the spread"


def _layer(call, data, *rest):
    layer = call.layer
    if layer.body is not None:
        given = zip((data, *rest), layer.operand_buffers, strict=True)
        arrays = [value.reshape(shape).numpy() for value, shape in given]
        made = torch.as_tensor(layer.body.reference(*arrays, *call.constants.values()))
        return made.float() if layer.output_dtype in OF_DATA else made  # whole numbers exceed a float's
    x = data.reshape(layer.input_shape)
    weight, bias = (None, None) if call.weight is None else (torch.as_tensor(call.weight), torch.as_tensor(call.bias))
    if weight is not None:
        assert tuple(weight.shape) == layer.weight_shape and tuple(bias.shape) == (layer.out_channels,)
    if layer.input_layout == "NHWC":
        x = x.permute(0, 3, 1, 2)
    if layer.kind in ("conv", "depthwise", "pointwise", "dense"):
        if weight.ndim == 2:
            weight = weight[:, :, None, None]
        top, left, bottom, right = layer.padding
        x = F.pad(x, (left, right, top, bottom))
        x = F.conv2d(x, weight, bias, layer.stride, 0, layer.dilation, layer.groups)
    elif layer.kind == "pool":
        top, left, bottom, right = layer.padding
        data, x = x, F.pad(x, (left, right, top, bottom), value=-np.inf if layer.op == "max" else 0.0)
        if layer.op != "max":
            share = torch.full((layer.channels, 1, *layer.kernel), 1 / (layer.kernel[0] * layer.kernel[1]))
            x = F.conv2d(x, share, None, layer.stride, 0, layer.dilation, layer.channels)
            if layer.op == "mean":
                ones = F.pad(torch.ones_like(data), (left, right, top, bottom))
                x = x / F.conv2d(ones, share, None, layer.stride, 0, layer.dilation, layer.channels)
        else:
            x = F.max_pool2d(x, layer.kernel, layer.stride, 0, layer.dilation)
    elif layer.kind == "softmax":
        x = x.softmax(1)
    elif layer.size:
        modes = {"asymmetric_floor": "nearest", "tf_half_pixel_floor": "nearest-exact"}
        how = {"mode": modes.get(layer.op, "bilinear")}  # PyTorch's own
        if layer.kind == "bilinear2d":
            assert layer.op in ("half_pixel", "align_corners")
            how["align_corners"] = layer.op == "align_corners"
        x = F.interpolate(x, layer.size, **how)
    if rest:
        shape = (layer.batch, 1, 1, layer.channels) if layer.op == "scale" else layer.output_shape
        second = rest[0].reshape(shape)
        if layer.output_layout == "NHWC" or layer.op == "scale":
            second = second.permute(0, 3, 1, 2)
    if layer.kind == "elementwise" and rest:
        x = {"add": x.add, "sub": x.sub, "mul": x.mul, "scale": x.mul}[layer.op](second)
    if layer.residual == "before":
        x = x + second
    x = _activated(x, layer.activation, call.constants.get("slopes"))
    if layer.residual == "after":
        x = x + second
    assert x.shape[1:] == (layer.out_channels, layer.out_height, layer.out_width)
    return x if layer.output_layout == "NCHW" else x.permute(0, 2, 3, 1).contiguous()
