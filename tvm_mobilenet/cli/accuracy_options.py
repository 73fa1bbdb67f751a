"""The options of labelled images, for verbs that measure a network's accuracy."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_mobilenet import dtypes, packages
from tvm_mobilenet.cli import options
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.whole_file import output_file
from tvm_mobilenet.models import labelled_images


def add_data(group, required: bool = False) -> None:
    """Add ``--data`` and the flags that go with it."""
    group.add_argument(
        "--data",
        type=Path,
        required=required,
        metavar="FOLDER|CSV",
        help="labelled images: a folder for each class, ImageNet's validation images with their ground truth, or a "
        "CSV of path,label",
    )
    group.add_argument(
        "--truth", type=Path, metavar="FILE", help="file with the labels of --data, if they lie elsewhere"
    )
    group.add_argument(
        "--limit",
        type=options.positive(int),
        metavar="N",
        help="number of images to run, evenly spread over the data set (default: all; on the virtual board 20)",
    )


def whole(text: str) -> int:
    """An argparse type: a whole number from zero."""
    value = int(text)
    if value < 0:
        raise ValueError
    return value


def share(text: str) -> float:
    """An argparse type: a share of 1 such as 0.6 or 60%"""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of 1; try 0.6 or 60%")
    return value


def add_required(group) -> None:
    """Add the flags with which `build` demands an accuracy."""
    group.add_argument(
        "--min-accuracy",
        type=share,
        metavar="TOP1",
        help="such as 0.6 or 60%%: build only if top-1 on --data is at least this; otherwise exit code 5",
    )
    group.add_argument(
        "--max-drop",
        type=options.percentage,
        metavar="PERCENT",
        help="with --dtype int8, such as 1%%: keep as few layers in float as needed for top-1 on --data to "
        "fall by no more; without --data, no more than this share of --calibrate's images may change their class",
    )
    group.add_argument(
        "--plot",
        type=output_file,
        metavar="FILE.html",
        help="with --max-drop: write a page with accuracy against predicted cycles, and the error that each "
        "layer causes",
    )
    add_data(group)


def refuse_alone(args: argparse.Namespace, target) -> None:
    """Refuse a data set without a measurement, a measurement without a data set, and a plot without layers.

    Raises
    ------
    TvmMobilenetError
        A flag was given without the one that it needs.
    """
    if args.max_drop is None:
        refuse(args, ("--plot",), "it shows the layers that --max-drop chooses", "add --max-drop PERCENT")
    elif not dtypes.of(args.dtype).integer:
        refuse(args, ("--max-drop",), "only networks in int8 have it", "leave it out, or add --dtype int8")
    if args.plot and not target.core.model:
        refuse(args, ("--plot",), f"nothing predicts the cycles of {target.name}", "leave it out, or build for a board")
    if args.data is None:
        refuse(args, ("--truth", "--limit"), "they belong to --data", "add --data FOLDER")
        if args.min_accuracy is not None:
            raise TvmMobilenetError("--min-accuracy needs labelled images", "add --data FOLDER")
    elif args.min_accuracy is None and args.max_drop is None:
        refuse(args, ("--data", "--truth", "--limit"), "no accuracy is required", "add --min-accuracy or --max-drop")


def needs(args: argparse.Namespace, model, target, modules: tuple[str, ...], flag: str) -> tuple[tuple[str, ...], str]:
    """The modules that `build` needs and the flags that need them, with the flags of this module."""
    if args.data is None and args.max_drop is None:
        return modules, flag
    if args.data is not None:
        labelled_images.require(args.data, args.truth)
    runs = args.plot is not None or (args.data is not None and not target.is_host)
    wanted = packages.for_comparing(model) + packages.for_board("virtual" if runs else "local")
    wanted += packages.for_pages(args.plot is not None)
    return modules + wanted, flag + (" --max-drop" if args.max_drop is not None else " --min-accuracy")
