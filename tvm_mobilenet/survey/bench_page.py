"""The page of a benchmark: how its samples are distributed, the engines beside each other, and the layers in order."""

from __future__ import annotations

import math

from tvm_mobilenet.measuring import benchmark_text
from tvm_mobilenet.measuring.benchmark import Benchmark, Row
from tvm_mobilenet.measuring.regression import Comparison
from tvm_mobilenet.measuring.statistics import percentile
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.report import vega
from tvm_mobilenet.report.page import Page, Table, printed
from tvm_mobilenet.terminal.titles import short_titles

BARS = (8, 40)  # least and most bars of a histogram
FEWEST = 5  # least samples for a histogram
FAR = 3.0  # quartile distances above the upper quartile; slower samples share the last bar


def page(result: Benchmark, comparison: Comparison | None = None) -> Page:
    """The page of a benchmark, and of its comparison with an older one."""
    title = f"{ModelOptions.from_data(result.model).title} on {result.target}, {result.how}"
    summary = [("run", f"{result.board}, {result.created}"), *printed(benchmark_text.about(result))]
    notes = [f"{_threads(row.threads)}: {mark.text}; {mark.remedy}" for row in result.rows for mark in row.marks]
    parts = [engines_chart(result), *histograms_chart(result), *layers_chart(result)]
    columns, rows = benchmark_text.COLUMNS, [benchmark_text.cells(row) for row in result.rows]
    parts.append(Table("Runs", columns, rows, f"Milliseconds a run, {result.how}."))
    if result.peers:
        rows = [benchmark_text.peer_cells(peer) for peer in result.peers]
        parts.append(Table("Other engines", benchmark_text.PEER_COLUMNS, rows, "They took turns with ours."))
        notes += [f"{peer.engine}: {peer.missing}" for peer in result.peers if peer.missing]
        summary += [(peer.engine, peer.kernels) for peer in result.peers if peer.kernels]
    if comparison:
        rows = benchmark_text.compared(comparison)
        parts.append(Table("Against the older benchmark", benchmark_text.COMPARED, rows, "Medians."))
        notes += comparison.notes
    if times := result.rows[0].layers:
        whole = sum(t.p50 for t in times)
        rows = [(t.name, t.layer, t.p50 * 1e3, 100 * t.p50 / whole if whole else None) for t in times]
        columns = tuple(map(str, benchmark_text.LAYER_COLUMNS))
        parts.append(
            Table("The layers", columns, rows, f"On {_threads(result.rows[0].threads)}, medians.", decimals=True)
        )
    return Page(title, summary, parts, notes)


def engines_chart(result: Benchmark) -> vega.Chart:
    """Medians by engine and threads; where measured, from the fastest sample to the 90th percentile."""
    rows = [("ours", row.threads, row.time) for row in result.rows]
    rows += [(peer.engine, peer.threads, peer.time) for peer in result.peers if peer.time]
    rows.sort(key=lambda row: row[1])
    found = [
        (f"{engine}, {_threads(threads)}", engine, threads, *(t * 1e3 for t in (time.p50, time.min, time.p90)))
        for engine, threads, time in rows
    ]
    x, y = vega.quantitative("p50_ms", f"ms a run, {result.how}", scale={}), vega.names("row")
    tips = vega.tooltip(
        row="who", p50_ms="median, ms|.4~r", min_ms="fastest, ms|.4~r", p90_ms="90th percentile, ms|.4~r"
    )
    bars = {
        "mark": vega.BAR,
        "encoding": {"x": x, "y": y, "color": vega.colours("engine", list(dict.fromkeys(row[1] for row in found)))},
    }
    bars["encoding"]["tooltip"] = tips
    bars["encoding"]["color"]["legend"] = None
    text = {
        "mark": {"type": "text", "align": "left", "dx": 6},
        "encoding": {"x": x if result.predicted else {**x, "field": "p90_ms"}, "y": y},
    }
    text["encoding"]["text"] = {"field": "p50_ms", "type": "quantitative", "format": ".4~r"}
    spans = {
        "mark": {"type": "rule", "stroke": vega.INK, "strokeWidth": 1.5},
        "encoding": {"x": {**x, "field": "min_ms"}},
    }
    spans["encoding"] |= {"x2": {"field": "p90_ms"}, "y": y, "tooltip": tips}
    line = "; the line goes from the fastest sample to the 90th percentile"
    words = f"Medians{line * (not result.predicted)}."
    columns = ("row", "engine", "threads", "p50_ms", "min_ms", "p90_ms")
    x["scale"]["domain"] = [0, 1.2 * max(row[-1] for row in found)]  # with room for a figure
    layers = [bars, text] if result.predicted else [bars, spans, text]
    spec = {"height": 26 * len(found), "layer": layers}
    return vega.Chart("Time of a run", f"{_slug(result)}-runs", columns, found, spec, words)


