"""Built modules and a benchmark that several test files share, each made once in a process."""

import functools
import tempfile
from pathlib import Path

from tvm_mobilenet import bench, build, targets
from tvm_mobilenet.network import load_network
from tvm_mobilenet.options import ModelOptions

MODEL = ModelOptions(model="v1", alpha=0.25, resolution=32, classes=10)


@functools.cache
def _root() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="tvm_mobilenet_test_")  # removed when the process ends


@functools.cache
def _network(options: ModelOptions):
    return load_network(options)


@functools.cache
def small(target: str = "host") -> Path:
    """MobileNet v1 0.25 at 32 pixels: 28 layers, 0.9 MB of parameters."""
    return build.build(MODEL, targets.load(target), output=Path(_root().name) / target, network=_network(MODEL)).folder


def small_of(*names: str) -> Path:
    """The folder that has the small network for each of several targets, by its name."""
    for name in names:
        small(name)
    return Path(_root().name)


@functools.cache
def tiny(target: str = "host", width: int = 16) -> Path:
    """A network of five layers from a file of the user's own; its dense layer has 64 times ``width`` weights."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(),
                        nn.Conv2d(8, 64, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, width))
    path = Path(_root().name) / f"tiny-{target}-{width}.pt2"
    torch.export.save(torch.export.export(net.eval(), (torch.zeros(1, 3, 32, 32),)), path)
    options = ModelOptions(model=str(path))
    return build.build(options, targets.load(target), output=path.with_suffix(""), network=load_network(options)).folder


@functools.cache
def measured():
    """A benchmark of the small network on this machine."""
    return bench.bench(small("host"), board="local", threads=(1, 2), seconds=0.3, cool_down=0)
