"""A benchmark for people and for other programs: a table, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence

from tvm_mobilenet.measuring.benchmark import Benchmark, Row
from tvm_mobilenet.measuring.regression import Comparison
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import console, notebook
from tvm_mobilenet.terminal.printable import printable, printable_lines
from tvm_mobilenet.terminal.table import Layers

COLUMNS = ("threads", "min", "mean", "p50", "p90", "p99", "deviation", "runs", "MiB initial", "MiB peak", "°C", "MHz")
LAYER_COLUMNS = ("layer", Layers("what"), "ms", "share %")
CSV_COLUMNS = (
    "kind",
    "threads",
    "name",
    "layer",
    "min_s",
    "mean_s",
    "p50_s",
    "p90_s",
    "p99_s",
    "max_s",
    "deviation_s",
    "samples",
    "outliers",
    "rss_initial_bytes",
    "rss_peak_bytes",
    "ratio",
    "marks",
)
PEER_COLUMNS = ("engine", "threads", "version", "p50 ms", "x ours", "quartiles", "difference", "MiB peak")
COMPARED = ("threads", "before ms", "after ms", "change %")
SLOWEST = 5  # layers shown below the table


def _line(result: Benchmark) -> str:
    each = (f"{console.number(r.time.p50 * 1e3)} ms on {r.threads} thread{'s' * (r.threads > 1)}" for r in result.rows)
    title = ModelOptions.from_data(result.model).title
    return f"{title} on {result.target}, {', '.join(each)}, {result.how} on {result.board}"


@notebook.shows(Benchmark, _line)
def show(result: Benchmark, form: str = "table", comparison: Comparison | None = None) -> None:
    """Print a benchmark: ``form`` is ``table``, ``markdown`` or ``csv``."""
    if form == "csv":
        print(printable_lines(as_csv(result)), end="")
        return
    table = _markdown if form == "markdown" else console.print_table
    table(COLUMNS, [cells(row) for row in result.rows], _title(result))
    for row in result.rows:
        for mark in row.marks:
            console.print_text(f"! {row.threads} thread{'s' * (row.threads > 1)}: {mark.text}\n    {mark.remedy}", 4)
    if slowest := _slowest(result.rows[0]):
        table(
            LAYER_COLUMNS,
            slowest,
            f"\nslowest of {len(result.rows[0].layers)} kernel calls, {result.how} on "
            f"{result.rows[0].threads} thread{'s' * (result.rows[0].threads > 1)}; profile shows all",
        )
    if result.peers:
        table(
            PEER_COLUMNS,
            [peer_cells(peer) for peer in result.peers],
            "\nother engines, taking turns with ours",
        )
        for peer in result.peers:
            if peer.missing:
                console.print_text(f"! {peer.engine}: {peer.missing}", 4)
            if peer.kernels:
                console.print_text(f"  {peer.engine} ran {peer.kernels}", 4)
    console.print_text("\n".join(about(result)), 10)
    if comparison:
        table(COMPARED, compared(comparison), "\nagainst the older benchmark, medians")
        for note in comparison.notes:
            console.print_text(f"! {note}", 4)


def as_csv(result: Benchmark) -> str:
    """Every row, every layer and every other engine as one line; times in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)

    def line(kind, threads, name, layer, t, initial=None, peak=None, ratio=None, marks="") -> None:
        times = (t.min, t.mean, t.p50, t.p90, t.p99, t.max, t.deviation, t.samples, t.outliers) if t else (None,) * 9
        cells = (kind, threads, name, layer, *times, initial, peak, ratio, marks)
        writer.writerow(["" if c is None else c for c in cells])

    for row in result.rows:
        marks = "; ".join(mark.text for mark in row.marks)
        line(f"network {result.how}", row.threads, "", "", row.time, row.rss_initial, row.rss_peak, None, marks)
    for row in result.rows:
        for t in row.layers:
            writer.writerow([f"layer {result.how}", row.threads, t.name, t.layer, t.min, "", t.p50, *[""] * 10])
    for peer in result.peers:
        line("engine", peer.threads, peer.engine, "", peer.time, None, peer.rss_peak, peer.ratio, peer.missing)
    return out.getvalue()


