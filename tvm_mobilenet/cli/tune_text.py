"""The output of `tune`: the search while it runs, the table of layers and the totals, and its page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet.errors import MissingDependencyError
from tvm_mobilenet.terminal import console, notebook
from tvm_mobilenet.terminal.table import Detail, Layers
from tvm_mobilenet.tuning.result import TuneResult
from tvm_mobilenet.tuning.session import Work


def of_peak(cost: float | None, floor: float | None) -> str:
    """% of peak: cycles of the multiply-adds alone at the core's peak rate, over a cost; ``-`` without either."""
    return f"{100 * floor / cost:.1f}" if cost and floor else "-"


def show_search(work: Work, progress: console.Progress, time_limit: float) -> Callable:
    """The display of a search's progress, for ``tuning.session.search``."""
    layers = list(work.searches.values())

    def line(searching) -> str:
        tried, done = sum(len(layer.tried) for layer in layers), sum(layer.searched for layer in layers)
        costs = [(layer.count * layer.best.cost, layer.count * layer.floor) for layer in layers if layer.best]
        cost, floor = (sum(c) for c in zip(*costs, strict=True)) if costs else (0.0, 0.0)
        state = f"{len(costs)} of {len(layers)} layers have a cost"
        if len(costs) == len(layers):
            state = f"{console.number(cost)} {'s' if work.measured else 'predicted cycles'}"
            state += f", {floor / cost:.1%} of peak" if floor else ""
        left = console.duration(max(0.0, time_limit - searching.spent))
        told = f"tuning: {tried} trials, {done} of {len(layers)} layers done, {state}, at most {left} left"
        return told + f"; {searching.pace}" * bool(searching.pace)

    def rows() -> list:
        def weight(s) -> float:
            return s.count * (s.best.cost if s.best else float("inf"))

        # A small screen shows only the first rows.
        shown = sorted(layers, key=lambda s: (not s.begun, s.searched, -weight(s)))
        return [
            (
                s.name,
                f"{len(s.tried)}/{s.most}",
                "running" if s.begun else "done" if s.searched else "",
                s.best and s.best.cost,
                of_peak(s.best.cost, s.floor) if s.best else "-",
            )
            for s in shown
        ]

    columns = (Layers("layer"), "trials", Detail("state"), Detail("best"), Detail("% of peak"))
    return lambda searching: progress.update(lambda: line(searching), columns, rows)


COLUMNS = (Layers("layer"), "count", Detail("decisions"), "trials", "untuned", "tuned", "% of peak")


def rows_of(result: TuneResult) -> list[tuple]:
    """A row of ``COLUMNS`` for each distinct layer."""
    rows = []
    for one in result.layers:
        decisions = " ".join(f"{name}={value}" for name, value in one.decisions.items())
        rows.append(
            (one.layer, one.count, decisions, one.trials, one.untuned, one.tuned, of_peak(one.tuned, one.floor))
        )
    return rows


def totals_of(result: TuneResult) -> list[str]:
    """The whole network in a few lines."""
    label = "predicted" if result.predicted else "measured"
    lines = []
    costs = {
        "untuned": result.untuned,
        "tuned": result.tuned,
        "compute": result.compute,  # compute cycles alone, as papers on kernels report them
        "peak": result.floor,
    }
    for name, cost in costs.items():
        if cost is not None:
            share = f", {result.floor / cost:.1%} of peak" if result.floor and name != "peak" else ""
            if share and result.floor_float32:
                share += f", {cost / result.floor_float32:.3f} x the float32 floor"
            ms = console.number(result.milliseconds(cost))
            what = {"compute": " of the tuned ones if no load missed the L1", "peak": " of the multiply-adds alone"}
            known = "at the core's peak rate" if name == "peak" and not result.predicted else label
            lines.append(
                f"{name:9} {console.number(cost)} {result.unit}{what.get(name, '')}, {ms} ms {known} on 1 core{share}"
            )
    if result.tuned_all_cores is not None:
        ms = console.number(result.milliseconds(result.tuned_all_cores))
        lines.append(f"{'tuned':9} {ms} ms {label} on {result.cores} cores")
    parts = (result.prediction, result.build, result.verification)
    for line in (line for part in parts if hasattr(part, "summary") for line in part.summary().split("\n")):
        lines += [line, *(why_they_differ(result) if line.startswith("latency ") else ())]
    if result.ended == "time":
        lines.append("the time limit ended the search; a larger --time-limit continues where it stopped")
    return lines


def why_they_differ(result: TuneResult) -> list[str]:
    """A line that explains the latency of the whole network beside the sum of its layers, if the two differ as
    printed."""
    pairs = [
        (f"{cores} core{'s' * (cores > 1)}", result.milliseconds(cost), getattr(result.verification, field, None))
        for cores, cost, field in (
            (1, result.tuned, "milliseconds"),
            (result.cores, result.tuned_all_cores, "milliseconds_all_cores"),
        )
    ]
    differ = [
        f"{console.number(alone)} ms on {where}"
        for where, alone, whole in pairs
        if alone is not None and whole is not None and console.number(alone) != console.number(whole)
    ]
    if not differ:
        return []
    return [
        f"{'':9} of the whole network, each layer finding the caches as the one before left them; `tuned` above is the "
        f"sum of the layers, each run by itself with its input still in the caches: {', '.join(differ)}"
    ]


def _chart(result: TuneResult) -> str:
    from tvm_mobilenet.report import vega
    from tvm_mobilenet.survey import tune_page

    return vega.svg(tune_page.layers_chart(result))


def _about(result: TuneResult) -> str:
    before, after = (console.number(result.milliseconds(cost)) for cost in (result.untuned, result.tuned))
    how = "predicted" if result.predicted else "measured"
    return f"{result.model} on {result.target}, {before} ms before, {after} ms now on one core, {how}"


@notebook.shows(TuneResult, _about, _chart)
def print_result(result: TuneResult) -> None:
    """The table of layers and the whole, on stdout."""
    unit = "predicted cycles, compute and memory" if result.predicted else "seconds"
    title = f"{result.model} on {result.target} ({result.core}); {unit}, one core, each layer once"
    console.print_table(COLUMNS, rows_of(result), title)
    console.print_text("\n" + "\n".join(totals_of(result)), indent=10)


def write_page(result: TuneResult, folder: Path) -> Path:
    """``tuning.html`` in the output folder, with charts where they can be drawn; its path.

    No flag asks for this page, so a missing package for charts gives a note and no error.
    """
    from tvm_mobilenet.report import vega
    from tvm_mobilenet.survey import tune_page

    path, charts = folder / "tuning.html", True
    try:
        vega.require("a page with charts")
    except MissingDependencyError as error:
        console.say(f"note: {path} holds only tables: {error.message}; {error.hint}")
        charts = False
    tune_page.page(result, COLUMNS, rows_of(result), totals_of(result)).write(path, "--output", charts)
    return path
