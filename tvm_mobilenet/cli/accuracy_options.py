"""The options of labelled images, of verbs that say how often a network is right."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_mobilenet.cli import options
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import TvmMobilenetError


def add_data(group, required: bool = False) -> None:
    """``--data`` and what goes with it."""
    group.add_argument(
        "--data",
        type=Path,
        required=required,
        metavar="FOLDER|CSV",
        help="labelled images: a folder for each class, ImageNet's validation images with their ground truth, or a "
        "CSV of path,label",
    )
    group.add_argument("--truth", type=Path, metavar="FILE", help="the labels of --data, where they lie elsewhere")
    group.add_argument(
        "--limit",
        type=options.positive(int),
        metavar="N",
        help="run so many images, evenly spread over the data set (default: all; on the virtual board 20)",
    )


def whole(text: str) -> int:
    """An argparse type: a whole number from zero."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def least(text: str) -> float:
    """An argparse type: a share of 1 such as 0.6 or 60%"""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of 1; try 0.6 or 60%")
    return value


def refuse_alone(args: argparse.Namespace) -> None:
    """Refuse a data set that nothing is measured on, and what is measured without one.

    Raises
    ------
    TvmMobilenetError
        One was given without the other.
    """
    if args.min_accuracy is None:
        refuse(args, ("--data", "--truth", "--limit"), "--min-accuracy is measured on it", "add --min-accuracy TOP1")
    elif args.data is None:
        raise TvmMobilenetError("--min-accuracy: on which images?", "add --data FOLDER, labelled images")
