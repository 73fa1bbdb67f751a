"""The options of labelled images, of verbs that say how often a network is right."""

from __future__ import annotations

from pathlib import Path

from tvm_mobilenet.cli import options


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
