"""MobileNet v4, the networks of convolutions alone (Qin et al. 2024, arXiv 2404.10518).

The universal inverted bottleneck of section 3 is one block with two optional depthwise convolutions, `start` before the
expansion and `middle` after it; their presence gives its four kinds:

    kind      start  middle
    ExtraDW     x      x
    IB                 x      v2's inverted residual
    ConvNext    x
    FFN

`SMALL`, `MEDIUM` and `LARGE` are the authors' own block specifications (tensorflow/models,
`official/vision/modeling/backbones/mobilenet.py`), a stage a list. State-dict keys and shapes are those of timm's
`mobilenetv4_conv_small`, `_medium` and `_large`. The networks below width 1 keep their stem, as timm's do, and the last
1280 never shrink or grow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet.models.blocks import Features, MobileNet, make_divisible


@dataclass(frozen=True)
class Conv:
    """A standard convolution with batch norm and ReLU."""

    kernel: int
    out: int
    stride: int = 1


@dataclass(frozen=True)
class FusedIB:
    """A standard convolution that expands, and a pointwise one that projects."""

    kernel: int
    out: int
    expansion: float
    stride: int = 1


@dataclass(frozen=True)
class UIB:
    """The universal inverted bottleneck; a kernel of 0 means no such depthwise convolution."""

    start: int
    middle: int
    out: int
    expansion: float
    stride: int = 1


SMALL = [
    [Conv(3, 32, 2), Conv(1, 32)],  # 56 x 56
    [Conv(3, 96, 2), Conv(1, 64)],  # 28 x 28
    [UIB(5, 5, 96, 3, 2), *[UIB(0, 3, 96, 2)] * 4, UIB(3, 0, 96, 4)],  # 14 x 14
    [  # 7 x 7
        *(UIB(3, 3, 128, 6, 2), UIB(5, 5, 128, 4), UIB(0, 5, 128, 4), UIB(0, 5, 128, 3)),
        *[UIB(0, 3, 128, 4)] * 2,
    ],
    [Conv(1, 960)],
]
MEDIUM = [
    [FusedIB(3, 48, 4, 2)],  # 56 x 56
    [UIB(3, 5, 80, 4, 2), UIB(3, 3, 80, 2)],  # 28 x 28
    [  # 14 x 14
        *(UIB(3, 5, 160, 6, 2), *[UIB(3, 3, 160, 4)] * 2, UIB(3, 5, 160, 4), UIB(3, 3, 160, 4)),
        *(UIB(3, 0, 160, 4), UIB(0, 0, 160, 2), UIB(3, 0, 160, 4)),
    ],
    [  # 7 x 7
        *(UIB(5, 5, 256, 6, 2), UIB(5, 5, 256, 4), *[UIB(3, 5, 256, 4)] * 2, UIB(0, 0, 256, 4), UIB(3, 0, 256, 4)),
        *(UIB(3, 5, 256, 2), UIB(5, 5, 256, 4), *[UIB(0, 0, 256, 4)] * 2, UIB(5, 0, 256, 2)),
    ],
    [Conv(1, 960)],
]
LARGE = [
    [FusedIB(3, 48, 4, 2)],  # 56 x 56
    [UIB(3, 5, 96, 4, 2), UIB(3, 3, 96, 4)],  # 28 x 28
    [  # 14 x 14
        *(UIB(3, 5, 192, 4, 2), *[UIB(3, 3, 192, 4)] * 3, UIB(3, 5, 192, 4), *[UIB(5, 3, 192, 4)] * 5),
        UIB(3, 0, 192, 4),
    ],
    [  # 7 x 7
        *(UIB(5, 5, 512, 4, 2), *[UIB(5, 5, 512, 4)] * 3, UIB(5, 0, 512, 4), UIB(5, 3, 512, 4)),
        *(*[UIB(5, 0, 512, 4)] * 2, UIB(5, 3, 512, 4), UIB(5, 5, 512, 4), *[UIB(5, 0, 512, 4)] * 3),
    ],
    [Conv(1, 960)],
]
VARIANTS = {"small": (32, SMALL), "medium": (32, MEDIUM), "large": (24, LARGE)}  # channels of the stem, stages
HEAD = 1280


class ConvBnAct(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inp: int, kernel: int, out: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv(x)))  # (N, out, H / stride, W / stride)


class FusedInvertedBottleneck(nn.Module):
    """Expand with a standard convolution, project; the input is added where the shapes agree."""

    def __init__(self, inp: int, kernel: int, out: int, expansion: float, stride: int):
        super().__init__()
        hidden = make_divisible(inp * expansion)
        self.residual = stride == 1 and inp == out
        self.conv_exp = nn.Conv2d(inp, hidden, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv_pwl = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv_exp(x)))  # (N, hidden, H / stride, W / stride)
        y = self.bn2(self.conv_pwl(y))  # (N, out, H / stride, W / stride)
        return x + y if self.residual else y


class ConvNorm(nn.Module):
    """Convolution and batch norm, with ReLU behind them or not."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True):
        super().__init__()
        self.relu = relu
        self.conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


