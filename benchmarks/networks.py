"""Build files of networks from other projects, verify them layer by layer, and compare with their own runtimes.

    python -m benchmarks.networks make FOLDER          # of timm, torchvision and PaddleOCR, where they are installed
    PYTHON benchmarks/keras_networks.py FOLDER         # of Keras, by a Python that has tensorflow and tf2onnx
    python -m benchmarks.networks run FOLDER --targets host rpi4        # a line of the table for each file and target
    python -m benchmarks.networks run FOLDER --only keras-v3 --mean 0 --std 0.00392157         # of pixels of 0 to 255
    python -m benchmarks.networks write                # the lines that were recorded, as docs/results/networks.md

``run`` takes every .onnx, .tflite and .pt2 file of a folder and keeps a line for each in
``benchmarks/data/networks.tsv``. Networks of ``make`` have random weights, and batch-norm statistics computed on
images, so that values neither vanish nor grow.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    "tf_mobilenetv3_large_minimal_100": 17,
    "tf_mobilenetv3_large_075": 18,
    "mobilenetv4_conv_small": 17,
    "mobilenetv4_conv_medium": 18,
    "mobilenetv4_hybrid_medium": 18,
    "mobilenet_edgetpu_100": 11,
    "mobilenet_edgetpu_v2_xs": 13,
    "efficientnet_lite0": 13,
    "lcnet_050": 11,
    "ghostnet_050": 13,
    "mobileone_s0": 17,
}
CLASSIFIERS = ("mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small")  # of torchvision, in every form of `WAYS`
TASKS = {
    "lraspp_mobilenet_v3_large": 13,
    "deeplabv3_mobilenet_v3_large": 17,
    "ssdlite320_mobilenet_v3_large": 17,
}
FACES = 13
OPSETS = (11, 13, 17, 18)
WAYS = (
    *(f"opset{opset}.onnx" for opset in OPSETS),
    "dynamo.onnx",
    "external.onnx",
    "batch.onnx",
    "dynamo-batch.onnx",
    "simplified.onnx",
)
OCR = {  # of the package rapidocr-onnxruntime, with the size that a flag fixes of each
    "ch_ppocr_mobile_v2.0_cls_infer": (48, 192),
    "ch_PP-OCRv4_det_infer": (64, 96),
}
SOURCES = ("keras", "timm", "torchvision", "paddle")  # prefixes of files' names; others belong to `face_network`
HEAD = f"""# Networks

`python -m benchmarks.networks run` makes this page. Each file was built and verified: every layer against its
definition, and whole outputs on photographs and crops of them against the file's own runtime.

- `from`: the source of the network's code. Weights are random, with batch-norm statistics computed on images; only
  PaddleOCR's are trained.
- `as`: the opset of PyTorch's exporter to ONNX, or `dynamo`: its newer exporter. `external`: weights in a separate
  file. `batch`: a batch that the file leaves open. `simplified`: by onnxsim. `pt2`: `torch.export`.
- Inputs of PyTorch's networks are {SIZE} x {SIZE} pixels, since the size changes no operator; MobileFaceNet's are 112 x
  112, Keras's 96 x 96 or 128 x 128. Of SSDLite the heads, before boxes are chosen.
- `difference`: the largest of an output's values on either target, in standard deviations of what that output's last
  layer sums. `verify` allows 1e-4 times the root of the number of layers, and more where the network amplifies
  rounding. Where photographs hardly move the outputs, noise is among the inputs, and random networks amplify rounding
  on it: of one export of `mobilenet_v3_small` there ONNX Runtime is 3e-4 from a computation in float64, of another
  1e-3, and the machine code 1.5e-3; on a photograph all are within 1e-5.
- `generic`: layers that have no schedule of this project ([operators](../reference/operators.md)), and their share of
  the predicted cycles of one core of `rpi4`; `host` has no such prediction.

