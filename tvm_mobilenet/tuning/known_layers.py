"""The state of each layer of a network in the logs, as ``tune --list`` and ``--dry-run`` print it."""

from __future__ import annotations

from pathlib import Path

from tvm_mobilenet.terminal import console
from tvm_mobilenet.terminal.table import Detail, Layers
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.search import Search
from tvm_mobilenet.tuning.session import Work


def print_known(work: Work, as_json: bool) -> None:
    """Print the state of each layer (``--list``, ``--dry-run``)."""
    searching = Search(work.searches, work.near, lambda record, best: None)
    tuning.resume(work, searching)
    rows = [row_of(s, work.known.get(name)) for name, s in work.searches.items()]
    console.print_json(rows) if as_json else print_rows(rows, sum(row["count"] for row in rows))


def row_of(search, known) -> dict:
    """The state of one layer: a `tune_logs.log.Known` or None, and its search."""
    record = known.record if known else None
    return {
        "layer": search.name,
        "count": search.count,
        "points": search.size,
        "trials": len(search.tried),
        "floor": search.floor,
        "cost": record and record.cost,
        "predicted": record and record.predicted,
        "source": str(known.source) if known else "default",
        "decisions": record.decisions if record else search.space.default,
    }


def print_rows(rows: list[dict], layers: int) -> None:
    """Print the table of ``--list``; ``layers`` is the number of layers of the network."""
    console.print_table(
        (Layers("layer"), "count", Detail("points"), "trials", "cost", "% of peak", "known from"),
        [
            (
                r["layer"],
                r["count"],
                r["points"],
                r["trials"],
                r["cost"],
                f"{100 * r['floor'] / r['cost']:.1f}" if r["cost"] and r["floor"] else "-",
                Path(r["source"]).name,
            )
            for r in rows
        ],
        f"{layers} layers, {len(rows)} of them distinct",
    )