def histograms_chart(result: Benchmark) -> list[vega.Chart]:
    """Histograms of the times of runs, one small chart for each number of threads; none for predictions."""
    found, cut = [], []
    for row in result.rows:
        if len(row.samples) >= FEWEST:
            bars, beyond = bars_of(row)
            found += [
                (f"ours, {_threads(row.threads)}", *(v * 1e3 for v in bar[:2]), bar[2], row.time.p50 * 1e3)
                for bar in bars
            ]
            cut += [f"{beyond} of {_threads(row.threads)}"] if beyond else []
    if not found:
        return []
    x = vega.quantitative("from_ms", "ms", scale={"zero": False, "nice": False}, axis={"grid": False, "tickCount": 4})
    bars = {
        "mark": {"type": "bar", "stroke": "var(--paper, #ffffff)", "strokeWidth": 0.5},
        "encoding": {
            "x": {**x, "bin": "binned"},
            "x2": {"field": "to_ms"},
            "y": vega.quantitative("samples", "samples", axis={"tickCount": 3, "tickMinStep": 1}),
            "tooltip": vega.tooltip(from_ms="from, ms|.4~r", to_ms="to, ms|.4~r", samples="samples"),
        },
    }
    median = {
        "transform": [{"aggregate": [{"op": "max", "field": "median_ms", "as": "median_ms"}]}],
        "mark": {"type": "rule", "stroke": vega.COLOURS[1], "strokeWidth": 2},
        "encoding": {"x": vega.quantitative("median_ms", "ms"), "tooltip": vega.tooltip(median_ms="median, ms|.4~r")},
    }
    words = "Histograms of the times of runs; each chart has its own scale, the line is the median."
    words += f" The last bar contains all slower samples: {', '.join(cut)} are far beyond." * bool(cut)
    columns = ("row", "from_ms", "to_ms", "samples", "median_ms")
    spec = {"layer": [bars, median], "height": 150}
    return [vega.Chart("Distribution of the samples", f"{_slug(result)}-samples", columns, found, spec, words, "row")]


def bars_of(row: Row) -> tuple[list[tuple[float, float, int]], int]:
    """The bars of a histogram: from, to, samples; and how many samples beyond the last bar count in it.

    The width of a bar follows Freedman and Diaconis, "On the histogram as a density estimator", 1981.
    """
    ordered = sorted(row.samples)
    upper = percentile(ordered, 0.75)
    quartiles = upper - percentile(ordered, 0.25)
    low, high = ordered[0], min(ordered[-1], max(upper + FAR * quartiles, 1.05 * row.time.p50))
    each = 2 * quartiles / len(ordered) ** (1 / 3)
    count = math.ceil((high - low) / each) if each else BARS[0]
    count = min(max(count, BARS[0]), BARS[1])
    step = (high - low) / count or low / 100 / count
    bars = [0] * count
    for sample in ordered:
        bars[min(int((sample - low) / step), count - 1)] += 1
    return [(low + i * step, low + (i + 1) * step, n) for i, n in enumerate(bars)], sum(s > high for s in ordered)


def layers_chart(result: Benchmark) -> list[vega.Chart]:
    """Kernel calls in order; no chart if only whole runs were timed."""
    times = result.rows[0].layers
    if not times:
        return []
    short = short_titles([t.layer for t in times], vega.LABEL)
    kinds = [t.layer.partition(" ")[0] for t in times]
    rows = [
        (f"{i} {name}", kind, t.p50 * 1e3) for i, (t, kind, name) in enumerate(zip(times, kinds, short, strict=True))
    ]
    spec = {
        "height": vega.ROW * len(rows),
        "mark": vega.BAR,
        "encoding": {
            "x": vega.quantitative("ms", f"ms {result.how}"),
            "y": vega.names("layer"),
            "color": vega.colours("kind", list(dict.fromkeys(kinds))),
            "tooltip": vega.tooltip(layer="layer", kind="kind", ms="ms|.3~r"),
        },
    }
    words = f"On {_threads(result.rows[0].threads)}. profile --html sets each beside its roofline."
    columns = ("layer", "kind", "ms")
    return [vega.Chart("Layers in order", f"{_slug(result)}-layers", columns, rows, spec, words, wide=True)]


def _threads(count: int) -> str:
    return vega.counted(count, "thread")


def _slug(result: Benchmark) -> str:
    return f"{ModelOptions.from_data(result.model).slug}-{result.target}-bench"
