"""What kinds with a window share: padding and convolution in PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass


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


def check_window(make, kernel: tuple, window: dict, size: tuple) -> None:
    """Refuse pads that cut instead of adding, and a kernel that its data, pads included, has no room for."""
    top, left, bottom, right = window["padding"]
    if min(window["padding"]) < 0:
        raise make.Unsupported(
            f"negative pads {list(window['padding'])} (top, left, bottom, right) cut the data; slice it"
        )
    room = size[0] + top + bottom, size[1] + left + right
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, window["dilation"], strict=True))
    if reach[0] > room[0] or reach[1] > room[1]:
        raise make.Unsupported(
            f"its kernel reaches over {reach[0]}x{reach[1]}, the data with its pads is {room[0]}x{room[1]}"
        )


def window_of(attrs) -> dict:
    """Stride, padding (top, left, bottom, right) and dilation of a convolution or pool; of none, the defaults."""
    if attrs is None:
        return {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
    padding = [int(p) for p in attrs.padding]
    padding = padding * 4 if len(padding) == 1 else padding * 2 if len(padding) == 2 else padding
    return {
        "stride": tuple(int(s) for s in attrs.strides),
        "padding": tuple(padding),
        "dilation": tuple(int(d) for d in attrs.dilation),
    }


@dataclass(frozen=True)
class Found:
    """A convolution of a graph: its data, weight and sizes, and which kind it is of."""

    x: object
    weight: object
    kernel: tuple[int, int]
    window: dict
    sizes: dict
    layout: str | None
    depthwise: bool

    @property
    def product(self) -> bool:
        """Whether it is a product of the pixels of channels-last data."""
        plain = self.kernel == (1, 1) and self.window == window_of(None) and self.sizes["groups"] == 1
        return plain and self.layout == "NHWC" and not self.depthwise

    def layer(self, make, kind: str):
        """The layer of a kind with a window."""
        return make.layer(kind=kind, kernel=self.kernel, input_layout=self.layout, **self.sizes, **self.window)


def conv2d(make, call) -> Found:
    """What ``relax.nn.conv2d`` says; ``make`` is `passes.channels_last.ChannelsLast`."""
    x, weight, attrs = make.tensor(call.args[0]), make.array(call.args[1]), call.attrs
    if weight is None or str(attrs.data_layout) != "NCHW":
        raise make.Unsupported("only convolutions of NCHW data with constant weights")
    n, c, h, w = x.shape
    out, groups = weight.shape[0], int(attrs.groups)
    kernel, window = tuple(weight.shape[2:]), window_of(attrs)
    check_window(make, kernel, window, (h, w))
    depthwise = groups == c == out and c > 1
    if depthwise:
        x = make.nhwc(x)
    layout = "NHWC" if (x.layout == "NCHW" and h * w == 1) or c == 1 else x.layout
    if layout is None:
        raise make.Unsupported("its data is neither NCHW nor NHWC in memory")
    sizes = {"height": h, "width": w, "channels": c, "out_channels": out, "batch": n, "groups": groups}
    return Found(x, weight, kernel, window, sizes, layout, depthwise)
