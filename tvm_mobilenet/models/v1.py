"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861), its plain-convolution twin and its shallow variant.

Table 1 of the paper is ``STAGES``. State-dict keys and shapes are those of timm's ``mobilenetv1_100``. The paper's last
depthwise layer is printed "s2" on a 7x7 map that stays 7x7: it has stride 1. The paper writes ReLU; every published
checkpoint, the authors' included, has ReLU6.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet.models.blocks import Features, MobileNet

# (stride, output channels) of each depthwise separable block, grouped by the resolution of its output.
STAGES = [
    [(1, 64)],  # 112 x 112
    [(2, 128), (1, 128)],  # 56 x 56
    [(2, 256), (1, 256)],  # 28 x 28
    [(2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512)],  # 14 x 14
    [(2, 1024), (1, 1024)],  # 7 x 7
]


def round_channels(channels: int, alpha: float) -> int:
    """The width multiplier of v1: plainly cut to an integer, at least 8 (as the original implementation does)."""
    return max(int(channels * alpha), 8)


class SeparableBlock(nn.Module):
    """3x3 depthwise then 1x1 pointwise, each with batch norm and ReLU6 (figure 3, right)."""

    def __init__(self, inp: int, out: int, stride: int):
        super().__init__()
        self.conv_dw = nn.Conv2d(inp, inp, 3, stride, 1, groups=inp, bias=False)
        self.bn1 = nn.BatchNorm2d(inp)
        self.conv_pw = nn.Conv2d(inp, out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.bn1(self.conv_dw(x)))  # (N, inp, H / stride, W / stride)
        return F.relu6(self.bn2(self.conv_pw(x)))  # (N, out, H / stride, W / stride)


class PlainBlock(nn.Module):
    """One standard 3x3 convolution with batch norm and ReLU6 (figure 3, left)."""

    def __init__(self, inp: int, out: int, stride: int):
        super().__init__()
        self.conv = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.bn1(self.conv(x)))


class MobileNetV1(MobileNet):
    """MobileNet v1.

    Parameters
    ----------
    alpha : float
        Width multiplier.
    num_classes : int
        Size of the classifier's output.
    features : None, bool or sequence of int
        Feature maps instead of logits; see ``MobileNet.set_features``.
    variant : str
        ``separable``, ``plain`` (every block one standard convolution: table 4) or ``shallow`` (without the five
        14x14x512 blocks: table 5).
    """

    def __init__(
        self,
        alpha: float = 1.0,
        num_classes: int = 1000,
        features: Features = None,
        variant: str = "separable",
    ):
        super().__init__()
        width = round_channels(32, alpha)
        self.conv_stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        block = PlainBlock if variant == "plain" else SeparableBlock
        self.blocks, strides = nn.Sequential(), [2]
        for rows in STAGES:
            stage = nn.Sequential()
            for stride, out in rows[:1] if variant == "shallow" and len(rows) == 6 else rows:
                stage.append(block(width, round_channels(out, alpha), stride))
                strides.append(stride)
                width = round_channels(out, alpha)
            self.blocks.append(stage)
        self.classifier = nn.Linear(width, num_classes)
        self.set_features(features, strides)

    def stem(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(self.bn1(self.conv_stem(x)))  # (N, 32 alpha, H / 2, W / 2)

    def layers(self):
        return [("conv_stem", self.stem), *self.staged_blocks()]