| network | from | as | layers | host | rpi4 | difference | compared with | generic |
|---|---|---|---|---|---|---|---|---|
"""


# ---- files


@dataclass(frozen=True)
class Maker:
    """A network of a package.

    Attributes
    ----------
    name : str
        The name of its files, without the suffix of their form.
    make : callable
        The network itself.
    ways : tuple of str
        Its forms: the ends of its files' names.
    size : int
        Of its input's height and width.
    """

    name: str
    make: Callable
    ways: tuple[str, ...]
    size: int = SIZE


def makers() -> Iterator[Maker]:
    """Each network of an installed package; stderr names missing packages."""
    from benchmarks import face_network

    yield Maker("mobilefacenet", face_network.MobileFaceNet, (f"opset{FACES}.onnx", "pt2"), face_network.SIZE)
    try:
        import timm

        for name, opset in TIMM.items():
            yield Maker(
                f"timm-{name}",
                lambda name=name: timm.create_model(name, pretrained=False),
                (f"opset{opset}.onnx", "pt2"),
            )
    except ImportError as e:
        print(f"timm: {e}", file=sys.stderr)
    try:
        from torchvision import models

        for name in CLASSIFIERS:
            yield Maker(f"torchvision-{name}", lambda name=name: getattr(models, name)(weights=None), (*WAYS, "pt2"))
        for name, opset in TASKS.items():
            place = models.detection if name.startswith("ssd") else models.segmentation
            yield Maker(
                f"torchvision-{name}",
                lambda place=place, name=name: getattr(place, name)(weights=None, weights_backbone=None),
                (f"opset{opset}.onnx", "pt2"),
            )
    except (ImportError, RuntimeError) as e:
        print(f"torchvision: {e}", file=sys.stderr)


def counted(model, size: int):
    """The model in inference mode, with batch-norm statistics computed on images like photographs."""
    import torch

    from tvm_mobilenet.models import seeded

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
    pixels = seeded.natural_images(8, size).transpose(0, 3, 1, 2)
    x = torch.from_numpy((pixels - 0.5) / 0.5).float()
    with torch.no_grad():
        model.train()(x)
    return model.eval().requires_grad_(False)


def plain(model):
    """A model that takes and returns only tensors: the first of named outputs, and a detector's heads before the choice
    of boxes."""
    import torch

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            if not hasattr(model, "head"):
                found = model(x)
                return next(iter(found.values())) if isinstance(found, dict) else found
            heads = model.head(list(model.backbone(x).values()))
            return heads["bbox_regression"], heads["cls_logits"]

    detects = hasattr(model, "head") and hasattr(model, "anchor_generator")
    return Plain() if detects or not hasattr(model, "head") else model


def write(model, way: str, path: Path, size: int) -> None:
    """A model as a file.

    Raises
    ------
    ImportError
        onnxsim is not installed.
    """
    import onnx
    import torch

    given = (torch.zeros(2 if "batch" in way else 1, 3, size, size),)
    if way == "pt2":
        torch.export.save(torch.export.export(model, given), path)
        return
    said = {"dynamo": False, "opset_version": int(way[5:7]) if way.startswith("opset") else 17}
    if way.startswith("dynamo"):
        said = {"dynamo": True, "external_data": False}
    names = {"input_names": ["x"]}
    if way == "batch.onnx":
        names |= {"output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}, "y": {0: "batch"}}}
    if way == "dynamo-batch.onnx":
        names |= {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    torch.onnx.export(model, given, str(path), **names, **said)
    if way == "external.onnx":
        beside = f"{path.name}.data"
        onnx.save(onnx.load(path), path, save_as_external_data=True, location=beside, size_threshold=0)
    if way == "simplified.onnx":
        import onnxsim

        made, right = onnxsim.simplify(onnx.load(path))
        assert right
        onnx.save(made, path)


def make(folder: Path, only: str) -> None:
    """Write a file of each network in each form."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("rapidocr_onnxruntime")
    for name in OCR if spec and spec.origin else ():
        if only in f"paddle-{name}":
            shutil.copyfile(Path(spec.origin).parent / "models" / f"{name}.onnx", folder / f"paddle-{name}.onnx")
    for maker in makers():
        ends = [(way, folder / f"{maker.name}{'.' if way == 'pt2' else '-'}{way}") for way in maker.ways]
        ends = [(way, path) for way, path in ends if only in path.name and not path.exists()]
        if not ends:
            continue
        torch.manual_seed(0)
        model = counted(plain(maker.make()), maker.size)
        for way, path in ends:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    write(model, way, path, maker.size)
            except Exception as e:  # errors of any exporter
                path.unlink(missing_ok=True)
                print(f"{path.name}: {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}", file=sys.stderr)
            else:
                print(path, file=sys.stderr, flush=True)


