"""What the logs know of a network's layers, without tuning: ``tune --list`` and ``--dry-run``."""

from __future__ import annotations

from . import console, tuning
from .layer import title
from .tuning import Work


def print_known(network, work: Work, as_json: bool) -> None:
    """What is known of each layer (``--list``, ``--dry-run``)."""
    from .search import Search

    searching = Search(work.searches, work.near, lambda record, best: None)
    tuning.resume(work, searching)
    rows = []
    for name, s in work.searches.items():
        known = work.known.get(name)
        record = known.record if known else None
        rows.append(
            {
                "layer": name,
                "count": s.count,
                "points": s.size,
                "trials": len(s.tried),
                "floor": s.floor,
                "cost": record and record.cost,
                "predicted": record and record.predicted,
                "source": str(known.source) if known else "default",
                "decisions": record.decisions if record else s.space.default,
            }
        )
    if as_json:
        console.print_json(rows)
        return
    console.print_table(
        ("layer", "count", "points", "trials", "cost", "x floor", "known from"),
        [
            (
                title(r["layer"]),
                r["count"],
                r["points"],
                r["trials"],
                r["cost"],
                r["cost"] / r["floor"] if r["cost"] and r["floor"] else None,
                r["source"],
            )
            for r in rows
        ],
        f"{len(network.layers)} layers, {len(rows)} of them distinct",
    )
