"""Charts of a tuning: what each layer cost untuned and tuned over its floor, and how its best fell trial by trial.

One SVG, drawn here so that a laptop without a plotting library has it too, and one HTML file that holds the SVG and the
table and refers to nothing outside itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from .layer import title

ROW, LEFT, BARS, CURVES, RIGHT, TOP = 22, 330, 420, 260, 60, 62  # pixels: row height, label, bars, curves, margins
UNTUNED, TUNED, FLOOR, INK, QUIET = "#c9ccd1", "#2f6f9f", "#d1495b", "#222222", "#777777"


def svg(result) -> str:
    """The chart of a `TuneResult`: a row a layer, on the left bars (cost over floor), on the right its curve.

    A layer without arithmetic (a pool) has no floor; its bars are over its own tuned cost.
    """
    rows = [_Row(layer) for layer in result.layers]
    most = max([1.5, *(value for row in rows for value in (row.untuned, row.tuned) if value is not None)])
    most = min(most, 6.0)
    width, height = LEFT + BARS + CURVES + RIGHT, TOP + ROW * len(rows) + 34
    label = "predicted" if result.predicted else "measured"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(10, 22, f"{result.model} on {result.target} ({result.core}), {label}, one core", size=15),
        _text(LEFT, 44, "cost over the floor of the arithmetic"),
        _text(LEFT + BARS + 20, 44, "best so far, by trial"),
        *_legend(LEFT + 230, 44),
    ]
    for tick in range(1, math.ceil(most) + 1):
        if tick <= most:
            x = LEFT + BARS * tick / most
            parts.append(_line([(x, TOP - 8), (x, TOP + ROW * len(rows))], FLOOR if tick == 1 else "#e6e6e6", 1))
            parts.append(_text(x, TOP + ROW * len(rows) + 16, f"{tick}x", anchor="middle", fill=QUIET))
    for i, row in enumerate(rows):
        y = TOP + ROW * i
        parts.append(_text(LEFT - 8, y + 14, row.label, anchor="end"))
        for value, top, thick, colour in ((row.untuned, 2, 16, UNTUNED), (row.tuned, 6, 8, TUNED)):
            if value is not None:
                length = BARS * min(value, most) / most
                parts.append(f'<rect x="{LEFT}" y="{y + top}" width="{length:.1f}" height="{thick}" fill="{colour}"/>')
        if row.tuned is not None:
            parts.append(
                _text(LEFT + BARS * min(row.untuned or row.tuned, most) / most + 4, y + 14, f"{row.tuned:.2f}")
            )
        if len(row.curve) > 1:
            parts.append(_line(_points(row.curve, LEFT + BARS + 20, y + 3, CURVES, ROW - 6), TUNED, 1.5))
    return "\n".join([*parts, "</svg>"]) + "\n"


def html(result, columns: Sequence[str], cells: Sequence[Sequence[str]], totals: Sequence[str]) -> str:
    """A page with the chart, the totals and the table; nothing is loaded from anywhere."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    lines = "\n".join(f"<li>{escape(line)}</li>" for line in totals)
    title = escape(f"{result.model} tuned for {result.target}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n<style>\n'
        "body{font:14px system-ui,sans-serif;margin:2rem;max-width:1100px}\n"
        "table{border-collapse:collapse}td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}\n"
        f"svg{{max-width:100%;height:auto}}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n{lines}\n</ul>\n"
        f"{svg(result)}<table>\n<tr>{head}</tr>\n{body}\n</table>\n</body>\n</html>\n"
    )


def write(result, folder: Path, columns: Sequence[str], cells: Sequence[Sequence[str]], totals: Sequence[str]) -> Path:
    """Write ``tuning.svg`` and ``tuning.html``; the path of the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tuning.svg").write_text(svg(result), encoding="utf-8")
    page = folder / "tuning.html"
    page.write_text(html(result, columns, cells, totals), encoding="utf-8")
    return page


class _Row:
    """A layer's label, its costs over its floor, and its finite curve."""

    def __init__(self, layer):
        base = layer.floor or layer.tuned
        self.label = (f"{layer.count} x " if layer.count > 1 else "") + title(layer.layer).replace(" f32", "")
        self.untuned = layer.untuned / base if layer.untuned and base else None
        self.tuned = layer.tuned / base if layer.tuned and base else None
        self.curve = [cost for cost in layer.curve if math.isfinite(cost)]


def _points(curve: Sequence[float], left: float, top: float, width: float, height: float) -> list[tuple[float, float]]:
    low, high = min(curve), max(curve)
    span = (high - low) or 1.0
    return [(left + width * i / (len(curve) - 1), top + height * (1 - (c - low) / span)) for i, c in enumerate(curve)]


def _legend(x: float, y: float) -> list[str]:
    parts = []
    for name, colour in (("untuned", UNTUNED), ("tuned", TUNED), ("floor", FLOOR)):
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(x + 14, y, name))
        x += 68
    return parts


def _text(x: float, y: float, text: str, size: int = 12, anchor: str = "start", fill: str = INK) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
