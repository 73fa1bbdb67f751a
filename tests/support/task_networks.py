"""Networks of tasks beyond classification, as their authors built them but narrow and with random weights.

Each is a `torch.nn.Module` with the operators of its kind at the places where they stand there: heads that are permuted
and concatenated, feature pyramids, dilated convolutions beside a pooled branch, gates, PReLU, normalised embeddings.
Weights are drawn with unit variance of what each layer writes, so that no branch vanishes beside another.

Sources: SSDLite, arXiv 1801.04381, section 6.2; RetinaFace, arXiv 1905.00641; LR-ASPP, arXiv 1905.02244, section 6.4;
DeepLabv3, arXiv 1706.05587; MobileFaceNets, arXiv 1804.07573.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional


class Convolution(nn.Sequential):
    """A convolution, its batch norm and an activation; padded to keep sizes at stride 1."""

    def __init__(self, given, out, kernel=3, stride=1, groups=1, act=None, dilation=1, pad=None):
        pad = dilation * (kernel // 2) if pad is None else pad
        parts = [nn.Conv2d(given, out, kernel, stride, pad, dilation, groups, bias=False), nn.BatchNorm2d(out)]
        super().__init__(*parts, *([act] if act else []))


class Inverted(nn.Module):
    """An inverted residual: expand, depthwise, project; with a skip where sizes allow."""

    def __init__(self, given, out, stride=1, act=nn.ReLU6, dilation=1, expand=2):
        super().__init__()
        wide = given * expand
        self.skips = stride == 1 and given == out
        self.layers = nn.Sequential(
            Convolution(given, wide, 1, act=_make(act, wide)),
            Convolution(wide, wide, 3, stride, wide, act=_make(act, wide), dilation=dilation),
            Convolution(wide, out, 1),
        )

    def forward(self, x):
        return x + self.layers(x) if self.skips else self.layers(x)


def _make(act, channels: int) -> nn.Module:
    return nn.PReLU(channels) if act is nn.PReLU else act()


class SsdLite(nn.Module):
    """Raw heads: boxes ``(1, priors, 4)`` and logits ``(1, priors, classes)`` of three levels, six priors a position as
    SSDLite320 has them. Backbone and head are torchvision's: the one gives maps by name, the other takes them."""

    outputs = ("boxes", "logits")
    priors, classes, levels = 6, 3, (8, 4, 2)  # positions a side, at 64 pixels

    def __init__(self):
        super().__init__()
        self.backbone = SsdLiteBackbone()
        self.head = SsdLiteHead(self.priors, self.classes)

    def forward(self, x):
        return tuple(self.head(list(self.backbone(x).values())).values())


class SsdLiteBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(Convolution(3, 8, 3, 2, act=nn.ReLU6()), Inverted(8, 12, 2), Inverted(12, 16, 2))
        self.further = nn.ModuleList([Inverted(16, 24, 2), Inverted(24, 16, 2)])

    def forward(self, x):
        levels = [self.stem(x)]
        for block in self.further:
            levels.append(block(levels[-1]))
        return {str(i): level for i, level in enumerate(levels)}


class SsdLiteHead(nn.Module):
    def __init__(self, priors: int, classes: int):
        super().__init__()
        self.heads = nn.ModuleList(
            nn.ModuleList(self._head(width, priors * out) for out in (4, classes)) for width in (16, 24, 16)
        )
        self.widths = (4, classes)

    @staticmethod
    def _head(width: int, out: int) -> nn.Module:
        return nn.Sequential(Convolution(width, width, 3, groups=width, act=nn.ReLU6()), nn.Conv2d(width, out, 1))

    def forward(self, levels):
        rows = [
            [head(level).permute(0, 2, 3, 1).reshape(1, -1, out) for head, out in zip(heads, self.widths, strict=True)]
            for level, heads in zip(levels, self.heads, strict=True)
        ]
        boxes, logits = (torch.cat(each, 1) for each in zip(*rows, strict=True))
        return {"bbox_regression": boxes, "cls_logits": logits}


