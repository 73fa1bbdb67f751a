"""What kinds with a window share: padding and convolution in PyTorch."""

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
