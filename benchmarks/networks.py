"""Networks that people bring, as files: built, verified layer by layer, and compared with their own runtime.

    python -m benchmarks.networks make FOLDER          # of timm and torchvision, where they are installed
    PYTHON benchmarks/keras_networks.py FOLDER         # of Keras, by a Python that has tensorflow and tf2onnx
    python -m benchmarks.networks run FOLDER --targets host rpi4        # a line of the table for each file and target
    python -m benchmarks.networks run FOLDER --only keras-v3 --mean 0 --std 0.00392157         # of pixels of 0 to 255
    python -m benchmarks.networks write                # the lines that were recorded, as docs/results/networks.md

``run`` takes every .onnx, .tflite and .pt2 file of a folder, whoever wrote it, and keeps the line of each in
``benchmarks/data/networks.tsv``. What ``make`` writes has random weights, and batch norms that are counted on images,
so that values neither die out nor grow.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tvm_mobilenet.errors import TvmMobilenetError

TABLE = Path(__file__).parent / "data" / "networks.tsv"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "networks.md"
COLUMNS = ("file", "target", "layers", "generic", "share", "difference", "reference", "result")
FILES = (".onnx", ".tflite", ".pt2")
SIZE = 64
TIMM = {  # each with the opset of its file
    "mobilenetv1_100": 13,
    "mobilenetv1_125": 17,
    "mobilenetv2_035": 11,
    "tf_mobilenetv3_small_minimal_100": 13,
    "tf_mobilenetv3_large_075": 18,
    "mobilenetv4_conv_small": 17,
    "mobilenetv4_conv_medium": 18,
    "mobilenetv4_hybrid_medium": 18,
    "mobilenet_edgetpu_v2_xs": 13,
    "efficientnet_lite0": 13,
    "lcnet_050": 11,
    "ghostnet_050": 13,
    "mobileone_s0": 17,
}
TORCHVISION = {
    "mobilenet_v2": 13,
    "mobilenet_v3_small": 11,
    "mobilenet_v3_large": 17,
    "segmentation.lraspp_mobilenet_v3_large": 13,
    "segmentation.deeplabv3_mobilenet_v3_large": 17,
}
HEAD = """# Networks

What `python -m benchmarks.networks run` found. Each file was built and verified: every layer against its definition,
whole outputs on photographs against the runtime that the file is for. Weights are random. `difference` is the largest
of an output's values, in standard deviations of that output; `generic` counts layers that have no schedule of this
project ([operators](../reference/operators.md)), `share` is their part of the predicted cycles of one core; `host`
has no such prediction.

| file | target | layers | generic | share, % | difference | reference | result |
|---|---|---|---|---|---|---|---|
"""


# ---- files


def makers() -> Iterator[tuple[str, int, Callable]]:
    """Name, opset and maker of each network of a package that is installed; what is missing is told on stderr."""
    try:
        import timm

        for name, opset in TIMM.items():
            yield f"timm-{name}", opset, lambda name=name: timm.create_model(name, pretrained=False)
    except ImportError as e:
        print(f"timm: {e}", file=sys.stderr)
    try:
        from torchvision import models

        for name, opset in TORCHVISION.items():
            place, _, own = name.rpartition(".")
            make = getattr(getattr(models, place) if place else models, own)
            weights = {"weights": None, **({"weights_backbone": None} if place else {})}
            yield f"torchvision-{own}", opset, lambda make=make, weights=weights: make(**weights)
    except (ImportError, RuntimeError) as e:
        print(f"torchvision: {e}", file=sys.stderr)


def counted(model):
    """The model in inference, its batch norms' statistics counted on images like photographs."""
    import torch

    from tvm_mobilenet.models import seeded

    torch.manual_seed(0)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    pixels = seeded.natural_images(8, SIZE).transpose(0, 3, 1, 2)
    x = torch.from_numpy((pixels - 0.5) / 0.5).float()
    with torch.no_grad():
        model.train()(x)
    return model.eval().requires_grad_(False)


