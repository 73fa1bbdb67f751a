"""The flags of the dtypes in which a network's layers compute."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_mobilenet.models.options import DTYPES, IO, METHODS


def add_dtype(group) -> None:
    """Add ``--dtype``, the dtype in which layers compute."""
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="dtype that layers compute in: float16 needs a CPU with its arithmetic, such as the Raspberry Pi "
        "5's; int8 is calibrated with the images of --calibrate (default: %(default)s)",
    )


def add_precision_options(group, images: bool = True) -> None:
    """Add ``--dtype`` and the flags that go with it; ``images``: the verb computes values of the network, not only
    shapes."""
    add_dtype(group)
    group.add_argument(
        "--io",
        choices=tuple(IO),
        default=DTYPES[0],
        help="dtype of the model's inputs and outputs: float16 or int8 only with the same --dtype; uint8: the "
        "input is an image's bytes, and with --dtype int8 outputs are uint8 too (default: %(default)s)",
    )
    group.add_argument(
        "--accumulate",
        type=wide_sums,
        metavar="float32[:LAYER,…]",
        help="with --dtype float16: layers that sum in float32, either all or those of a name or module",
    )
    if not images:
        return
    group.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FOLDER|FILE",
        help="images, folders with images in them or below, or .npy and .npz files of the network's inputs; int8 "
        "calibrates its scales with them, float16 finds layers that would exceed its range (default: the photographs "
        "that ship, and that of --input)",
    )
    group.add_argument(
        "--calibration-method",
        choices=METHODS,
        help="with --dtype int8: how the range of every value is found (default: for each value the way that "
        "suits the layers after it best)",
    )
    group.add_argument(
        "--quantization",
        type=Path,
        metavar="FILE",
        help="with --dtype int8: take the scales from the quantization.json of an earlier build",
    )

    group.add_argument(
        "--keep-float",
        type=layer_names,
        metavar="LAYER,…",
        help="with --dtype int8: layers that compute in float16, or in float32 where the target lacks float16; "
        "names as `profile` prints them, modules (features.3), patterns (dense*)",
    )


def wide_sums(text: str) -> str:
    """An argparse type: float32, or float32: and names of layers with commas."""
    dtype, colon, names = text.partition(":")
    if dtype != DTYPES[0] or (colon and not all(names.split(","))):
        raise argparse.ArgumentTypeError(f"{text!r} is neither float32 nor float32:LAYER,LAYER")
    return text


def layer_names(text: str) -> str:
    """An argparse type: names of layers with commas."""
    if not all(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; try features.3,layer_007")
    return text
