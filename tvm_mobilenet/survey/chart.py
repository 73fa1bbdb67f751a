"""Charts of a tuning: what each layer cost untuned and tuned over its floor, and how its best fell trial by trial.

One SVG, drawn here so that a laptop without a plotting library has it too, and one HTML file that holds the SVG and the
table and refers to nothing outside itself. For a phone the page holds a second, narrow drawing: labels above the bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.terminal.titles import short_titles

ROW, LEFT, BARS, GAP, CURVES, RIGHT, TOP = 22, 420, 360, 56, 220, 20, 62  # pixels: row height, label, bars, curves
LETTER = 7  # pixels, of a label
NARROW_ROW, NARROW_LEFT, NARROW_BARS, NARROW_RIGHT = 38, 4, 318, 38
STYLE = """
:root{color-scheme:light}
body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;margin:0 auto;padding:1rem;max-width:1100px}
h1{font-size:1.4rem;overflow-wrap:anywhere}ul{padding-left:1.2rem}li{overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;white-space:nowrap}
td,th{padding:.2rem .6rem;text-align:left;border-bottom:1px solid #ddd}
td:first-child{white-space:normal;min-width:11rem}td:nth-child(3){white-space:normal;min-width:16rem}
svg{display:block;max-width:100%;height:auto}svg.narrow{display:none}
@media(max-width:700px){svg{display:none}svg.narrow{display:block;width:100%}}
"""
UNTUNED, TUNED, FLOOR, INK, QUIET = "#c9ccd1", "#2f6f9f", "#d1495b", "#222222", "#777777"


def svg(result, narrow: bool = False) -> str:
    """The chart of a `TuneResult`: a row a layer, on the left bars (cost over floor), on the right its curve.

    A layer without multiply-adds (a pool) has no floor; its bars are over its own tuned cost. ``narrow``: 360 pixels
    wide, labels above the bars, no curves.
    """
    step, left, bars, down = (NARROW_ROW, NARROW_LEFT, NARROW_BARS, 16) if narrow else (ROW, LEFT, BARS, 0)
    names = short_titles([layer.layer for layer in result.layers], LEFT // LETTER)
    rows = [_Row(layer, name) for layer, name in zip(result.layers, names, strict=True)]
    most = max([1.5, *(value for row in rows for value in (row.untuned, row.tuned) if value is not None)])
    most = min(most, 6.0)
    width = left + bars + (NARROW_RIGHT if narrow else GAP + CURVES + RIGHT)
    height = TOP + step * len(rows) + 34
    label, which = "predicted" if result.predicted else "measured", "narrow" if narrow else "broad"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="system-ui, sans-serif" font-size="12" fill="{INK}" class="{which}">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    if narrow:
        parts += [_text(left, 18, f"cost over the multiply-adds alone, {label}, one core"), *_legend(left, 40)]
    else:
        parts += [
            _text(10, 22, f"{result.model} on {result.target} ({result.core}), {label}, one core", size=15),
            _text(left, 44, "cost over the multiply-adds alone"),
            _text(left + bars + GAP, 44, "best so far, by trial"),
            *_legend(left + bars + GAP, 22),
        ]
    for tick in range(1, math.ceil(most) + 1):
        if tick <= most:
            x = left + bars * tick / most
            parts.append(_line([(x, TOP - 8), (x, TOP + step * len(rows))], FLOOR if tick == 1 else "#e6e6e6", 1))
            parts.append(_text(x, TOP + step * len(rows) + 16, f"{tick}x", anchor="middle", fill=QUIET))
    for i, row in enumerate(rows):
        y = TOP + step * i + down
        size = min(12, round((width if narrow else left) / (0.58 * len(row.label)), 1))  # a fused block's label is long
        if narrow:
            parts.append(_text(left, y - 3, row.label, size, halo=True))
        else:
            parts.append(_text(left - 8, y + 14, row.label, size, anchor="end"))
        for value, top, thick, colour in ((row.untuned, 2, 16, UNTUNED), (row.tuned, 6, 8, TUNED)):
            if value is not None:
                length = bars * min(value, most) / most
                parts.append(f'<rect x="{left}" y="{y + top}" width="{length:.1f}" height="{thick}" fill="{colour}"/>')
        if row.tuned is not None:
            parts.append(
                _text(left + bars * min(row.untuned or row.tuned, most) / most + 4, y + 14, f"{row.tuned:.2f}")
            )
        if len(row.curve) > 1 and not narrow:
            parts.append(_line(_points(row.curve, left + bars + GAP, y + 3, CURVES, ROW - 6), TUNED, 1.5))
    return "\n".join([*parts, "</svg>"]) + "\n"


def html(result, columns: Sequence[str], cells: Sequence[Sequence[str]], totals: Sequence[str]) -> str:
    """A page with the chart, the totals and the table; nothing is loaded from anywhere."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in cells)
    lines = "\n".join(f"<li>{escape(line)}</li>" for line in totals)
    title = escape(f"{result.model} tuned for {result.target}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n{lines}\n</ul>\n"
        f'{svg(result)}{svg(result, narrow=True)}<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>\n'
        "</body>\n</html>\n"
    )


def write(result, folder: Path, columns: Sequence[str], cells: Sequence[Sequence[str]], totals: Sequence[str]) -> Path:
    """Write ``tuning.svg`` and ``tuning.html``; the path of the page."""
    write_whole(folder / "tuning.svg", svg(result), "--output")
    write_whole(folder / "tuning.html", html(result, columns, cells, totals), "--output")
    return folder / "tuning.html"


class _Row:
    """A layer's label, its costs over its floor, and its finite curve."""

    def __init__(self, layer, name: str):
        base = layer.floor or layer.tuned
        self.label = (f"{layer.count} x " if layer.count > 1 else "") + name
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
        x += 76
    return parts


def _text(
    x: float, y: float, text: str, size: float = 12, anchor: str = "start", fill: str = INK, halo: bool = False
) -> str:
    around = ' stroke="white" stroke-width="3" paint-order="stroke"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{fill}"{around}>'
        f"{escape(text)}</text>"
    )


def _line(points: Sequence[tuple[float, float]], colour: str, width: float) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