def _title(result: Benchmark) -> str:
    where = f"{result.target}, board {result.board}"
    return f"{ModelOptions.from_data(result.model).title} on {where}: milliseconds a run, {result.how}"


def compared(comparison: Comparison) -> list[tuple]:
    """A row of ``COMPARED`` for each number of threads."""
    return [(str(r.threads), r.before * 1e3, r.after * 1e3, f"{(r.ratio - 1) * 100:+.1f}") for r in comparison.rows]


def cells(row: Row) -> tuple:
    """A row of ``COLUMNS``."""
    t, scale = row.time, 1e3
    warmth = _span([s.get("temperature_c") for s in row.states], 1)
    clock = _span([s.get("clock_hz") for s in row.states], 1e6)
    times = (t.min, t.mean, t.p50, t.p90, t.p99, t.deviation)
    marked = str(row.threads) + ("!" if row.marks else "")
    return (
        marked,
        *(None if v is None else v * scale for v in times),
        row.number * row.repeat or None,
        _mib(row.rss_initial),
        _mib(row.rss_peak),
        warmth,
        clock,
    )


def _span(values: Sequence[float | None], unit: float) -> str:
    """``51`` or ``51-63``: before and after."""
    known = [round(v / unit) for v in values if v is not None]
    if not known:
        return "-"
    return f"{known[0]}" if known[0] == known[-1] else f"{known[0]}-{known[-1]}"


def _mib(nbytes: int | None) -> float | None:
    return None if nbytes is None else nbytes / (1 << 20)


def _slowest(row: Row) -> list[tuple]:
    whole = sum(t.p50 for t in row.layers)
    found = sorted(row.layers, key=lambda t: -t.p50)[:SLOWEST]
    return [(t.name, t.layer, t.p50 * 1e3, t.p50 / whole * 100 if whole else None) for t in found]


def peer_cells(peer) -> tuple:
    """A row of ``PEER_COLUMNS``."""
    if peer.time is None:
        return (peer.engine, peer.threads, "-", None, None, "-", "-", None)
    spread = f"{peer.ratio_low:.3f}-{peer.ratio_high:.3f}"
    off = "another size" if peer.difference is None else f"{peer.difference:.1e}"
    return (peer.engine, peer.threads, peer.version, peer.time.p50 * 1e3, peer.ratio, spread, off, _mib(peer.rss_peak))


def about(result: Benchmark) -> list[str]:
    """The board and the conditions, in a few lines."""
    facts, row = result.environment["board"], result.rows[0]
    cores = facts.get("cores") and f"{facts['cores']} cores"
    words = [
        facts.get("model") or facts.get("hostname"),
        facts.get("cpu"),
        cores,
        facts.get("system"),
        facts.get("kernel"),
        facts.get("governor") and f"governor {facts['governor']}",
    ]
    lines = ["board     " + (", ".join(w for w in words if w) or "unknown")]
    if result.upload:
        lines.append(f"upload    {result.upload['bytes'] / (1 << 20):.1f} MiB in {result.upload['seconds']:.2f} s")
    if row.load_seconds is not None:
        warm = row.warm_up
        lines.append(
            f"start     loaded in {row.load_seconds * 1e3:.0f} ms, the first run took "
            f"{warm['first_seconds'] * 1e3:.3g} ms, settled after {warm['runs']} runs"
        )
        tells = row.states[0].get("throttling_from")
        slowed = any(mark.kind == "throttled" for each in result.rows for mark in each.marks)
        lines.append(
            "throttled "
            + (f"{'yes' if slowed else 'no'}, says {tells}" if tells else "unknown: nothing on this system tells")
        )
    return lines


def _markdown(columns: Sequence[str], rows: Sequence[Sequence], heading: str = "") -> None:
    """A table as GitHub shows it."""
    if heading:
        print(printable_lines(heading) + "\n")
    right = [all(not isinstance(row[i], str) or row[i] in ("", "-") for row in rows) for i in range(len(columns))]
    print("| " + " | ".join(columns) + " |")
    print("|" + "|".join("--:" if r else "---" for r in right) + "|")
    for row in rows:
        cells = [c if isinstance(c, str) else console.number(c) for c in row]
        print("| " + " | ".join(printable(c).replace("|", "\\|") for c in cells) + " |")
    sys.stdout.flush()
