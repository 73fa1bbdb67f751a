"""The page of a sweep: networks by latency, accuracy and mult-adds, their Pareto front, and separable against standard
convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import Markup, Page, Table, Words, link
from tvm_mobilenet.survey import budget
from tvm_mobilenet.survey.sweep_text import label_of, pareto, rows_of

FEWEST = 3  # least networks of different cost for a fitted line, since any two lie on one
HEIGHT, PADDING, LINE, LETTER = 340, 14, 15, 6.5  # pixels: of a chart, at its ends, of a line of text, of a letter
COLUMNS = ("network", "series", "ms", "mult_adds_millions", "top1_percent", "on_front")


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


def page(result, theory=None) -> Page:
    """The page of a `SweepResult`, with the ratios of a `survey.theory.Theory` if given."""
    networks, parts = result.networks, []
    for cores in dict.fromkeys((1, result.cores)):
        if any(v.top1 is not None for v in networks):
            parts.append(front_chart(result, cores))
        parts.append(cost_chart(result, cores))
    if result.twins:
        parts.append(twins_chart(result))
    columns, rows = rows_of(result)
    front = frozenset(v.title for v in pareto(networks, 1))
    what = "Memory is parameters, arena and every core's scratch; module is constants and kernels."
    bold = "Bold: on the Pareto front on one core. " * bool(front)
    parts.append(Table("The networks", columns, rows, bold + what, front, decimals=True))
    if theory is not None:
        parts.append(Words("Where cycles differ from theory", theory.words()))
        parts.append(Table("The papers' ratios beside those of cycles", *theory.table()))
    if sources := sorted({v.source for v in networks if v.source}):
        parts.append(
            Markup("Sources", f"<p>Published ImageNet top-1 of float32: {', '.join(map(link, sources))}.</p>\n")
        )
    return Page(f"MobileNets on {result.title}", [("board", label_of(result))], parts)


def front_chart(result, cores: int) -> vega.Chart:
    """Latency, on a logarithmic axis, against published top-1, with the Pareto front."""
    known = [n for n in result.networks if n.top1 is not None]
    front = [n.title for n in pareto(known, cores)]
    whose = " of float32" * any(budget.of_float32(n) for n in known)
    rows = _rows(known, cores, front)
    times = [row[2] for row in rows]
    span = max(max(times) / min(times), 2.0)
    ends = [min(times) / span**0.3, max(times) * span**0.06]  # the leftmost label needs room
    x = vega.quantitative("ms", f"ms {_how(result)}, {_on(cores)}", scale={"type": "log", "domain": ends})
    y = vega.quantitative("top1_percent", f"published top-1{whose}, %", scale={"zero": False, "padding": PADDING})
    one_model = len({n.model for n in known}) == 1
    label = "datum.network" if not one_model else "replace(datum.network, /^\\S+ /, '')"
    labelled = _apart(known, front)
    room = 8 + LETTER * max(map(len, labelled))  # pixels, of the longest label
    spec = {
        "layer": [
            {
                "transform": [{"filter": "datum.on_front"}],
                "mark": {"type": "line", "stroke": vega.INK, "strokeDash": [5, 4], "strokeWidth": 1.4},
                "encoding": {"x": x, "y": y, "order": {"field": "ms", "type": "quantitative"}},
            },
            _points(x, y, rows, ms="ms|,.4~r", top1_percent="top-1, %", mult_adds_millions="mult-adds, M|,.4~r"),
            {
                "transform": [{"filter": {"field": "network", "oneOf": labelled}}, {"calculate": label, "as": "label"}],
                "mark": {
                    "type": "text",
                    "align": "right",
                    "dy": -7,
                    "dx": {"expr": f"-8 + max(0, {room} - scale('x', datum.ms))"},
                },
                "encoding": {"x": x, "y": y, "text": {"field": "label", "type": "nominal"}},
            },
        ]
    }
    words = (
        "Up and to the left is better. The dashed line is the Pareto front: no network is both faster and more "
        "accurate than those on it."
    )
    words += " All dtypes have float32's published top-1." * any(n.dtype != FLOAT32 for n in known)
    return vega.Chart(
        f"Latency and accuracy, {_on(cores)}",
        f"{result.target}-accuracy-{cores}",
        COLUMNS,
        rows,
        spec,
        words,
        height=HEIGHT,
    )


def cost_chart(result, cores: int) -> vega.Chart:
    """Mult-adds against latency; with enough networks also the fitted line and its text."""
    rows = _rows(result.networks, cores, [n.title for n in pareto(result.networks, cores)])
    x = vega.quantitative("mult_adds_millions", "mult-adds, M", scale={"zero": True, "nice": False, "padding": 8})
    y = vega.quantitative("ms", f"ms {_how(result)}, {_on(cores)}", scale={"zero": True})
    layers = [_points(x, y, rows, ms="ms|,.4~r", mult_adds_millions="mult-adds, M|,.4~r")]
    xs, ys = [row[3] for row in rows], [row[2] for row in rows]
    if len(set(xs)) >= FEWEST:
        slope, intercept, explained = fit(xs, ys)
        intercept = 0.0 if abs(intercept) < 1e-6 * max(ys) else intercept  # of rounding alone
        first = max(0.0, -intercept / slope) if slope > 0 else 0.0
        ends = [{"x": at, "y": intercept + slope * at} for at in (first, max(xs))]
        line = {"data": {"values": ends}, "mark": {"type": "line", "stroke": vega.INK, "strokeWidth": 1.4}}
        layers.insert(0, line | {"encoding": {"x": {**x, "field": "x"}, "y": {**y, "field": "y"}}})
        words = (
            f"The fitted line: {100 * slope:.3g} ms for each 100 M mult-adds, {intercept:+.2g} ms at none; it explains "
            f"{100 * explained:.2f} % of the variance."
        )
    else:
        words = f"A line is fitted through {FEWEST} networks of different cost or more."
    title = f"Latency and mult-adds, {_on(cores)}"
    return vega.Chart(
        title, f"{result.target}-mult-adds-{cores}", COLUMNS, rows, {"layer": layers}, words, height=HEIGHT
    )


def twins_chart(result) -> vega.Chart:
    """The cost of standard over separable convolutions: in mult-adds against in time."""
    counts = {_on(cores): cores for cores in (1, result.cores)}
    rows = [
        (t.model, name, t.mult_adds, t.one_core if cores == 1 else t.all_cores)
        for t in result.twins
        for name, cores in counts.items()
    ]
    most = max(max(row[2], row[3]) for row in rows)
    x = vega.quantitative("times_mult_adds", "standard / separable, mult-adds", scale={"domain": [0, most * 1.05]})
    y = vega.quantitative("times_time", "standard / separable, time", scale={"domain": [0, most * 1.05]})
    diagonal = {
        "data": {"values": [{"x": 0, "y": 0}, {"x": most, "y": most}]},
        "mark": {"type": "line", "stroke": vega.INK, "strokeWidth": 1.4},
        "encoding": {"x": {**x, "field": "x"}, "y": {**y, "field": "y"}},
    }
    points = _points(x, y, rows, series="on", times_mult_adds="x mult-adds|.3~r", times_time="x time|.3~r")
    return vega.Chart(
        "Cost saved and time saved by separable convolutions",
        f"{result.target}-plain",
        ("network", "series", "times_mult_adds", "times_time"),
        rows,
        {"layer": [diagonal, points]},
        "Each point is a network against its twin with standard convolutions. On the line, the saving in time equals "
        "the saving in mult-adds; below it, the saving in time is smaller.",
        height=HEIGHT,
    )


def _how(result) -> str:
    return "predicted" if all(v.predicted for v in result.networks) else "measured"


def _on(cores: int) -> str:
    return vega.counted(cores, "core")


def _points(x: dict, y: dict, rows: Sequence[tuple], **tips: str) -> dict:
    """Points with a colour and a shape for each series, one legend, and their tooltips."""
    series = list(dict.fromkeys(row[1] for row in rows))
    marks = {"color": vega.colours("series", series), "shape": vega.shapes("series", series)}
    return {"mark": "point", "encoding": {"x": x, "y": y, **marks, "tooltip": vega.tooltip(network="network", **tips)}}


def _rows(networks: Sequence, cores: int, front: Sequence[str]) -> list[tuple]:
    by_model, by_dtype = (len({getattr(n, name) for n in networks}) > 1 for name in ("model", "dtype"))
    return [
        (
            n.title,
            (n.model if by_model else f"alpha {n.alpha:g}") + f" {n.dtype}" * by_dtype,
            n.latency(cores),
            n.mult_adds / 1e6,
            None if n.top1 is None else round(100 * n.top1, 2),
            n.title in front,
        )
        for n in networks
    ]


def _apart(networks: Sequence, front: Sequence[str]) -> list[str]:
    """The names on the front with room for a line of text each, the most accurate first."""
    heights = {n.title: n.top1 for n in networks if n.title in front}
    span = max(n.top1 for n in networks) - min(n.top1 for n in networks)
    found: list[str] = []
    for name in sorted(heights, key=heights.__getitem__, reverse=True):
        if not found or (heights[found[-1]] - heights[name]) * (HEIGHT - 2 * PADDING) >= LINE * span:
            found.append(name)
    return found
