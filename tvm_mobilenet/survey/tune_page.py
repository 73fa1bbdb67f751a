"""The page of a tuning: the time of each layer before and after, and the course of each layer's search."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import Page, Table, printed
from tvm_mobilenet.terminal.titles import short_titles

MOST_TURNS = 40  # most points of one search's curve
PARTS = ("compute", "memory")


def page(result, columns: Sequence[str], rows: Sequence[Sequence], totals: Sequence[str]) -> Page:
    """The page of a `TuneResult` with its table and its totals, as `tune` prints them."""
    title = f"{result.model} tuned for {result.target}"
    how = "predicted" if result.predicted else "measured"
    about = ("board", f"{result.board}, {how}, {result.cores} x {result.core}")
    parts = [layers_chart(result), *searches_chart(result)]
    unit = "predicted cycles, compute and memory" if result.predicted else "seconds"
    parts.append(Table("The layers", columns, rows, f"Costs are {unit}, on one core, of each layer once."))
    return Page(title, [about, *printed(totals)], parts)


def layers_chart(result) -> vega.Chart:
    """Layers in order: milliseconds before and after; tuned ones are split into compute and memory if that is known."""
    rows, split = [], all(layer.compute is not None for layer in result.layers if layer.tuned is not None)
    how = "predicted" if result.predicted else "measured"

    def ms(layer, cost: float | None) -> float | None:
        return None if cost is None else result.milliseconds(cost * layer.count)

    for layer, name in zip(result.layers, names_of(result), strict=True):
        known = split and layer.tuned is not None
        compute, memory = (layer.compute, max(0.0, layer.tuned - layer.compute)) if known else (None, None)
        costs = (compute, memory, layer.tuned, layer.untuned, layer.floor or None)
        rows.append((name, layer.count, *(ms(layer, cost) for cost in costs)))
    first = PARTS if split else ("tuned",)
    fields = [f"{part}_ms" for part in first]
    shown = [*first, "untuned", "at peak"]
    shades = [*vega.COLOURS[: len(first)], vega.QUIET, vega.INK]
    colour = {"type": "nominal", "title": None, "sort": None, "scale": {"domain": shown, "range": shades}}
    x = vega.quantitative("ms", f"ms {how}, 1 core", stack="zero")
    y = vega.names("layer")
    tips = vega.tooltip(
        layer="layer",
        count="times",
        tuned_ms="tuned, ms|.3~r",
        untuned_ms="untuned, ms|.3~r",
        peak_ms="at the core's peak rate, ms|.3~r",
    )
    bars = {
        "transform": [
            {"fold": list(fields), "as": ["field", "ms"]},
            {"calculate": "replace(datum.field, '_ms', '')", "as": "part"},
        ],
        "mark": vega.BAR,
        "encoding": {"x": x, "y": y, "color": {**colour, "field": "part"}, "tooltip": tips},
    }
    ticks = [
        {
            "mark": {"type": "tick", "thickness": thick, "height": vega.ROW - 4, "tooltip": True},
            "encoding": {
                "x": vega.quantitative(field, x["title"]),
                "y": y,
                "color": {**colour, "datum": words},
                "tooltip": tips,
            },
        }
        for field, words, thick in (("untuned_ms", "untuned", 3), ("peak_ms", "at peak", 1.5))
    ]
    words = "Each bar is a tuned layer's time, with all of its occurrences"
    words += ", compute and memory stacked" * split
    words += ". Ticks: its untuned time, and its multiply-adds at the core's peak rate."
    columns = ("layer", "count", "compute_ms", "memory_ms", "tuned_ms", "untuned_ms", "peak_ms")
    spec = {"height": vega.ROW * len(rows), "layer": [bars, *ticks]}
    return vega.Chart("Where the time goes", f"{_slug(result)}-layers", columns, rows, spec, words, wide=True)


def searches_chart(result) -> list[vega.Chart]:
    """The best cost so far by trial, one small chart for each layer; none without a search."""
    rows, few, flat = [], 0, 0
    for layer, name in zip(result.layers, names_of(result), strict=True):
        curve = [(i, cost) for i, cost in enumerate(layer.curve, 1) if math.isfinite(cost)]
        if len(curve) < 2 or not curve[-1][1]:
            few += 1
            continue
        best = curve[-1][1]
        if curve[0][1] == best:
            flat += 1
            continue
        turns = [p for p, q in zip(curve, [(0, math.inf), *curve], strict=False) if p[1] < q[1]]
        rows += [(name, trial, 100 * (cost / best - 1)) for trial, cost in dict.fromkeys([*_thinned(turns), curve[-1]])]
    if not rows:
        return []
    whole = "datum.value == floor(datum.value) ? format(datum.value, 'd') : ''"
    spec = {
        "mark": {"type": "line", "interpolate": "step-after", "point": {"size": 18}, "strokeWidth": 1.6},
        "encoding": {
            "x": vega.quantitative("trial", None, axis={"tickCount": 4, "grid": False, "labelExpr": whole}),
            "y": vega.quantitative("percent_above_best", None, axis={"tickCount": 3, "format": ".2~r"}),
            "tooltip": vega.tooltip(trial="trial", percent_above_best="% above the best|.2~r"),
        },
    }
    words = "The cost of the best so far above the final best, in percent, by trial. Each chart has its own scale."
    words += f" The first candidate stayed the best of {vega.counted(flat, 'layer')}." * bool(flat)
    words += f" Fewer than two candidates ran of {vega.counted(few, 'layer')}." * bool(few)
    columns = ("layer", "trial", "percent_above_best")
    return [vega.Chart("The searches", f"{_slug(result)}-searches", columns, rows, spec, words, "layer", wide=True)]


def _thinned(turns: list) -> list:
    """A curve reduced to at most ``MOST_TURNS`` points, with the first and the last."""
    step = max(1.0, (len(turns) - 1) / (MOST_TURNS - 1))
    return [turns[round(i * step)] for i in range(min(len(turns), MOST_TURNS))]


def names_of(result) -> list[str]:
    """Names for the layers, with how often they occur."""
    short = short_titles([layer.layer for layer in result.layers], vega.LABEL)
    return [(f"{x.count} x " if x.count > 1 else "") + name for x, name in zip(result.layers, short, strict=True)]


def _slug(result) -> str:
    return f"{result.model}-{result.target}".replace(" ", "-").replace("/", "-")
