"""A sweep as text: its table for people, and one row a network for spreadsheets."""

from __future__ import annotations

import csv
import dataclasses
import io
from pathlib import Path

from tvm_mobilenet.files.whole_file import write_whole
from tvm_mobilenet.terminal import console


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
        "top-1, %",
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
    """Where and how the latencies were found."""
    how = "predicted" if all(v.predicted for v in result.networks) else "measured"
    return f"{result.title} ({result.cores} x {result.core}), {result.board} board, latencies {how}"


def print_result(result) -> None:
    """The table of networks, and of the twins."""
    console.print_table(*rows_of(result), label_of(result))
    if result.twins:
        console.print_table(
            ("network", "x mult-adds", "x time, 1 core", f"x time, {result.cores} cores"),
            [(t.model, t.mult_adds, t.one_core, t.all_cores) for t in result.twins],
            "\nhow many times dearer with plain convolutions",
        )


def write_csv(result, path: Path) -> None:
    """One row a network, in plain units, with the source of its accuracy."""
    names = [f.name for f in dataclasses.fields(result.networks[0])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("target", "board", *names))
    writer.writerows((result.target, result.board, *(getattr(v, n) for n in names)) for v in result.networks)
    write_whole(path, text.getvalue(), "--csv")