# ---- the table


def row(path: Path, target_name: str, **said) -> dict[str, str]:
    """The result of a file on a target; ``said``: fields of `ModelOptions`."""
    from tvm_mobilenet import build, targets
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.checking.machine_check import check
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.models.options import ModelOptions

    found = dict.fromkeys(COLUMNS, "") | {"file": path.name, "target": target_name}
    target = targets.load(target_name)
    if size := OCR.get(path.stem.removeprefix("paddle-")):
        said = {"resolution": size, **said}
    try:
        network = load_network(ModelOptions(model=str(path), **said))
        generic = [c for c in network.layers if c.layer.body]
        found |= {"layers": str(len(network.layers)), "generic": str(len(generic))}
        with tempfile.TemporaryDirectory() as folder:
            build.build(network.options, target, output=Path(folder) / "out", network=network)
            module = built.read(Path(folder) / "out")
            with open_board("local" if target_name == "host" else "virtual", target) as board:
                cores = None if target_name == "host" else 1  # cores of a prediction; None for a measurement
                checked = check(module, network, board, network.inputs(2), cores=cores)
    except TvmMobilenetError as e:
        return found | {"result": "refused: " + str(e).splitlines()[0].replace(str(path), path.name)}
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
    """The recorded table as a page, a line for each file."""
    files: dict[str, dict[str, dict[str, str]]] = {}
    for (file, target), line in sorted(recorded().items()):
        files.setdefault(file, {})[target] = line
    return HEAD + "".join(f"| {' | '.join(_cells(file, lines))} |\n" for file, lines in files.items())


def _cells(file: str, lines: dict[str, dict[str, str]]) -> list[str]:
    """A file's line of the page, from the records on each target."""
    stem, _, suffix = file.rpartition(".")
    source = next((s for s in SOURCES if stem.startswith(f"{s}-")), "")
    network, _, way = stem.removeprefix(f"{source}-").rpartition("-")
    if suffix != "onnx" or not way.startswith(("opset", "dynamo", "external", "batch", "simplified")):
        network, way = stem.removeprefix(f"{source}-"), suffix
    if way == "batch" and network.endswith("-dynamo"):
        network, way = network.removesuffix("-dynamo"), "dynamo-batch"
    one = next(iter(lines.values()))
    share = lines.get("rpi4", {}).get("share", "")
    results = [lines.get(target, {}).get("result", "not run") for target in ("host", "rpi4")]
    found = [float(line["difference"]) for line in lines.values() if line["difference"]]
    generic = f"{one['generic']}, {share} %" if share and one["generic"] != "0" else one["generic"]
    most = f"{max(found):.1e}" if found else ""
    compared = next((line["reference"] for line in lines.values() if line["reference"]), "")
    return [network, source or "the paper", way, one["layers"], *results, most, compared, generic]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("make", "run", "write", "check"))
    parser.add_argument("folder", type=Path, nargs="?", help="of the files")
    parser.add_argument("--only", default="", help="those with this in their name")
    parser.add_argument("--missing", action="store_true", help="those whose line is not recorded as verified")
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
            if args.missing and recorded().get((path.name, target), {}).get("result") == "verified":
                continue
            line = row(path, target, **said)
            failed += line["result"] != "verified"
            print("\t".join(line.values()), flush=True)
            keep(recorded() | {(path.name, target): line})
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
