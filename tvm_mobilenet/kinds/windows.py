"""What kinds with a window share: padding and convolution, in PyTorch and in Relax."""

from __future__ import annotations

import math


def padded(layer, x, value: float):
    """A torch tensor, channels second, with a layer's padding."""
    import torch.nn.functional as F

    top, left, bottom, right = layer.padding
    return F.pad(x, (left, right, top, bottom), value=value)


def convolved(layer, x, weight, bias, second):
    """A layer's convolution by PyTorch; of products too, whose kernel is one by one."""
    import torch.nn.functional as F

    weight = weight.reshape(layer.out_channels, layer.channels // layer.groups, *layer.kernel)
    return F.conv2d(padded(layer, x, 0.0), weight, bias, layer.stride, 0, layer.dilation, layer.groups)


def squares(layer) -> tuple[float, float]:
    """Sides of squares that have as much as a layer's kernel and as its outputs do: the papers' D_K and D_F."""
    return math.sqrt(math.prod(layer.kernel)), math.sqrt(layer.out_height * layer.out_width * layer.batch)


def filters(layer) -> tuple[int, int, int, int]:
    """``(out, in / groups, kernel height, kernel width)``."""
    return layer.out_channels, layer.channels // layer.groups, *layer.kernel


def matrix(layer) -> tuple[int, int]:
    """``(n, k)``."""
    return layer.out_channels, layer.channels


def window(layer) -> dict:
    """A layer's stride, padding and dilation as Relax's operators take them."""
    return {"strides": layer.stride, "padding": layer.padding, "dilation": layer.dilation}


def convolution(layer, x, weight, bias):
    """A layer's convolution in Relax."""
    from tvm.relax import op

    x = op.nn.conv2d(x, weight, groups=layer.groups, **window(layer))
    return op.add(x, op.reshape(bias, (1, layer.out_channels, 1, 1)))


def product(layer, rows, weight, bias):
    """A product of rows in Relax: ``(m, k)`` to ``(m, n)``."""
    from tvm.relax import op

    return op.add(op.matmul(rows, op.permute_dims(weight)), bias)
