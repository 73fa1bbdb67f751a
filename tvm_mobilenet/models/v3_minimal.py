"""MobileNet v3 minimalistic, large and small: v3 without squeeze-and-excite, hard-swish and kernels of 5x5.

The authors released them with the paper (arXiv 1905.02244; tensorflow/models, `research/slim/nets/mobilenet`) for
hardware on which those three are expensive: every convolution of v3's tables becomes 3x3, every activation ReLU.
State-dict keys and shapes are those of timm's `tf_mobilenetv3_large_minimal_100` and `_small_minimal_100`, the authors'
trained weights in PyTorch. TensorFlow pads a layer of stride 2 on its right and lower sides alone, and so does this
network; the pointwise convolution behind the pool has a bias and no batch norm.

timm writes the expansions as ratios and rounds what comes out; at width 1 that gives the sizes of the paper's tables.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet.models.blocks import Features, MobileNet, make_divisible

NORM = {"eps": 1e-3}
# (expansion, output channels, stride) of each block; expansion 1: v1's separable block
LARGE = [
    [(1, 16, 1)],  # 112 x 112
    [(4, 24, 2), (3, 24, 1)],  # 56 x 56
    [(3, 40, 2), (3, 40, 1), (3, 40, 1)],  # 28 x 28
    [(6, 80, 2), (2.5, 80, 1), (2.3, 80, 1), (2.3, 80, 1)],  # 14 x 14
    [(6, 112, 1), (6, 112, 1)],
    [(6, 160, 2), (6, 160, 1), (6, 160, 1)],  # 7 x 7
]
SMALL = [
    [(1, 16, 2)],  # 56 x 56
    [(4.5, 24, 2), (3.67, 24, 1)],  # 28 x 28
    [(4, 40, 2), (6, 40, 1), (6, 40, 1)],  # 14 x 14
    [(3, 48, 1), (3, 48, 1)],
    [(6, 96, 2), (6, 96, 1), (6, 96, 1)],  # 7 x 7
]
VARIANTS = {"large": (LARGE, 960, 1280), "small": (SMALL, 576, 1024)}  # stages, head convolution, hidden layer


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME of an even input: with stride 2 on its right and lower sides alone."""

    def __init__(self, inp: int, out: int, kernel: int, stride: int, groups: int = 1):
        super().__init__(inp, out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if self.padding != (0, 0) or self.kernel_size == (1, 1) else F.pad(x, (0, 1, 0, 1)))


class SeparableBlock(nn.Module):
    """Depthwise with ReLU, pointwise without."""

    def __init__(self, inp: int, out: int, stride: int):
        super().__init__()
        self.residual = stride == 1 and inp == out
        self.conv_dw = SameConv2d(inp, inp, 3, stride, groups=inp)
        self.bn1 = nn.BatchNorm2d(inp, **NORM)
        self.conv_pw = nn.Conv2d(inp, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, **NORM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv_dw(x)))  # (N, inp, H / stride, W / stride)
        y = self.bn2(self.conv_pw(y))  # (N, out, H / stride, W / stride)
        return x + y if self.residual else y


class InvertedResidual(nn.Module):
    """Expand, depthwise, project without activation; the input is added where the shapes agree."""

    def __init__(self, inp: int, out: int, stride: int, expansion: float):
        super().__init__()
        hidden = make_divisible(inp * expansion)
        self.residual = stride == 1 and inp == out
        self.conv_pw = nn.Conv2d(inp, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden, **NORM)
        self.conv_dw = SameConv2d(hidden, hidden, 3, stride, groups=hidden)
        self.bn2 = nn.BatchNorm2d(hidden, **NORM)
        self.conv_pwl = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, **NORM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv_pw(x)))  # (N, hidden, H, W)
        y = F.relu(self.bn2(self.conv_dw(y)))  # (N, hidden, H / stride, W / stride)
        y = self.bn3(self.conv_pwl(y))  # (N, out, H / stride, W / stride)
        return x + y if self.residual else y


class HeadConv(nn.Module):
    """The last pointwise convolution before the pool, with batch norm and ReLU."""

    def __init__(self, inp: int, out: int):
        super().__init__()
        self.conv = nn.Conv2d(inp, out, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, **NORM)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv(x)))


class MobileNetV3Minimal(MobileNet):
    """MobileNet v3 minimalistic.

    Parameters
    ----------
    variant : str
        ``large`` or ``small``.
    alpha : float
        Width multiplier; channels are rounded to multiples of 8. Below 0.75 the stem keeps its 16; the hidden layer
        never shrinks or grows, as in timm.
    num_classes : int
        Size of the classifier's output.
    features : None, bool or sequence of int
        Feature maps instead of logits; see ``MobileNet.set_features``.
    """

    tail = ("conv_head", "classifier")

    def __init__(self, variant: str, alpha: float = 1.0, num_classes: int = 1000, features: Features = None):
        super().__init__()
        stages, last, hidden = VARIANTS[variant]
        width = 16 if alpha < 0.75 else make_divisible(16 * alpha)
        self.conv_stem = SameConv2d(3, width, 3, 2)
        self.bn1 = nn.BatchNorm2d(width, **NORM)
        self.blocks, strides = nn.Sequential(), [2]
        for rows in stages:
            stage = nn.Sequential()
            for expansion, out, stride in rows:
                out = make_divisible(out * alpha)
                block = SeparableBlock(width, out, stride)
                stage.append(block if expansion == 1 else InvertedResidual(width, out, stride, expansion))
                strides.append(stride)
                width = out
            self.blocks.append(stage)
        last = make_divisible(last * alpha)
        self.blocks.append(nn.Sequential(HeadConv(width, last)))
        self.conv_head = nn.Conv2d(last, hidden, 1)
        self.classifier = nn.Linear(hidden, num_classes)
        self.set_features(features, [*strides, 1], head=1)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv_stem(x)))  # (N, 16 alpha, H / 2, W / 2)

    def layers(self):
        return [("conv_stem", self.stem), *self.staged_blocks()]

    def head(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv_head(x))  # (N, hidden, 1, 1)
        return self.classifier(torch.flatten(x, 1))
