"""The page of a network's mistakes: one HTML file with small pictures in it, which refers to nothing outside itself."""

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
from tvm_mobilenet.terminal.printable import printable

MOST_PICTURES = 200  # on a page: about 1 MB
SIDE, QUALITY = 144, 70  # pixels of a picture's longer side, and JPEG's quality
CHANGES = {
    "lost": "right in float, wrong here",
    "gained": "wrong in float, right here",
    "other": "wrong in both, another class",
    "": "wrong in both, the same class",
}
STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,sans-serif;color:#222;background:#fff;margin:0 auto;padding:1rem;max-width:1120px}
h1{font-size:1.5rem;margin:.3rem 0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:1.6rem 0 .3rem}
p{margin:.3rem 0 .8rem;max-width:46rem;overflow-wrap:anywhere}.quiet{color:#666;font-size:.875rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem}
td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(160px,1fr));gap:1rem}
figure{margin:0;font-size:.8125rem;overflow-wrap:anywhere}img,.none{display:block;width:144px;height:144px;
object-fit:contain;background:#f2f2f2}figcaption b{font-weight:600}.lost{color:#a1303f}.gained{color:#2d6a45}
"""


def write(result: Accuracy, title: str, words: ClassWords, paths: Mapping[str, Path], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    paths : mapping of str to path
        Where each image of the data set lies.
    """
    write_whole(path, html(result, title, words, paths), "--html")


def html(result: Accuracy, title: str, words: ClassWords, paths: Mapping[str, Path]) -> str:
    """The page: shares, then the images that are not recognised or changed, at most `MOST_PICTURES` of them."""
    shown = sorted((a for a in result.answers if a.changed or not a.right), key=lambda a: list(CHANGES).index(a.change))
    sections = []
    for change, what in CHANGES.items():
        here = [a for a in shown[:MOST_PICTURES] if a.change == change]
        if here:
            every = sum(a.change == change for a in shown)
            count = f"{every:,}" if len(here) == every else f"{len(here):,} of {every:,}"
            what = what if result.reference else "not recognised"
            pictures = "".join(_figure(a, words, paths[a.image]) for a in here)
            sections.append(f'<h2>{escape(what)}: {count}</h2>\n<div class="pictures">\n{pictures}</div>\n')
    left = len(shown) - MOST_PICTURES
    note = f"<p>{left:,} more images have no room on this page; --json lists all.</p>\n" if left > 0 else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"<p>{escape(result.data)}; {result.images:,} of {result.whole:,} ran.</p>\n"
        f'<p class="quiet">Ran: {escape(result.ran)}.</p>\n{_table(result)}{"".join(sections)}{note}</body>\n</html>\n'
    )


def _table(result: Accuracy) -> str:
    rows = [("top-1", result.top1, result.float_top1), ("top-5", result.top5, result.float_top5)]
    head = "<tr><th></th><th>here</th><th>95 %</th>"
    head += f"<th>{escape(result.reference)}</th><th>95 %</th>" * bool(result.reference) + "</tr>"
    body = ""
    for name, own, other in rows:
        cells = [c for share in (own, other) if share for c in (f"{share.share:.2%}", _span(share))]
        body += f"<tr><td>{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    return f'<div class="wide"><table>\n{head}\n{body}</table></div>\n'


def _span(share) -> str:
    return f"{share.low:.2%} to {share.high:.2%}"


def _figure(answer: Answer, words: ClassWords, path: Path) -> str:
    """An image with its class and what was said of it."""

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
    """An image small, as part of the page."""
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
