"""Functions shared by kinds with a window: padding and convolution in PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass


def padded(layer, x, value: float):
    """A torch tensor, channels second, with a layer's padding."""
    import torch.nn.functional as F

    top, left, bottom, right = layer.padding
    return F.pad(x, (left, right, top, bottom), value=value)


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TensorFlow's SAME: the padding before and after an axis with which its outputs are ``ceil(size / stride)``."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def computed(layer) -> int:
    """The number of a layer's output channels that are not those of its data."""
    return layer.out_channels - kept(layer)


def kept(layer) -> int:
    """The number of a layer's output channels that are those of its data; they come first."""
    return layer.channels if layer.declared.keeps_data else 0


def outputs(layer, axis: int) -> int:
    """The height (axis 0) or width (axis 1) of a layer's output."""
    if layer.size:
        return layer.size[axis]
    size = (layer.height, layer.width)[axis] + layer.padding[axis] + layer.padding[axis + 2]
    return (size - layer.dilation[axis] * (layer.kernel[axis] - 1) - 1) // layer.stride[axis] + 1


def convolved(layer, x, weight, bias, second):
    """A layer's convolution in PyTorch; also a matrix product, as a 1x1 convolution."""
    import torch
    import torch.nn.functional as F

    weight = weight.reshape(computed(layer), layer.channels // layer.groups, *layer.kernel)
    x = padded(layer, x, 0.0)
    if layer.groups > 1 and x.dtype == torch.float64:
        x = x.contiguous()  # channels last, PyTorch takes up to seven times as long
    return F.conv2d(x, weight, bias, layer.stride, 0, layer.dilation, layer.groups)


def chunks(layer) -> tuple[int, int, int]:
    """The most tap rows, taps of a row and input channels of a tap in one chunk of products.

    A chunk has at most ``DType.chunk`` products. It is a whole window if that has no more, else taps of one row, or
    channels of one tap. Every chunk begins at a multiple of these numbers.
    """
    from tvm_mobilenet import dtypes

    most, depth = dtypes.of(layer.dtype).chunk, layer.channels // layer.groups
    if depth * layer.kernel[0] * layer.kernel[1] <= most:
        return layer.kernel[0], layer.kernel[1], depth
    return 1, max(1, min(layer.kernel[1], most // depth)), min(depth, most)


def convolved_in_steps(layer, x, weight, bias, second, steps):
    """A layer's convolution, one product after the other, in the order of tap rows, taps of a row, input channels of a
    tap.
    """
    import numpy as np

    depth, n = layer.channels // layer.groups, computed(layer) // layer.groups
    x = x.reshape(*x.shape[:3], layer.groups, depth, 1)
    weight = weight.reshape(layer.groups, n, depth, *layer.kernel)
    weight = np.ascontiguousarray(weight.transpose(3, 4, 2, 0, 1))  # kh, kw, c, group, n
    sums = np.empty((layer.batch, layer.out_height, layer.out_width, layer.groups, n))
    rows_of, taps_of, channels_of = chunks(layer)

    def products(first: int, last: int):
        for kh in range(layer.kernel[0]):
            rows, y = _inside(layer, 0, kh, first, last)
            for kw in range(layer.kernel[1]):
                columns, at = _inside(layer, 1, kw, 0, layer.out_width)
                if rows.start < rows.stop and columns.start < columns.stop:
                    seen = np.ascontiguousarray(np.moveaxis(x[:, y, at], -2, 0))
                    where = slice(None), slice(rows.start - first, rows.stop - first), columns
                    for c in range(depth):
                        yield (kh // rows_of, kw // taps_of, c // channels_of), where, seen[c], weight[kh, kw, c]

    for block in steps.blocks(sums.shape):
        start = np.broadcast_to(bias.reshape(layer.groups, n), sums[:, block].shape)
        sums[:, block] = steps.sum_products(start, products(block.start, block.stop))
    return sums.reshape(*sums.shape[:3], computed(layer))


def _inside(layer, axis: int, tap: int, first: int, last: int) -> tuple[slice, slice]:
    """The output positions from ``first`` to ``last`` whose tap lies inside the data, and the data that they read."""
    size, stride = (layer.height, layer.width)[axis], layer.stride[axis]
    off = tap * layer.dilation[axis] - layer.padding[axis]
    start = max(first, -(off // stride))  # the first whose source is not padding
    stop = min(last, (size - 1 - off) // stride + 1)
    return slice(start, stop), slice(start * stride + off, (stop - 1) * stride + off + 1, stride)


def inside(layer, axis: int) -> list[list[int]]:
    """For each output row (axis 0) or column (axis 1), the taps that lie inside the data."""
    size, out = (layer.height, layer.width)[axis], outputs(layer, axis)
    stride, before = layer.stride[axis], layer.padding[axis]
    starts = range(-before, out * stride - before, stride)
    return [_taps_inside(size, start, layer.kernel[axis], layer.dilation[axis]) for start in starts]


def _taps_inside(size: int, start: int, taps: int, dilation: int) -> list[int]:
    """The taps of a window that begins at ``start`` which lie inside ``size`` values."""
    return [k for k in range(taps) if 0 <= start + k * dilation < size]


def centred(layer) -> bool:
    """Whether each output has the position of the data under the middle of its window."""
    reach = [(k - 1) * d for k, d in zip(layer.kernel, layer.dilation, strict=True)]
    odd = all(k % 2 for k in layer.kernel)
    return odd and layer.stride == (1, 1) and layer.padding == (reach[0] // 2, reach[1] // 2) * 2


def taken(layer, kh: int, kw: int) -> tuple[tuple, tuple]:
    """The outputs, channels last, whose tap lies inside the data, and the data that they read."""
    rows, y = _inside(layer, 0, kh, 0, layer.out_height)
    columns, x = _inside(layer, 1, kw, 0, layer.out_width)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        rows = columns = y = x = slice(0, 0)
    return (slice(None), rows, columns), (slice(None), y, x)


def squares(layer) -> tuple[float, float]:
    """The sides of squares with the area of a layer's kernel and of its output: D_K and D_F of the papers."""
    return math.sqrt(math.prod(layer.kernel)), math.sqrt(layer.out_height * layer.out_width * layer.batch)


def filters(layer) -> tuple[int, int, int, int]:
    """``(out, in / groups, kernel height, kernel width)``."""
    return computed(layer), layer.channels // layer.groups, *layer.kernel


def matrix(layer) -> tuple[int, int]:
    """``(n, k)``."""
    return layer.out_channels, layer.channels


def check_window(make, kernel: tuple, window: dict, size: tuple) -> None:
    """Refuse negative pads, which would cut the data, and a kernel that is larger than its padded data."""
    top, left, bottom, right = window["padding"]
    if min(window["padding"]) < 0:
        raise make.Refused(f"negative pads {list(window['padding'])} (top, left, bottom, right) cut the data; slice it")
    room = size[0] + top + bottom, size[1] + left + right
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, window["dilation"], strict=True))
    if reach[0] > room[0] or reach[1] > room[1]:
        raise make.Refused(
            f"its kernel reaches over {reach[0]}x{reach[1]}, the data with its pads is {room[0]}x{room[1]}"
        )


def without_padding_taps(weight, window: dict, size: tuple) -> tuple:
    """The weight and window of a dilated convolution without rows and columns of taps that read only padding: if the
    dilation is larger than the data, as in DeepLab at a low resolution, the centre remains.
    """
    padding, dilations = list(window["padding"]), list(window["dilation"])
    for axis, (of_data, stride, dilation) in enumerate(zip(size, window["stride"], window["dilation"], strict=True)):
        before, taps = padding[axis], weight.shape[2 + axis]
        room = of_data + before + padding[axis + 2] - (taps - 1) * dilation
        starts = range(-before, room - before, stride)  # the first tap of each output
        read = sorted({k for start in starts for k in _taps_inside(of_data, start, taps, dilation)})
        if dilation == 1 or not read or len(read) == taps:
            continue
        first, count = read[0], read[-1] - read[0] + 1
        begin = before - first * dilation
        end = starts[-1] + first * dilation + (count - 1) * dilation + 1 - of_data
        if begin >= 0 and end >= 0:
            weight = weight.take(range(first, first + count), axis=2 + axis)
            padding[axis], padding[axis + 2] = begin, end
            dilations[axis] = dilation if count > 1 else 1
    return weight, {**window, "padding": tuple(padding), "dilation": tuple(dilations)}


def window_of(attrs) -> dict:
    """Stride, padding (top, left, bottom, right) and dilation of a convolution or pool; the defaults for None."""
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
    """A convolution of a graph: its data, weight and sizes, and its kind."""

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
    """The fields of a ``relax.nn.conv2d``; ``make`` is a `passes.channels_last.ChannelsLast`."""
    weight, attrs = make.array(call.args[1]), call.attrs
    if weight is None or str(attrs.data_layout) != "NCHW":
        raise make.Unsupported("only convolutions of NCHW data with constant weights")
    x = make.image(make.tensor(call.args[0]))
    n, c, h, w = x.shape
    out, groups = weight.shape[0], int(attrs.groups)
    window = window_of(attrs)
    check_window(make, weight.shape[2:], window, (h, w))
    weight, window = without_padding_taps(weight, window, (h, w))
    kernel = tuple(weight.shape[2:])
    depthwise = groups == c == out and c > 1
    if depthwise:
        x = make.nhwc(x)
    layout = "NHWC" if (x.layout == "NCHW" and h * w == 1) or c == 1 else x.layout
    sizes = {"height": h, "width": w, "channels": c, "out_channels": out, "batch": n, "groups": groups}
    return Found(x, weight, kernel, window, sizes, layout, depthwise)
