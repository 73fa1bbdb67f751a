"""The cost of operators beside their rooflines, by kind: own schedule, part of a convolution's epilogue, or generic.

Each case is a convolution of 64 channels at 28 x 28, the operator, and a convolution that reads its output, as in a
network. The virtual board predicts the cycles of one core, with default decisions.

    python -m benchmarks.operator_times run [--target rpi4] [CASE ...]   # predicts, prints and keeps
    python -m benchmarks.operator_times write                            # docs/results/operators.md from the record

``x roofline`` covers all layers of an operator; for a part of an epilogue it is the convolution's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TAIL = """
Where `x roofline` is above 1.5:

- Layers that compute little (a pool, a copy, a resize) are bound by the ports of the L1, by lines from the L2, and by
  DRAM. The roofline is the largest of the three. The core model of a Cortex-A72 adds them, since this core overlaps
  little of them, so a layer that reaches all three takes up to three times its roofline. A pool loads each value for
  every window that covers it.
- Clamps to any bounds, PReLU, leaky ReLU, and hard-sigmoid and hard-swish of any slope are in the epilogue of the layer
  before them, as relu, sigmoid and silu are. The convolution of this list takes 1.3 times its roofline without any of
  them (`nothing`).
- A transposed convolution writes its pixels side by side as channels and then copies them, unless a pointwise
  convolution follows, as in the 2 x 2 case. These are more bytes than the L2 of this core has.
- A softmax evaluates an exponential for each value, which the roofline does not count.
"""
KEPT, PAGE = ROOT / "benchmarks" / "data" / "operator_times.json", ROOT / "docs" / "results" / "operators.md"
CHANNELS, SIZE = 64, 28
FIRST, LAST = f"{SIZE}x{SIZE}x3 n{CHANNELS} 1x1", " n8 "
HEAD = """# Cost of operators