class FirstOf:
    """Wraps a model of several named outputs, as segmentation networks have, so that it gives the first."""

    @staticmethod
    def of(model):
        import torch

        class First(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.model = model

            def forward(self, x):
                found = self.model(x)
                return next(iter(found.values())) if isinstance(found, dict) else found

        return First().eval()


def make(folder: Path, only: str) -> None:
    """A file of each network."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    for name, opset, maker in makers():
        path = folder / f"{name}-opset{opset}.onnx"
        if only not in name or path.exists():
            continue
        torch.manual_seed(0)
        model = FirstOf.of(counted(maker()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = (torch.zeros(1, 3, SIZE, SIZE),)
            torch.onnx.export(model, given, str(path), dynamo=False, opset_version=opset)
        print(path, file=sys.stderr)


# ---- the table


def row(path: Path, target_name: str, **said) -> dict[str, str]:
    """What a file came to on a target; ``said``: of `ModelOptions`."""
    from tvm_mobilenet import build, targets
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.checking.machine_check import check
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.models.options import ModelOptions

    found = dict.fromkeys(COLUMNS, "") | {"file": path.name, "target": target_name}
    target = targets.load(target_name)
    try:
        network = load_network(ModelOptions(model=str(path), **said))
        generic = [c for c in network.layers if c.layer.body]
        found |= {"layers": str(len(network.layers)), "generic": str(len(generic))}
        with tempfile.TemporaryDirectory() as folder:
            build.build(network.options, target, output=Path(folder) / "out", network=network)
            module = built.read(Path(folder) / "out")
            with open_board("local" if target_name == "host" else "virtual", target) as board:
                checked = check(module, network, board, network.inputs(2), cores=1)
    except TvmMobilenetError as e:
        return found | {"result": "refused: " + str(e).splitlines()[0]}
    worst = max(c.relative for c in checked.outputs)
    wrong = [c.layer for c in checked.layers if not c.ok] + [c.name for c in checked.outputs if not c.ok]
    found |= {"difference": f"{worst:.1e}", "reference": checked.reference}
    if target_name != "host":
        costs = [kernel.cost(1).value for kernel in checked.run.kernels]
        own = sum(c for c, one in zip(costs, checked.layers, strict=True) if one.layer.startswith("generic "))
        found["share"] = f"{100 * own / sum(costs):.1f}"
    return found | {"result": f"wrong: {', '.join(wrong[:3])}" if wrong else "verified"}


def recorded() -> dict[tuple[str, str], dict[str, str]]:
    """The lines of the table, by file and target."""
    if not TABLE.exists():
        return {}
    with open(TABLE, encoding="utf-8", newline="") as file:
        return {(line["file"], line["target"]): line for line in csv.DictReader(file, delimiter="\t")}


def keep(lines: dict[tuple[str, str], dict[str, str]]) -> None:
    with open(TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[key] for key in sorted(lines))


def page() -> str:
    """The recorded table as a page."""
    rows = [f"| {' | '.join(line[c] for c in COLUMNS)} |" for _, line in sorted(recorded().items())]
    return HEAD + "\n".join(rows) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("make", "run", "write", "check"))
    parser.add_argument("folder", type=Path, nargs="?", help="of the files")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--targets", nargs="+", default=["host", "rpi4"])
    for name in ("mean", "std"):
        parser.add_argument(f"--{name}", type=float, nargs="+", help="of the pixels, for files that do not say it")
    args = parser.parse_args(argv)
    said = {name: tuple(getattr(args, name)) for name in ("mean", "std") if getattr(args, name)}
    if args.what == "write":
        PAGE.write_text(page(), encoding="utf-8")
    if args.what == "check":
        return int(PAGE.read_text(encoding="utf-8") != page())
    if args.what == "make":
        make(args.folder, args.only)
    failed = 0
    for path in sorted(args.folder.iterdir()) if args.what == "run" else ():
        if path.suffix not in FILES or args.only not in path.name:
            continue
        for target in args.targets:
            line = row(path, target, **said)
            failed += line["result"] != "verified"
            print("\t".join(line.values()), flush=True)
            keep(recorded() | {(path.name, target): line})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
