"""The flags of the dtypes in which a network's layers compute."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_mobilenet.models.options import DTYPES, IO, METHODS


def add_dtype(group) -> None:
    """``--dtype``: in which layers compute."""
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        help="in which layers compute; float16 on CPUs that have its arithmetic, such as the Raspberry Pi 5's; int8 "
        "quantized with --calibrate's images (default: %(default)s)",
    )


def add_precision_options(group, images: bool = True) -> None:
    """``--dtype`` and what goes with it; ``images``: values of the network are found, not only its shapes."""
    add_dtype(group)
    group.add_argument(
        "--io",
        choices=tuple(IO),
        default=DTYPES[0],
        help="of the model's inputs and outputs: float16 or int8 with that --dtype; uint8: bytes of images, and with "
        "--dtype int8 outputs too (default: %(default)s)",
    )
    group.add_argument(
        "--accumulate",
        type=wide_sums,
        metavar="float32[:LAYER,…]",
        help="with --dtype float16: layers that sum in float32, all of them or those of a name or module",
    )
    if not images:
        return
    group.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FOLDER|FILE",
        help="with --dtype float16: images that show which layers would leave its range; with int8: those that scales "
        "are found on, or .npy and .npz files of the network's inputs (default: those that ship, and that of --input)",
    )
    group.add_argument(
        "--calibration-method",
        choices=METHODS,
        help="with --dtype int8: how the range of every value is found (default: value by value as layers do best)",
    )
    group.add_argument(
        "--quantization",
        type=Path,
        metavar="FILE",
        help="with --dtype int8: the scales of an earlier build, its quantization.json, in place of finding them",
    )

    group.add_argument(
        "--keep-float",
        type=layer_names,
        metavar="LAYER,…",
        help="with --dtype int8: layers that stay in float16, or float32 where the target lacks that: names as "
        "`profile` prints them, modules (features.3), patterns (dense*)",
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
