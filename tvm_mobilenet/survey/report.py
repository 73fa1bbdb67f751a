"""The report of a sweep: one HTML file with plots and the table, which refers to nothing outside itself.

Plots are SVG, drawn here, 440 units wide: on a phone one fills the width and its text stays readable, on a desktop two
stand side by side. Points carry their figures as tooltips; those on the Pareto front are labelled where there is room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.survey import budget
from tvm_mobilenet.survey.sweep_text import label_of, pareto, rows_of
from tvm_mobilenet.terminal import console

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 440, 350, 54, 14, 16, 54
COLOURS = ("#2f6f9f", "#d1495b", "#3f8f5f", "#b0762a", "#7c5aa6", "#4d4d4d", "#1b9aaa", "#a33b8f")
INK, QUIET, GRID, FRONT = "#222222", "#666666", "#e4e4e4", "#222222"

STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,sans-serif;color:#222;background:#fff;margin:0 auto;padding:1rem;max-width:1120px}
h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.1rem;margin:1.6rem 0 .3rem}p{margin:.3rem 0 .8rem;max-width:46rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:0 1.5rem}
section{min-width:0}svg{display:block;width:100%;height:auto}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.875rem;white-space:nowrap}
td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left;position:sticky;left:0;background:#fff}
td.front{font-weight:600}.quiet{color:#666;font-size:.875rem}a{overflow-wrap:anywhere;color:#2f6f9f}
"""


@dataclass(frozen=True)
class Point:
    """A mark in a plot: where, of which series, its name and what the tooltip says."""

    x: float
    y: float
    series: str
    name: str
    tip: str


def fit(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float]:
    """The least-squares line: slope, intercept, and R^2, the share of the variance that it explains."""
    n = len(xs)
    mean_x, mean_y = sum(xs) / n, sum(ys) / n
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0
    intercept = mean_y - slope * mean_x
    total = sum((y - mean_y) ** 2 for y in ys)
    rest = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, intercept, 1 - rest / total if total else 1.0


def write(result, path: Path, theory=None) -> None:
    """Write the page of a `SweepResult`, with the ratios of a `survey.theory.Theory` if given."""
    write_whole(path, html(result, theory), "--html")


def html(result, theory=None) -> str:
    """The page."""

    title = escape(f"MobileNets on {result.title}")
    how = "predicted" if all(v.predicted for v in result.networks) else "measured"
    sections = []
    for cores in dict.fromkeys((1, result.cores)):
        name = "1 core" if cores == 1 else f"{cores} cores"
        if any(v.top1 is not None for v in result.networks):
            sections.append(
                _section(
                    f"Latency and accuracy, {name}",
                    accuracy_plot(result.networks, cores, how),
                    "Up and to the left is better. The dashed line is the Pareto front: no network is both faster "
                    "and more accurate than those on it."
                    + " All dtypes have float32's published top-1."
                    * any(v.dtype != FLOAT32 for v in result.networks),
                )
            )
        plot, words = cost_plot(result.networks, cores, how)
        sections.append(_section(f"Latency and mult-adds, {name}", plot, words))
    if result.twins:
        sections.append(
            _section(
                "Cost saved and time saved by separable convolutions",
                twins_plot(result),
                "Each point is a network against its twin with plain convolutions. On the line, time would be saved as "
                "mult-adds are; below it, less is.",
            )
        )
    columns, rows = rows_of(result)
    front = {v.title for v in pareto(result.networks, 1)}
    body = [_table(columns, list(zip(*map(_aligned, zip(*rows, strict=True)), strict=True)), front)]
    if theory is not None:
        body += [
            "<h2>What theory does not say</h2>",
            *(f"<p>{escape(line)}</p>" for line in theory.words()),
            _table(*theory.table(), set()),
        ]
    sources = sorted({v.source for v in result.networks if v.source})
    links = ", ".join(f'<a href="{escape(s)}">{escape(s)}</a>' if s.startswith("http") else escape(s) for s in sources)
    if links:
        body.append(f'<p class="quiet">Published ImageNet top-1 of float32 from {links}.</p>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"<p>{escape(label_of(result))}. Bold: on the Pareto front on one core. Memory is parameters, arena and every "
        "core's scratch; module is constants and kernels.</p>\n"
        f'<div class="plots">\n{"".join(sections)}</div>\n<h2>The networks</h2>\n{"".join(body)}\n</body>\n</html>\n'
    )