class UniversalInvertedBottleneck(nn.Module):
    """Depthwise, expand, depthwise, project (figure 3 of the paper); the input is added where the shapes agree.

    The block's stride is that of its last depthwise convolution. Neither the one at the start nor the projection has an
    activation behind it.
    """

    def __init__(self, inp: int, start: int, middle: int, out: int, expansion: float, stride: int):
        super().__init__()
        hidden = make_divisible(inp * expansion)
        self.residual = stride == 1 and inp == out
        first = 1 if middle else stride
        self.dw_start = ConvNorm(inp, inp, start, first, groups=inp, relu=False) if start else nn.Identity()
        self.pw_exp = ConvNorm(inp, hidden, 1)
        self.dw_mid = ConvNorm(hidden, hidden, middle, stride, groups=hidden) if middle else nn.Identity()
        self.pw_proj = ConvNorm(hidden, out, 1, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dw_start(x)  # (N, inp, H, W)
        y = self.dw_mid(self.pw_exp(y))  # (N, hidden, H / stride, W / stride)
        y = self.pw_proj(y)  # (N, out, H / stride, W / stride)
        return x + y if self.residual else y


class MobileNetV4(MobileNet):
    """MobileNet v4 of convolutions alone.

    Parameters
    ----------
    variant : str
        ``small``, ``medium`` or ``large``.
    alpha : float
        Width multiplier; channels are rounded to multiples of 8.
    num_classes : int
        Size of the classifier's output.
    features : None, bool or sequence of int
        Feature maps instead of logits; see ``MobileNet.set_features``.
    """

    tail = ("conv_head", "norm_head", "classifier")

    def __init__(self, variant: str, alpha: float = 1.0, num_classes: int = 1000, features: Features = None):
        super().__init__()
        width, stages = VARIANTS[variant]
        width = width if alpha < 1 else make_divisible(width * alpha)
        self.conv_stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.blocks, strides = nn.Sequential(), [2]
        for rows in stages:
            stage = nn.Sequential()
            for row in rows:
                out = make_divisible(row.out * alpha)
                stage.append(_block(row, width, out))
                strides.append(row.stride)
                width = out
            self.blocks.append(stage)
        self.conv_head = nn.Conv2d(width, HEAD, 1, bias=False)
        self.norm_head = nn.BatchNorm2d(HEAD)
        self.classifier = nn.Linear(HEAD, num_classes)
        self.set_features(features, strides, head=1)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv_stem(x)))  # (N, 32, H / 2, W / 2)

    def layers(self):
        return [("conv_stem", self.stem), *self.staged_blocks()]

    def head(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm_head(self.conv_head(x)))  # (N, 1280, 1, 1)
        return self.classifier(torch.flatten(x, 1))


def _block(row: Conv | FusedIB | UIB, inp: int, out: int) -> nn.Module:
    if isinstance(row, Conv):
        return ConvBnAct(inp, row.kernel, out, row.stride)
    if isinstance(row, FusedIB):
        return FusedInvertedBottleneck(inp, row.kernel, out, row.expansion, row.stride)
    return UniversalInvertedBottleneck(inp, row.start, row.middle, out, row.expansion, row.stride)
