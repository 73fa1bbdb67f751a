"""A sweep as text: its table for reading, and a CSV with one row for each network."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.survey import budget
from tvm_mobilenet.terminal import console

RUNNING_SHOWN = 4  # networks


def show_in(progress: console.Progress):
    """The display of a sweep's progress, for ``survey.estimates.estimate_networks``."""

    def show(estimated: int, networks: int, running: list[str], pace: object) -> None:
        more = f" and {len(running) - RUNNING_SHOWN} more" * (len(running) > RUNNING_SHOWN)
        told = f"; running {', '.join(running[:RUNNING_SHOWN])}{more}" * bool(running)
        progress.update(lambda: f"{estimated} of {networks} networks done{told}; {pace}")

    return show


def pareto(networks: Sequence, cores: int) -> list:
    """The Pareto front: networks that no other beats in both latency and published accuracy, the fastest first. It
    covers all dtypes, each with the accuracy of its float32 network."""
    front: list = []
    known = [n for n in networks if n.top1 is not None]
    for network in sorted(known, key=lambda n: (n.latency(cores), -n.top1)):
        if not front or network.top1 > front[-1].top1:
            front.append(network)
    return front


def rows_of(result) -> tuple[tuple[str, ...], list[tuple]]:
    """The headings and rows of the table."""
    columns = (
        "network",
        "ms, 1 core",
        f"ms, {result.cores} cores",
        "mult-adds, M",
        "parameters, M",
        "module, MB",
        "memory, MB",
        f"top-1{' of float32' * any(budget.of_float32(v) for v in result.networks)}, %",
    )
    return columns, [
        (
            v.title,
            v.milliseconds,
            v.milliseconds_all_cores,
            v.mult_adds / 1e6,
            v.parameters / 1e6,
            v.module_bytes / 1e6,
            v.memory_bytes / 1e6,
            None if v.top1 is None else round(100 * v.top1, 1),
        )
        for v in result.networks
    ]


def label_of(result) -> str:
    """The board of the latencies, and how they were found."""
    how = "predicted" if all(v.predicted for v in result.networks) else "measured"
    dtypes = {v.dtype for v in result.networks}
    whose = "; top-1 is of float32, whatever the dtype" if dtypes != {FLOAT32} else ""
    return f"{result.title} ({result.cores} x {result.core}), {result.board} board, latencies {how}{whose}"


def print_result(result) -> None:
    """The table of networks, and of the twins."""
    console.print_table(*rows_of(result), label_of(result))
    if len({v.dtype for v in result.networks}) > 1 and (front := pareto(result.networks, 1)):
        names = ", ".join(v.title for v in front)
        console.print_text(
            "front     of all dtypes by float32's published top-1; on one core no network is both faster and more "
            f"accurate: {names}",
            indent=10,
        )
    if result.twins:
        console.print_table(
            ("network", "x mult-adds", "x time, 1 core", f"x time, {result.cores} cores"),
            [(t.model, t.mult_adds, t.one_core, t.all_cores) for t in result.twins],
            "\ncost with standard convolutions, as a multiple of the depthwise separable network's",
        )


def write_csv(result, path: Path) -> None:
    """Write one row for each network, in base units, with the source of its accuracy."""
    names = [f.name for f in dataclasses.fields(result.networks[0])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("target", "board", *names))
    writer.writerows((result.target, result.board, *(getattr(v, n) for n in names)) for v in result.networks)
    write_whole(path, text.getvalue(), "--csv")
