"""Count outputs of a quantized TFLite file's layers that differ from LiteRT's, given LiteRT's values as inputs.

The files are Keras's networks with random weights. TensorFlow's converter makes them in a separate environment, which
needs nothing of this project; the comparison runs in this project's environment::

    python -m venv tensorflow && tensorflow/bin/pip install tensorflow==2.21.0
    tensorflow/bin/python -m benchmarks.tflite_layers make nets
    python -m benchmarks.tflite_layers compare nets

Each layer is compared with both of LiteRT's ways to round, on four images. Over a whole network one unit becomes many,
so only small networks are compared whole, by their mean difference from XNNPACK.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IMAGES, SEED = 4, 7  # number of images, and the seed
CALIBRATION = 16  # images
WHOLE = 96  # the largest side of an image for which the whole network is compared


@dataclass(frozen=True)
class Network:
    """One of ``keras.applications``.

    Attributes
    ----------
    title : str
        The name in the table.
    factory : str
    size : int
        Of its images.
    classes : int
    tensor : bool
        Whether weights get one scale for each tensor, not for each channel.
    options : dict
        Of the factory.
    """

    title: str
    factory: str
    size: int
    classes: int = 1000
    tensor: bool = False
    options: tuple[tuple[str, object], ...] = ()


PLAIN = ("include_preprocessing", False)
NETWORKS = {
    "v1-224": Network("v1 1.0-224", "MobileNet", 224),
    "v2-224": Network("v2 1.0-224", "MobileNetV2", 224),
    "v3-large-224": Network("v3-large 1.0-224", "MobileNetV3Large", 224, options=(PLAIN,)),
    "v1-96-tensor": Network("v1 0.25-96, one scale a tensor", "MobileNet", 96, 10, True, (("alpha", 0.25),)),
    "v3-small-96": Network("v3-small 1.0-96", "MobileNetV3Small", 96, 10, options=(PLAIN,)),
    "v3-minimal-96": Network(
        "v3-small 1.0-96, minimalistic", "MobileNetV3Small", 96, 10, options=(("minimalistic", True),)
    ),
    "efficientnet-64": Network("EfficientNetB0-64", "EfficientNetB0", 64, 10),
}


def make(folder: Path, names: Sequence[str]) -> None:
    """Write the int8 file of each network. Weights are random; batch-norm statistics come from the calibration images,
    so that activations are scaled. Only TensorFlow is imported."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        one = NETWORKS[name]
        keras.utils.set_random_seed(1)
        shape = (one.size, one.size, 3)
        factory = getattr(keras.applications, one.factory)
        model = factory(input_shape=shape, weights=None, classes=one.classes, **dict(one.options))
        images = settled(model, one.size)
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda images=images: ([image[None]] for image in images)
        converter._experimental_disable_per_channel = one.tensor
        (folder / f"{name}.tflite").write_bytes(converter.convert())
        print(f"{name}.tflite", flush=True)


def settled(model, size: int) -> np.ndarray:
    """The images of calibration (N, size, size, 3), which the batch norms of a network of Keras then have seen; their
    factors and shifts are drawn."""
    import keras
    import tensorflow as tf

    draw = np.random.default_rng(0)
    rough = draw.normal(size=(CALIBRATION, size // 8, size // 8, 3))
    images = np.array(tf.image.resize(rough, (size, size))) + 0.3 * draw.normal(size=(CALIBRATION, size, size, 3))
    images = images.astype(np.float32)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
    model(images, training=True)
    for norm in norms:
        factors, shifts, *seen = norm.get_weights()
        norm.set_weights([draw.uniform(0.7, 1.3, factors.shape), draw.normal(0.2, 0.3, shifts.shape), *seen])
    return images


def compared(path: Path, title: str) -> tuple:
    """One row: layers, outputs that differ from XNNPACK's, the share that differs from the reference kernels', the
    largest difference of a layer's sums in units, and for small networks the mean differences from XNNPACK."""
    from tests.support.quantized_files import images
    from tvm_mobilenet.checking import given_layers, network_steps
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.frontend import tflite_run
    from tvm_mobilenet.models.options import ModelOptions

    network = load_network(ModelOptions(model=str(path)))
    size = network.signature.inputs[0].shape[1]
    batch = [(np.ascontiguousarray(x[None], np.float32),) for x in images(IMAGES, size, SEED).transpose(0, 2, 3, 1)]
    found = {}
    for kind in ("BUILTIN", "BUILTIN_REF"):
        found[kind] = given_layers.differences(network, tflite_run.whole_numbers(path, batch, kind))
    first, second = found.values()
    differ, of = sum(one.count for one in first), sum(one.size for one in first)
    share = sum(one.count for one in second) / sum(one.size for one in second)
    beyond = max(one.units - one.most for one in (*first, *second))
    whole = ("", "", "")
    if size <= WHOLE:
        ours = np.array([y[0] for y in network_steps.outputs(network, batch)])
        theirs, other = (np.array([y[0] for y in tflite_run.outputs(path, batch, kind)[0]]) for kind in found)
        same = f"{(ours.argmax(-1) == theirs.argmax(-1)).mean():.0%}"
        whole = f"{np.abs(ours - theirs).mean():.2g}", f"{np.abs(other - theirs).mean():.2g}", same
    return title, len(first), f"{differ:,} of {of:,}", f"{share:.2%}", 1 + beyond, *whole


def main(argv: Sequence[str] | None = None) -> int:
    """Make the files, or print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tflite_layers", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("make", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="+", default=tuple(NETWORKS), choices=tuple(NETWORKS))
    args = parser.parse_args(argv)
    if args.what == "make":
        make(args.folder, args.networks)
        return 0
    from tvm_mobilenet.terminal import console

    heads = "network", "layers", "differ from XNNPACK", "from reference", "units", "mean", "reference's", "same class"
    rows = [compared(args.folder / f"{name}.tflite", NETWORKS[name].title) for name in args.networks]
    console.print_table(heads, rows, "outputs of layers that differ from LiteRT's")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
