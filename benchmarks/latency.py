"""README's figures: the chart of MobileNet v1 1.0-224 on three boards, ours beside other engines and published times,
and the table of our own times of v1 and v2.

    python -m benchmarks.latency                 # prints the chart's rows; writes chart, docs/results/speed.md, README
    python -m benchmarks.latency --again         # predicts our own figures once more: 13 builds
    python -m benchmarks.latency --again rpi4    # of one board

Ours is `tm.compile(model, board, dtype=...).latency((1, 4))`: a build with the decisions that ship, executed on the
virtual board. Another engine's aarch64 wheel was executed under qemu-aarch64, in one of two ways:

- ncnn and LiteRT in float32 on the A53 and the A72, on one thread and on four (`benchmarks.board_times`): compute by
  our core model, slice by slice.
- all others on one thread by the harness of `benchmarks.peers`: compute by llvm-mca, which has no A53, and the traffic
  between caches and from DRAM, as one slice.

The memory model of our own kernels converts both to milliseconds. Published times are of real boards. The
error is that of `benchmarks.board_times`: each published time there over the prediction for the same engine.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import board_times
from tvm_mobilenet import targets
from tvm_mobilenet.boards.cost.memory_time import part_time
from tvm_mobilenet.boards.virtual.kernel_run import Counts, Part
from tvm_mobilenet.boards.virtual.memory import LINE, Traffic

TABLE = Path(__file__).parent / "data" / "latency.json"
DOCS = Path(__file__).resolve().parents[1] / "docs"
CHART, PAGE, README = DOCS / "assets" / "latency.svg", DOCS / "results" / "speed.md", DOCS.parent / "README.md"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"  # around the table in a page
BOARDS = {"rpi3bplus": ("float32", "int8"), "rpi4": ("float32", "int8"), "rpi5": ("float32", "float16", "int8")}
MODELS = {"v1": ("float32", "float16", "int8"), "v2": ("float32", "int8")}  # the chart shows the first
OURS = "tvm_mobilenet"
NAMES = {"ncnn": "ncnn", "litert": "LiteRT"}  # display names of `board_times`' peers
CORES = (1, 4)


@dataclass(frozen=True)
class Row:
    """One engine on one board.

    Parameters
    ----------
    cores : int
        Cores of ours, threads of the others.
    predicted : float or None
        Milliseconds; None for an engine that was not executed in this configuration.
    published : tuple of float
        Milliseconds on real boards of this clock.
    """

    board: str
    dtype: str
    cores: int
    engine: str
    predicted: float | None
    published: tuple[float, ...] = ()


def rows() -> list[Row]:
    """All rows: by board, dtype and cores, ours first, then the others by time."""
    kept = json.loads(TABLE.read_text(encoding="utf-8"))
    boards = json.loads(board_times.TABLE.read_text(encoding="utf-8"))
    published: dict[tuple, tuple[float, ...]] = {}
    told = [{"dtype": "float32", **r, "engine": NAMES[r["peer"]], "cores": r["threads"]} for r in boards["rows"]]
    for row in [*told, *kept["published"]]:
        if row["board"] in BOARDS and row["clock_hz"] == targets.load(row["board"]).clock_hz:
            key = row["board"], row["dtype"], row["cores"], row["engine"]
            published[key] = (*published.get(key, ()), row["ms"])
    charted = next(iter(MODELS))
    predicted = {(r["board"], r["dtype"], r["cores"], OURS): r["ms"] for r in kept["ours"] if r["model"] == charted}
    for run in boards["runs"]:
        for board in BOARDS:
            target = targets.load(board)
            if target.core.name == run["core"]:
                row = {"board": board, "clock_hz": target.clock_hz, "threads": run["threads"]}
                key = board, "float32", run["threads"], NAMES[run["peer"]]
                predicted[key] = board_times.estimated(row, run)[0]
    for peer in kept["peers"]:
        predicted.setdefault((peer["board"], peer["dtype"], 1, peer["engine"]), _milliseconds(peer))
    found = [Row(*key, predicted.get(key), published.get(key, ())) for key in {**predicted, **published}]
    dtypes = ("float32", "float16", "int8")

    def order(row: Row):
        time = row.predicted if row.predicted is not None else min(row.published)
        return list(BOARDS).index(row.board), dtypes.index(row.dtype), row.cores, row.engine != OURS, time

    return sorted(found, key=order)


def _milliseconds(peer: dict) -> float:
    """Milliseconds of a peer on one thread, from its compute cycles and the bytes of each level as one part."""
    target = targets.load(peer["board"])
    lines = tuple(megabytes * 1e6 / LINE for megabytes in peer["megabytes"])
    empty = np.zeros(0, np.int64)
    counts = Counts(0, empty, empty, traffic=Traffic(lines, (0.0,) * len(lines)))
    time = part_time(Part("serial", [counts], 1), [peer["cycles"]], None, 1, target.core, target, True)
    return time.whole / target.clock_hz * 1e3


def board_over_predicted() -> tuple[float, float]:
    """The smallest and the largest published time over the prediction for the same engine."""
    kept = json.loads(board_times.TABLE.read_text(encoding="utf-8"))
    over = 1 / (1 + board_times.errors(kept["rows"], kept["runs"]))
    return float(over.min()), float(over.max())


def table(found: list[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| board | precision | cores | engine | predicted, ms | published, ms |", "|---|---|---|---|---|---|"]
    for row in found:
        time = "" if row.predicted is None else f"{row.predicted:.1f}"
        title = targets.load(row.board).title.removeprefix("Raspberry ")
        cells = title, row.dtype, row.cores, row.engine, time, ", ".join(f"{ms:.1f}" for ms in row.published)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def own_table() -> str:
    """Our own predictions as Markdown: a row for each board and number of cores."""
    kept = json.loads(TABLE.read_text(encoding="utf-8"))["ours"]
    known = {(r["model"], r["board"], r["dtype"], r["cores"]): r["ms"] for r in kept}
    columns = [(model, dtype) for model, dtypes in MODELS.items() for dtype in dtypes]
    heads = [f"{model} {dtype}" for model, dtype in columns]
    lines = [f"| predicted, ms | cores | {' | '.join(heads)} |", "|---" * (2 + len(columns)) + "|"]
    for board in BOARDS:
        for cores in CORES:
            times = [known.get((model, board, dtype, cores)) for model, dtype in columns]
            cells = ["" if time is None else f"{time:.1f}" for time in times]
            title = targets.load(board).title.removeprefix("Raspberry ")
            lines.append(f"| {title} | {cores} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str, between: str) -> str:
    """A page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}{between}\n{END}{rest.partition(END)[2]}"


