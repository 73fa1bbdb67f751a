"""The page of a network's mistakes, with small images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from pathlib import Path

import numpy as np

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.evaluation.accuracy import Accuracy, Answer
from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.models.class_words import ClassWords
from tvm_mobilenet.models.preprocess import read_image
from tvm_mobilenet.report.page import Markup, Page, Table
from tvm_mobilenet.terminal.printable import printable

MOST_PICTURES = 200  # on a page: about 1 MB
SIDE, QUALITY = 144, 70  # pixels of a picture's longer side, and JPEG's quality
CHANGES = {
    "lost": "right in float, wrong here",
    "gained": "wrong in float, right here",
    "other": "wrong in both, another class",
    "": "wrong in both, the same class",
}


def write(result: Accuracy, title: str, words: ClassWords, paths: Mapping[str, Path], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    paths : mapping of str to path
        Where each image of the data set lies.
    """
    write_whole(path, html(result, title, words, paths), "--html")


def html(result: Accuracy, title: str, words: ClassWords, paths: Mapping[str, Path]) -> str:
    """The page: shares, then the images that are wrong or changed their class, at most `MOST_PICTURES`."""
    shown = sorted((a for a in result.answers if a.changed or not a.right), key=lambda a: list(CHANGES).index(a.change))
    parts: list = [_table(result)]
    for change, what in CHANGES.items():
        here = [a for a in shown[:MOST_PICTURES] if a.change == change]
        if here:
            every = sum(a.change == change for a in shown)
            count = f"{every:,}" if len(here) == every else f"{len(here):,} of {every:,}"
            what = what if result.reference else "not recognised"
            pictures = "".join(_figure(a, words, paths[a.image]) for a in here)
            parts.append(Markup(f"{what}: {count}", f'<div class="pictures">\n{pictures}</div>\n'))
    left = len(shown) - MOST_PICTURES
    notes = [f"{left:,} more images have no room on this page; --json lists all."] if left > 0 else []
    summary = [("data", f"{result.data}; {result.images:,} of {result.whole:,} ran"), ("ran", result.ran)]
    return Page(title, summary, parts, notes).html()


def _table(result: Accuracy) -> Table:
    rows = [("top-1", result.top1, result.float_top1), ("top-5", result.top5, result.float_top5)]
    columns = ["", "here", "95 %", *([result.reference, "95 %"] if result.reference else [])]
    body = [
        (name, *(c for share in (own, other) if share for c in (f"{share.share:.2%}", _span(share))))
        for name, own, other in rows
    ]
    return Table("Shares", columns, body)


def _span(share) -> str:
    return f"{share.low:.2%} to {share.high:.2%}"


def _figure(answer: Answer, words: ClassWords, path: Path) -> str:
    """An image with its class and the networks' answers."""

    def named(index: int) -> str:
        return escape(printable(words.title(index)))

    lines = [f"<b>{named(answer.label)}</b>", f"here {named(answer.best[0])}"]
    if answer.float_best:
        lines.append(f"float {named(answer.float_best[0])}")
    place = answer.best.index(answer.label) + 1 if answer.label in answer.best else None
    lines.append("" if answer.right else f"its class is number {place}" if place else "its class is not in the top 5")
    lines.append(f'<span class="quiet">{escape(printable(answer.image))}</span>')
    caption = "<br>".join(line for line in lines if line)
    return f'<figure>{_picture(path)}<figcaption class="{answer.change}">{caption}</figcaption></figure>\n'


def _picture(path: Path) -> str:
    """A small copy of an image, embedded in the page."""
    from PIL import Image

    try:
        if path.suffix.lower() == ".npy":
            raise ValueError
        image = Image.fromarray(np.ascontiguousarray(read_image(path)))
    except (ValueError, TvmMobilenetError):
        return '<div class="none"></div>'
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=QUALITY)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
