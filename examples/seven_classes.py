"""Take a network with seven fine-tuned classes from its checkpoint to a bundle for a Raspberry Pi 4.

    python examples/seven_classes.py FOLDER

The classes are stripes at seven angles in noise: replace `images` and `network` by your own.
"""

import sys
from pathlib import Path

import torch
from torch import nn

import tvm_mobilenet as tm


def images(count, classes, seed):
    """Normalized images (count, 3, 48, 48) and their classes (count,)."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (count,), generator=draw)
    angle, phase = (y * torch.pi / classes)[:, None, None], 6 * torch.rand(count, 1, 1, generator=draw)
    down, right = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    stripes = torch.sin(0.8 * (right * angle.cos() + down * angle.sin()) + phase)
    return stripes[:, None] + 0.5 * torch.randn(count, 3, 48, 48, generator=draw), y


def network(classes):
    """A small MobileNet: a convolution, then pairs of a depthwise and a pointwise one."""
    layers = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    for c, n, stride in ((16, 32, 2), (32, 32, 1), (32, 64, 2)):
        layers += [nn.Conv2d(c, c, 3, stride, 1, groups=c, bias=False), nn.BatchNorm2d(c), nn.ReLU6()]
        layers += [nn.Conv2d(c, n, 1, bias=False), nn.BatchNorm2d(n), nn.ReLU6()]
    return nn.Sequential(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def train(net, classes, steps):
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for step in range(steps):
        x, y = images(32, classes, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


folder = Path(sys.argv[1] if len(sys.argv) > 1 else sys.exit(__doc__))
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
torch.save(train(network(3), 3, 20)[0].state_dict(), folder / "checkpoint.pth")  # of another task, three classes
net = network(7)
net[0].load_state_dict(torch.load(folder / "checkpoint.pth"))
train(net, 7, 60)
labels = [f"{180 * i // 7} degrees" for i in range(7)]
compiled = tm.compile(net, "rpi4", torch.zeros(1, 3, 48, 48), labels=labels, mean=0.5, std=0.5)
x, y = images(7, 7, seed=1000)
compiled.verify(inputs=[x.numpy()]).require()
right = (compiled.run(x.numpy()).argmax(1) == y.numpy()).sum()
print(f"{right} of 7 new images are right by the compiled code; {compiled.latency()}")
print(f"{compiled.bundle(folder / 'seven.tar.gz')} is what a device needs")