def predict(model: str, board: str, dtype: str) -> list[dict]:
    """Our own figures for a board: built with the shipped decisions, executed on the virtual board."""
    import tvm_mobilenet as tm

    found = tm.compile(model, board, dtype=dtype, progress=False).latency(CORES).milliseconds
    row = {"model": model, "board": board, "dtype": dtype}
    return [{**row, "cores": n, "ms": round(ms, 2)} for n, ms in found.items()]


def keep(kept: dict) -> None:
    """Writes the table, one row a line."""
    lists = (
        f'"{name}": [\n' + ",\n".join(map(json.dumps, kept[name])) + "]" for name in ("ours", "peers", "published")
    )
    work = TABLE.with_suffix(".tmp")
    work.write_text(f'{{"about": {json.dumps(kept["about"])},\n' + ",\n".join(lists) + "}\n", encoding="utf-8")
    work.replace(TABLE)


def main(argv: list[str] | None = None) -> int:
    from benchmarks.latency_chart import draw

    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__.split("\n")[0])
    parser.add_argument("--again", nargs="*", metavar="BOARD", help="predict ours again, of these boards or of all")
    args = parser.parse_args(argv)
    if args.again is not None:
        if unknown := [board for board in args.again if board not in BOARDS]:
            parser.error(f"--again {unknown[0]}: known are {', '.join(BOARDS)}")
        kept = json.loads(TABLE.read_text(encoding="utf-8"))
        for board in args.again or BOARDS:
            for model, dtype in ((m, d) for m, dtypes in MODELS.items() for d in dtypes if d in BOARDS[board]):
                print(f"{model}, {board}, {dtype} ...", file=sys.stderr, flush=True)
                others = [r for r in kept["ours"] if (r["model"], r["board"], r["dtype"]) != (model, board, dtype)]
                kept["ours"] = others + predict(model, board, dtype)
                keep(kept)
    found = rows()
    CHART.write_text(draw(found, board_over_predicted()), encoding="utf-8")
    for path, between in ((PAGE, table(found)), (README, own_table())):
        path.write_text(page(path.read_text(encoding="utf-8"), between), encoding="utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