class RetinaFace(nn.Module):
    """Boxes, face probabilities and five landmarks of two priors a position, from a pyramid of three levels."""

    outputs = ("boxes", "scores", "landmarks")

    def __init__(self):
        super().__init__()
        act = nn.LeakyReLU(0.1)
        self.stem = nn.Sequential(Convolution(3, 8, 3, 2, act=act), Inverted(8, 16, 2), Inverted(16, 16, 2))
        self.further = nn.ModuleList([Inverted(16, 24, 2), Inverted(24, 32, 2)])
        self.lateral = nn.ModuleList(Convolution(width, 16, 1, act=act) for width in (16, 24, 32))
        self.merge = nn.ModuleList(Convolution(16, 16, 3, act=act) for _ in range(2))
        self.context = nn.ModuleList(Convolution(16, 8, 3) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(16, 2 * out, 1) for out in (4, 2, 10))

    def forward(self, x):
        low = self.stem(x)
        middle = self.further[0](low)
        levels = [make(y) for make, y in zip(self.lateral, (low, middle, self.further[1](middle)), strict=True)]
        for i in (1, 0):
            up = functional.interpolate(levels[i + 1], size=levels[i].shape[2:], mode="nearest")
            levels[i] = self.merge[i](levels[i] + up)
        levels = [functional.relu(torch.cat([part(y) for part in self.context], 1)) for y in levels]
        found = [
            torch.cat([head(y).permute(0, 2, 3, 1).reshape(1, -1, out) for y in levels], 1)
            for head, out in zip(self.heads, (4, 2, 10), strict=True)
        ]
        return found[0], found[1].softmax(-1), found[2]


class LrAspp(nn.Module):
    """Scores of five classes for every pixel."""

    outputs = ("scores",)

    def __init__(self):
        super().__init__()
        act = nn.Hardswish
        self.low = nn.Sequential(Convolution(3, 8, 3, 2, act=act()), Inverted(8, 16, 2, act), Inverted(16, 16, 2, act))
        self.high = nn.Sequential(Inverted(16, 24, 2, act), Inverted(24, 24, 1, act, dilation=2))
        self.features = Convolution(24, 16, 1, act=nn.ReLU())
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 16, 1, bias=False), nn.Sigmoid())
        self.of_low, self.of_high = nn.Conv2d(16, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x):
        low = self.low(x)
        high = self.high(low)
        gated = self.features(high) * self.gate(high)
        up = functional.interpolate(gated, size=low.shape[2:], mode="bilinear", align_corners=False)
        scores = self.of_low(low) + self.of_high(up)
        return functional.interpolate(scores, size=x.shape[2:], mode="bilinear", align_corners=False)


class DeepLabV3(nn.Module):
    """Scores of five classes for every pixel; three dilated branches, one of pixels and one of the whole image."""

    outputs = ("scores",)

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Convolution(3, 8, 3, 2, act=nn.ReLU6()), Inverted(8, 16, 2), Inverted(16, 24, 2))
        relu = nn.ReLU()
        self.branches = nn.ModuleList(
            [Convolution(24, 16, 1, act=relu), *(Convolution(24, 16, 3, act=relu, dilation=d) for d in (2, 4, 6))]
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), Convolution(24, 16, 1, act=relu))
        self.project = nn.Sequential(Convolution(80, 16, 1, act=relu), Convolution(16, 16, 3, act=relu))
        self.scores = nn.Conv2d(16, 5, 1)

    def forward(self, x):
        y = self.body(x)
        whole = functional.interpolate(self.pooled(y), size=y.shape[2:], mode="bilinear", align_corners=False)
        found = self.scores(self.project(torch.cat([*(branch(y) for branch in self.branches), whole], 1)))
        return functional.interpolate(found, size=x.shape[2:], mode="bilinear", align_corners=False)


class MobileFaceNet(nn.Module):
    """An embedding ``(1, 32)`` of length 1; a depthwise layer of the whole map in place of a pool."""

    outputs = ("embedding",)

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(3, 8, 3, 2, act=nn.PReLU(8)),
            Convolution(8, 8, 3, groups=8, act=nn.PReLU(8)),
            Inverted(8, 16, 2, nn.PReLU),
            Inverted(16, 16, 1, nn.PReLU),
            Inverted(16, 24, 2, nn.PReLU),
            Convolution(24, 48, 1, act=nn.PReLU(48)),
            Convolution(48, 48, 7, groups=48, pad=0),
            Convolution(48, 32, 1),
            nn.Flatten(),
        )

    def forward(self, x):
        return functional.normalize(self.layers(x))


NETWORKS = {  # with the size of their input
    "ssdlite": (SsdLite, 64),
    "retinaface": (RetinaFace, 64),
    "lraspp": (LrAspp, 64),
    "deeplabv3": (DeepLabV3, 64),
    "mobilefacenet": (MobileFaceNet, 56),
}


def make(name: str, seed: int = 0) -> nn.Module:
    """A network by its name, with weights of a seed."""
    torch.manual_seed(seed)
    net = NETWORKS[name][0]().eval()
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.normal_(0, part.weight[0].numel() ** -0.5)
                if part.bias is not None:
                    part.bias.normal_(0, 0.1)
            elif isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(1.0, 2.0)
                part.bias.normal_(0, 0.1)
            elif isinstance(part, nn.PReLU):
                part.weight.uniform_(0.05, 0.4)
    return net


def write(name: str, path: Path) -> Path:
    """A network as an ONNX file, its outputs with their names."""
    net, size = make(name), NETWORKS[name][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            (torch.zeros(1, 3, size, size),),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=list(net.outputs),
        )
    return path