def _section(title: str, plot: str, words: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{plot}<p>{escape(words)}</p>\n</section>\n"


def _aligned(column: Sequence) -> list[str]:
    """A column's cells: numbers with as many decimals as give the smallest three digits, so that they align."""
    sizes = [abs(v) for v in column if isinstance(v, float) and v]
    decimals = max(0, 2 - math.floor(math.log10(min(sizes)))) if sizes else 0
    return [f"{v:,.{decimals}f}" if isinstance(v, float) else console.number(v) for v in column]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], bold: set) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    lines = "".join(
        "<tr>" + "".join(f"<td{' class=front' if row[0] in bold else ''}>{escape(c)}</td>" for c in row) + "</tr>\n"
        for row in rows
    )
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{lines}</table></div>\n'


# ---- the plots


def accuracy_plot(networks: Sequence, cores: int, how: str) -> str:
    """Latency, on a logarithmic axis, against published top-1, with the Pareto front."""
    known = [n for n in networks if n.top1 is not None]
    points = _points(known, lambda n: n.latency(cores), lambda n: 100 * n.top1)
    front = pareto(known, cores)
    whose = " of float32" * any(budget.of_float32(n) for n in known)
    axes = Axes(points, f"ms {how}", f"published top-1{whose}, %", log_x=True)
    line = [(n.latency(cores), 100 * n.top1) for n in front]
    return axes.svg([axes.line(line, FRONT, dashes="5 4")], points, {n.title for n in front})


def cost_plot(networks: Sequence, cores: int, how: str) -> tuple[str, str]:
    """Mult-adds against latency with the fitted line, and the line in words."""
    points = _points(networks, lambda n: n.mult_adds / 1e6, lambda n: n.latency(cores))
    axes = Axes(points, "mult-adds, M", f"ms {how}", zero=True)
    if len({p.x for p in points}) < 2:
        return axes.svg([], points, {p.name for p in points}), "One network: no line to fit."
    slope, intercept, explained = fit([p.x for p in points], [p.y for p in points])
    last = min(axes.x1, (axes.y1 - intercept) / slope) if slope > 0 else axes.x1
    ends = [(x, intercept + slope * x) for x in (max(0.0, -intercept / slope if slope else 0.0), last)]
    words = (
        f"The fitted line: {100 * slope:.3g} ms for each 100 M mult-adds, {intercept:+.2g} ms at none; it "
        f"explains {100 * explained:.2f} % of the variance."
    )
    return axes.svg([axes.line(ends, FRONT)], points, set()), words


def twins_plot(result) -> str:
    """How many times dearer plain convolutions are: in mult-adds against in time."""
    every = f"{result.cores} cores"
    points = [
        Point(t.mult_adds, y, series, t.model, f"{t.model}: {t.mult_adds:.2f} x mult-adds, {y:.2f} x time on {series}")
        for t in result.twins
        for series, y in {"1 core": t.one_core, every: t.all_cores}.items()
    ]
    axes = Axes(points, "plain / separable, mult-adds", "plain / separable, time", zero=True)
    end = min(axes.x1, axes.y1)
    return axes.svg([axes.line([(0, 0), (end, end)], FRONT)], points, {p.name for p in points})


def _points(networks: Sequence, x, y) -> list[Point]:
    by_model, by_dtype = (len({getattr(n, name) for n in networks}) > 1 for name in ("model", "dtype"))
    return [
        Point(
            x(n),
            y(n),
            (n.model if by_model else f"alpha {n.alpha:g}") + f" {n.dtype}" * by_dtype,
            n.title,
            f"{n.title}: {n.milliseconds:.3g} ms on 1 core, {n.mult_adds / 1e6:.4g} M mult-adds, {budget.accuracy(n)}",
        )
        for n in networks
    ]


