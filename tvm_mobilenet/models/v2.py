"""MobileNet v2 (Sandler et al. 2018, arXiv 1801.04381).

Table 2 of the paper is ``BOTTLENECKS``. State-dict keys and shapes are those of torchvision's ``mobilenet_v2``.
"""

from __future__ import annotations

import torch
from torch import nn

from tvm_mobilenet.models.blocks import Features, MobileNet, conv_bn, make_divisible

# t: expansion, c: output channels, n: repeats, s: stride of the first of them
BOTTLENECKS = [
    # t, c, n, s
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation; the input is added where the shapes agree."""

    def __init__(self, inp: int, out: int, stride: int, expansion: int):
        super().__init__()
        hidden = inp * expansion
        self.residual = stride == 1 and inp == out
        self.conv = nn.Sequential()
        if expansion != 1:
            self.conv.append(conv_bn(inp, hidden, 1, activation=nn.ReLU6))
        self.conv.append(conv_bn(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6))
        self.conv.extend(conv_bn(hidden, out, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(MobileNet):
    """MobileNet v2.

    Parameters
    ----------
    alpha : float
        Width multiplier; channels are rounded to multiples of 8, and the head's 1280 never shrink.
    num_classes : int
        Size of the classifier's output.
    features : None, bool or sequence of int
        Feature maps instead of logits; see ``MobileNet.set_features``.
    """

    def __init__(self, alpha: float = 1.0, num_classes: int = 1000, features: Features = None):
        super().__init__()
        width, head = make_divisible(32 * alpha), make_divisible(1280 * max(1.0, alpha))
        self.features = nn.Sequential(conv_bn(3, width, 3, 2, activation=nn.ReLU6))
        strides = [2]
        for t, c, n, s in BOTTLENECKS:
            out = make_divisible(c * alpha)
            for i in range(n):
                strides.append(s if i == 0 else 1)
                self.features.append(InvertedResidual(width, out, strides[-1], t))
                width = out
        self.features.append(conv_bn(width, head, 1, activation=nn.ReLU6))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(head, num_classes))
        self.set_features(features, [*strides, 1], head=1)

    def layers(self):
        return [(f"features.{i}", layer) for i, layer in self.features.named_children()]
