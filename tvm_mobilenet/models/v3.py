"""MobileNet v3, large and small (Howard et al. 2019, arXiv 1905.02244).

Tables 1 and 2 of the paper are ``LARGE`` and ``SMALL``. State-dict keys and shapes are those of torchvision's
``mobilenet_v3_large`` and ``mobilenet_v3_small``, which differ from the paper in one place: table 2 puts
squeeze-and-excite behind v3-small's head convolution, torchvision (and the authors' checkpoints) have none there.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from tvm_mobilenet.models.blocks import Features, MobileNet, conv_bn, make_divisible

NORM = {"eps": 1e-3, "momentum": 0.01}
RE, HS = nn.ReLU, nn.Hardswish

# kernel, expansion size, output channels, squeeze-and-excite, non-linearity, stride
LARGE = [
    (3, 16, 16, False, RE, 1),
    (3, 64, 24, False, RE, 2),
    (3, 72, 24, False, RE, 1),
    (5, 72, 40, True, RE, 2),
    (5, 120, 40, True, RE, 1),
    (5, 120, 40, True, RE, 1),
    (3, 240, 80, False, HS, 2),
    (3, 200, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 184, 80, False, HS, 1),
    (3, 480, 112, True, HS, 1),
    (3, 672, 112, True, HS, 1),
    (5, 672, 160, True, HS, 2),
    (5, 960, 160, True, HS, 1),
    (5, 960, 160, True, HS, 1),
]
SMALL = [
    (3, 16, 16, True, RE, 2),
    (3, 72, 24, False, RE, 2),
    (3, 88, 24, False, RE, 1),
    (5, 96, 40, True, HS, 2),
    (5, 240, 40, True, HS, 1),
    (5, 240, 40, True, HS, 1),
    (5, 120, 48, True, HS, 1),
    (5, 144, 48, True, HS, 1),
    (5, 288, 96, True, HS, 2),
    (5, 576, 96, True, HS, 1),
    (5, 576, 96, True, HS, 1),
]
VARIANTS = {"large": (LARGE, 1280), "small": (SMALL, 1024)}  # rows, width of the classifier's hidden layer


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate in 0..1 computed from all channels' means."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = make_divisible(channels // 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))  # (N, C / 4, 1, 1)
        return F.hardsigmoid(self.fc2(gate)) * x


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project; the input is added where the shapes agree (figure 4)."""

    def __init__(self, inp, kernel, hidden, out, squeeze, activation, stride):
        super().__init__()
        self.residual = stride == 1 and inp == out
        self.block = nn.Sequential()
        if hidden != inp:
            self.block.append(conv_bn(inp, hidden, 1, activation=activation, **NORM))
        self.block.append(conv_bn(hidden, hidden, kernel, stride, groups=hidden, activation=activation, **NORM))
        if squeeze:
            self.block.append(SqueezeExcite(hidden))
        self.block.append(conv_bn(hidden, out, 1, **NORM))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.block(x) if self.residual else self.block(x)


class MobileNetV3(MobileNet):
    """MobileNet v3.

    Parameters
    ----------
    variant : str
        ``large`` or ``small``.
    alpha : float
        Width multiplier; channels are rounded to multiples of 8.
    num_classes : int
        Size of the classifier's output.
    features : None, bool or sequence of int
        Feature maps instead of logits; see ``MobileNet.set_features``.
    """

    def __init__(self, variant: str, alpha: float = 1.0, num_classes: int = 1000, features: Features = None):
        super().__init__()
        rows, hidden = VARIANTS[variant]
        width = make_divisible(16 * alpha)
        self.features = nn.Sequential(conv_bn(3, width, 3, 2, activation=HS, **NORM))
        for kernel, expanded, out, squeeze, activation, stride in rows:
            expanded, out = make_divisible(expanded * alpha), make_divisible(out * alpha)
            self.features.append(InvertedResidual(width, kernel, expanded, out, squeeze, activation, stride))
            width = out
        self.features.append(conv_bn(width, 6 * width, 1, activation=HS, **NORM))
        hidden = make_divisible(hidden * alpha)
        last = nn.Linear(hidden, num_classes)
        self.classifier = nn.Sequential(nn.Linear(6 * width, hidden), HS(), nn.Dropout(0.2), last)
        self.set_features(features, [2, *(row[-1] for row in rows), 1], head=1)

    def layers(self):
        return [(f"features.{i}", layer) for i, layer in self.features.named_children()]