class Axes:
    """The frame of a plot: scales from the points, ticks, and what is drawn in it."""

    def __init__(self, points: Sequence[Point], x_title: str, y_title: str, log_x: bool = False, zero: bool = False):
        self.titles, self.log_x = (x_title, y_title), log_x
        xs, ys = [p.x for p in points], [p.y for p in points]
        if log_x:
            self.x0, self.x1 = min(xs) / 1.25, max(xs) * 1.25
        else:
            self.x0, self.x1 = (0.0 if zero else min(xs)), max(xs) * 1.08
        room = 0.0 if zero else 0.08 * ((max(ys) - min(ys)) or 1.0)
        self.y0, self.y1 = (0.0 if zero else min(ys) - room), max(ys) * 1.08 if zero else max(ys) + room

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies, in the units of the SVG."""
        if self.log_x:
            share = math.log(x / self.x0) / math.log(self.x1 / self.x0)
        else:
            share = (x - self.x0) / (self.x1 - self.x0)
        height = (y - self.y0) / (self.y1 - self.y0)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[tuple[float, float]], colour: str, dashes: str = "") -> str:
        """A polyline through values."""
        path = " ".join("{:.1f},{:.1f}".format(*self.at(*p)) for p in points)
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.4"{style}/>'

    def svg(self, under: Sequence[str], points: Sequence[Point], labelled: set[str]) -> str:
        """The plot: grid, what lies under the points, points with tooltips, labels of some, legend."""
        series = list(dict.fromkeys(p.series for p in points))
        colour = {s: COLOURS[i % len(COLOURS)] for i, s in enumerate(series)}
        legend, rows = _legend(colour)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + 20 * rows}" role="img" '
            f'aria-label="{escape(" against ".join(reversed(self.titles)))}" font-family="system-ui, sans-serif" '
            f'font-size="14" fill="{INK}">'
        ]
        parts += [*self._grid(), *under]
        for p in points:
            x, y = self.at(p.x, p.y)
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour[p.series]}" fill-opacity=".85">'
                f"<title>{escape(p.tip)}</title></circle>"
            )
        parts += self._labels(points, labelled)
        return "\n".join([*parts, *legend, "</svg>"]) + "\n"

    def _grid(self) -> list[str]:
        bottom, right, parts = HEIGHT - BOTTOM, WIDTH - RIGHT, []
        for tick in _log_ticks(self.x0, self.x1) if self.log_x else _ticks(self.x0, self.x1):
            x, _ = self.at(tick, self.y0)
            parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{GRID}"/>')
            parts.append(_text(x, bottom + 18, f"{tick:g}", "middle", QUIET))
        for tick in _ticks(self.y0, self.y1):
            _, y = self.at(self.x1, tick)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>')
            parts.append(_text(LEFT - 8, y + 5, f"{tick:g}", "end", QUIET))
        parts.append(_text((LEFT + right) / 2, bottom + 40, self.titles[0], "middle"))
        middle = (TOP + bottom) / 2
        parts.append(f'<g transform="rotate(-90 14 {middle})">{_text(14, middle, self.titles[1], "middle")}</g>')
        return parts

    def _labels(self, points: Sequence[Point], labelled: set[str]) -> list[str]:
        """Names beside the points, where they meet neither a point nor another name."""
        places = [self.at(p.x, p.y) for p in points]
        taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]
        parts, named, several = [], set(), len({p.name.rpartition(" ")[0] for p in points}) > 1
        for p, (x, y) in zip(points, places, strict=True):
            name = p.name if several else p.name.rpartition(" ")[2]
            width = 7.4 * len(name)
            spots = ((x - width - 8, y - 6), (x + 8, y + 16), (x + 8, y - 6), (x - width - 8, y + 16))
            for left, base in spots if p.name in labelled - named else ():
                box = left, base - 12, left + width, base + 2
                inside = box[0] > LEFT and box[2] < WIDTH and box[1] > TOP - 8 and box[3] < HEIGHT - BOTTOM
                if inside and not any(_meet(box, other) for other in taken):
                    taken.append(box)
                    named.add(p.name)
                    parts.append(_text(left, base, name))
                    break
        return parts


def _meet(a: tuple, b: tuple) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _legend(colour: dict[str, str]) -> tuple[list[str], int]:
    """Series by colour, as many rows as they need."""
    parts, x, row = [], LEFT, 0
    for name, shade in colour.items():
        width = 24 + 7.2 * len(name)
        if x + width > WIDTH:
            x, row = LEFT, row + 1
        y = HEIGHT + 8 + 20 * row
        parts += [f'<circle cx="{x + 5}" cy="{y - 5}" r="5" fill="{shade}"/>', _text(x + 15, y, name)]
        x += width
    return parts, row + 1


def _text(x: float, y: float, text: str, anchor: str = "start", fill: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    """Round values, four to eight of them."""
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= 8)
    return [round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, …"""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [round(m * 10.0**d, 10) for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
