"""MobileFaceNet, arXiv 1804.07573, table 1: an embedding of a face of 112 x 112 pixels, (1, 128), of length 1."""

from __future__ import annotations

from torch import nn

SIZE = 112
BLOCKS = (  # expansion, channels, repeats, the first stride
    (2, 64, 5, 2),
    (4, 128, 1, 2),
    (2, 128, 6, 1),
    (4, 128, 1, 2),
    (2, 128, 2, 1),
)


def convolution(given: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> nn.Sequential:
    """A convolution, its batch norm and, unless the layer is linear, a PReLU; a kernel of the whole map has no pads."""
    parts = [nn.Conv2d(given, out, kernel, stride, kernel // 2 if kernel == 3 else 0, groups=groups, bias=False)]
    return nn.Sequential(*parts, nn.BatchNorm2d(out), *([nn.PReLU(out)] if act else []))


class Bottleneck(nn.Module):
    """Expand, depthwise, project; a skip where sizes allow."""

    def __init__(self, given: int, out: int, stride: int, expansion: int):
        super().__init__()
        wide = given * expansion
        self.skips = stride == 1 and given == out
        self.layers = nn.Sequential(
            convolution(given, wide, 1), convolution(wide, wide, 3, stride, wide), convolution(wide, out, 1, act=False)
        )

    def forward(self, x):
        return x + self.layers(x) if self.skips else self.layers(x)


class MobileFaceNet(nn.Module):
    def __init__(self):
        super().__init__()
        layers, width = [convolution(3, 64, 3, 2), convolution(64, 64, 3, groups=64)], 64
        for expansion, out, repeats, first in BLOCKS:
            for i in range(repeats):
                layers.append(Bottleneck(width, out, 1 if i else first, expansion))
                width = out
        whole = SIZE // 16
        layers += [convolution(width, 512, 1), convolution(512, 512, whole, groups=512, act=False)]
        self.layers = nn.Sequential(*layers, convolution(512, 128, 1, act=False), nn.Flatten())

    def forward(self, x):  # (N, 3, 112, 112) -> (N, 128)
        return nn.functional.normalize(self.layers(x))
