"""Record the MobileNet v1 0.25 that `benchmarks.quantization` trains on digits, for tests that have no time to train.

    python -m tests.support.record_digits digits.csv.gz

writes ``tests/benchmarks/digits.npz``: the network's tensors in float16, 32 images to calibrate on, and the 540 that
are held out with their classes, 64 pixels of 0 to 16 each. The file of digits is scikit-learn's (``sklearn/datasets/
data/digits.csv.gz``): Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.quantization import Trained, digits
from tvm_mobilenet.models import registry

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "digits.npz"
TENSOR = "tensor."  # before the names of the network's


def recorded() -> Trained:
    """The network as it was trained, with what it is calibrated and tried on."""
    with np.load(FILE) as file:
        held = {name: file[name] for name in file.files}
    module = registry.create("v1", 0.25, 32, 10).module
    state = {
        name.removeprefix(TENSOR): torch.from_numpy(x.astype(np.float32) if x.dtype == np.float16 else x)
        for name, x in held.items()
        if name.startswith(TENSOR)
    }
    module.load_state_dict(state)
    pictures = [images(held[name]) for name in ("calibrate", "held_out")]
    title = "v1 0.25-32, recorded"
    return Trained(title, module.eval(), *pictures, held["classes"], pictures[1][:0], (-1.0, 1.0))


def images(pixels: np.ndarray) -> np.ndarray:
    """(N, 3, 32, 32) float32 of (N, 64) pixels: each is a square of four by four."""
    small = (pixels.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1).astype(np.float32)
    return np.repeat(np.kron(small, np.ones((1, 1, 4, 4), np.float32)), 3, 1)


def pixels(images_: np.ndarray) -> np.ndarray:
    """What `images` made them of."""
    return np.rint((images_[:, 0, ::4, ::4] + 1) * 8).astype(np.uint8).reshape(-1, 64)


def main(path: Path) -> None:
    trained = digits(path)
    state = {
        TENSOR + name: x.numpy().astype(np.float16) if x.is_floating_point() else x.numpy()
        for name, x in trained.module.state_dict().items()
    }
    calibrate, held_out = pixels(trained.calibrate), pixels(trained.labelled)
    assert np.array_equal(images(held_out), trained.labelled)
    np.savez_compressed(FILE, calibrate=calibrate, held_out=held_out, classes=trained.classes, **state)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
