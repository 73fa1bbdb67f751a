"""Compile a backbone with several feature maps as named outputs, for detectors and embeddings.

    python examples/feature_maps.py FOLDER

The weights are random, with batch-norm statistics of noise: the maps have their real sizes, but their values mean
nothing.
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import tvm_mobilenet as tm


class Backbone(nn.Module):
    """Blocks of a depthwise and a pointwise convolution; each map is half as high and wide as the one before."""

    def __init__(self, channels=(16, 32, 64, 128)):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0]))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(nn.Conv2d(c, c, 3, 2, 1, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU6()),
                *(nn.Conv2d(c, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU6()),
            )
            for c, n in pairwise(channels)
        )

    def forward(self, image):
        x, maps = nn.functional.relu6(self.stem(image)), {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            maps[f"stride_{4 << i}"] = x
        return maps  # its keys are the names of the outputs


torch.manual_seed(0)
folder, image = Path(sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__)), torch.randn(1, 3, 96, 128)
backbone = Backbone()
for _ in range(50):
    backbone(torch.randn(2, 3, 96, 128))  # training mode updates the statistics
net = tm.compile(backbone, "rpi5", image, output=folder / "backbone")
net.verify(inputs=[image.numpy()]).require()
for name, found in net.run(image.numpy()).items():
    print(f"{name:10} {found.shape}, mean {found.mean():.3f}")
print(net.latency())
print(f"{net.bundle(folder / 'backbone.tar.gz')} is what a device needs")