`python -m benchmarks.operator_times run` predicts these cycles for one core of a Raspberry Pi 4. Each operator stands
between two pointwise convolutions, on 64 channels of 28 x 28 values, with default decisions. `layers` names the code
that computes it: schedules of this project in **bold**, `generic` loop nests of TVM's, `epilogue` if it is part of the
convolution before it. `x roofline` is the cycles of all these layers over the minimum that multiply-adds, L2 and memory
allow ([roofline](../guides/benchmark.md#profile)). For an epilogue and a fused block both are those of the whole
kernel; its cycles also depend on what earlier layers left in the caches. `before` is the cycles of the kernels of
commit 1524bb8, with the convolution too where the operator is now in its epilogue.

| operator | layers | k cycles | x roofline | before |
|---|---|---|---|---|
"""

# k cycles of the kernels of commit 1524bb8, by the same command; for what is now in the epilogue, with the convolution
BEFORE = {
    "nothing": 104,
    "nearest to twice": 1101,
    "nearest to 40 x 40": 579,
    "nearest to half": 80,
    "bilinear to twice": 1802,
    "bilinear to twice, corners aligned": 1738,
    "bilinear to 40 x 40": 921,
    "bilinear of one pixel": 477,
    "PReLU": 104 + 172,
    "leaky ReLU": 104 + 151,
    "hard-sigmoid 0.2 x + 0.5": 104 + 143,
    "hard-swish of it": 104 + 414,
    "ReLU6 as min and max": 173,
    "clip to -1 and 1": 104 + 143,
    "L2 norm of channels": 895,
    "softmax of channels": 2824,
    "softmax of rows": 4882,
    "softmax of columns": 2680,
    "average, padding not counted": 406,
    "average, padding counted": 80,
    "maximum": 93,
    "depthwise": 224,
    "depthwise, dilated": 219,
    "depth multiplier 2": 518,
    "depth multiplier 4": 894,
    "convolution": 8021,
    "convolution, dilated": 7013,
    "2 groups": 3741,
    "8 groups": 1008,
    "transposed, 2 x 2 at stride 2": 4879,
    "transposed, 4 x 4 at stride 2": 16234,
    "transposed, depthwise 4 x 4": 2977,
}


def cases() -> dict[str, Callable]:
    """By name, a module that computes an operator on 64 channels."""
    import torch
    from torch import nn
    from torch.nn import functional as f

    class Of(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    def resize(size, mode, **how):
        return lambda: Of(lambda x: f.interpolate(x, size, mode=mode, **how))

    def of(function):
        return lambda: Of(function)

    c, far = CHANNELS, 2 * SIZE
    return {
        "nothing": of(lambda x: x),
        "nearest to twice": resize((far, far), "nearest"),
        "nearest to 40 x 40": resize((40, 40), "nearest-exact"),
        "nearest to half": resize((14, 14), "nearest"),
        "bilinear to twice": resize((far, far), "bilinear", align_corners=False),
        "bilinear to twice, corners aligned": resize((far, far), "bilinear", align_corners=True),
        "bilinear to 40 x 40": resize((40, 40), "bilinear", align_corners=False),
        "bilinear of one pixel": of(
            lambda x: f.interpolate(x.mean((2, 3), keepdim=True), (SIZE, SIZE), mode="bilinear")
        ),
        "PReLU": lambda: nn.PReLU(c),
        "leaky ReLU": lambda: nn.LeakyReLU(0.1),
        "hard-sigmoid 0.2 x + 0.5": of(lambda x: (x * 0.2 + 0.5).clamp(0, 1)),
        "hard-swish of it": of(lambda x: x * (x * 0.2 + 0.5).clamp(0, 1)),
        "ReLU6 as min and max": of(lambda x: torch.minimum(torch.maximum(x, torch.zeros(1)), torch.full((1,), 6.0))),
        "clip to -1 and 1": of(lambda x: x.clamp(-1, 1)),
        "L2 norm of channels": of(lambda x: f.normalize(x, dim=1)),
        "softmax of channels": lambda: nn.Softmax(1),
        "softmax of rows": lambda: nn.Softmax(2),
        "softmax of columns": lambda: nn.Softmax(3),
        "average, padding not counted": lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        "average, padding counted": lambda: nn.AvgPool2d(3, 2, 1),
        "maximum": lambda: nn.MaxPool2d(3, 2, 1),
        "depthwise": lambda: nn.Conv2d(c, c, 3, padding=1, groups=c),
        "depthwise, dilated": lambda: nn.Conv2d(c, c, 3, padding=2, groups=c, dilation=2),
        "depth multiplier 2": lambda: nn.Conv2d(c, 2 * c, 3, padding=1, groups=c),
        "depth multiplier 4": lambda: nn.Conv2d(c, 4 * c, 3, padding=1, groups=c),
        "convolution": lambda: nn.Conv2d(c, c, 3, padding=1),
        "convolution, dilated": lambda: nn.Conv2d(c, c, 3, padding=4, dilation=4),
        "2 groups": lambda: nn.Conv2d(c, c, 3, padding=1, groups=2),
        "8 groups": lambda: nn.Conv2d(c, c, 3, padding=1, groups=8),
        "transposed, 2 x 2 at stride 2": lambda: nn.ConvTranspose2d(c, c, 2, 2),
        "transposed, 4 x 4 at stride 2": lambda: nn.ConvTranspose2d(c, c, 4, 2, 1),
        "transposed, depthwise 4 x 4": lambda: nn.ConvTranspose2d(c, c, 4, 2, 1, groups=c),
    }


def network(names: Sequence[str]):
    """A module of these cases side by side, with one output for each."""
    import torch
    from torch import nn

    class Side(nn.Module):
        def __init__(self):
            super().__init__()
            known = cases()
            self.branches = nn.ModuleList(
                nn.ModuleDict({"first": nn.Conv2d(3, CHANNELS, 1), "case": known[name](), "last": nn.LazyConv2d(8, 1)})
                for name in names
            )

        def forward(self, x):
            return tuple(each["last"](each["case"](each["first"](x))) for each in self.branches)

    torch.manual_seed(0)
    net, x = Side().eval(), torch.randn(1, 3, SIZE, SIZE)
    net(x)
    return torch.export.export(net.requires_grad_(False), (x,))


def predict(names: Sequence[str], target: str) -> dict[str, dict]:
    """Layers, seconds and rooflines of each case."""
    import torch

    from tvm_mobilenet import build, profile, targets
    from tvm_mobilenet.models.options import ModelOptions

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.pt2"
        torch.export.save(network(names), path)
        build.build(ModelOptions(model=str(path)), targets.load(target), output=Path(folder) / "out")
        layers = profile.profile(Path(folder) / "out").layers
    hertz = targets.load(target).clock_hz
    begins = [i for i, one in enumerate(layers) if FIRST in one.layer]
    # the last convolutions write the outputs, at the end, or behind an operator whose pixels they read as these lie
    ends = [*begins[1:], next(i for i, one in enumerate(layers) if LAST in one.layer and i > begins[-1])]
    found = {}
    for name, first, end in zip(names, begins, ends, strict=True):
        between = [one for one in layers[first:end] if LAST not in one.layer]
        alone = len(between) > 1 and layers[first].kind == "conv"  # else it is in the first one's epilogue, or kernel
        own = between[alone:]
        made = [f"generic ({one.layer.split()[1]})" if one.kind == "generic" else f"**{one.kind}**" for one in own]
        found[name] = {
            "layers": list(dict.fromkeys(made)) if len(between) > 1 or own[0].kind == "fused" else ["epilogue"],
            "names": [one.layer for one in own],
            "cycles": [round(one.seconds * hertz) for one in own],
            "roofline": [round(one.roofline.seconds * hertz) for one in own],
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator_times", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("run", "write"))
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--target", default="rpi4")
    args = parser.parse_args(argv)
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    if args.what == "run":
        kept |= predict(args.cases or list(cases()), args.target)
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    text = "\n".join(lines(kept))
    if args.what == "write":
        PAGE.write_text(HEAD + text + "\n" + TAIL, encoding="utf-8")
    else:
        print(text)
    return 0


def lines(kept: dict[str, dict]) -> list[str]:
    """Rows of the table."""
    found = []
    for name, one in kept.items():
        cycles, roofline = sum(one["cycles"]), sum(one["roofline"])
        cells = name, ", ".join(one["layers"]), f"{cycles / 1e3:.0f}", f"{cycles / roofline:.1f}", f"{BEFORE[name]}"
        found.append(f"| {' | '.join(cells)} |")
    return found


if __name__ == "__main__":
    sys.exit(main())
