"""Estimate published board times of other libraries by this project's core and memory model, from their machine code.

    python -m benchmarks.board_times                                   # estimates the recorded runs
    python -m benchmarks.board_times --harness DIR --again             # executes all peers again and records that
    python -m benchmarks.board_times --harness DIR --again ncnn a53 4  # one of them

MobileNet v1 1.0-224, float32. A peer's public aarch64 wheel is executed under qemu-aarch64 with the core that is
estimated (``-cpu``, ``/proc/cpuinfo`` and ``/sys`` of its board, so that the library chooses its own kernels for it),
on one thread and on four. ``executed.c`` counts blocks, branches and traffic of the second and third pass by thread;
their mean is kept, in slices of equal time. A slice is one ``Part`` of ``memory_time``: its threads' compute cycles by
``CoreModel``, their traffic below L1, the shared L2's traffic with DRAM, and ``exposed``, as for a layer of this
project.

Rows and runs are ``benchmarks/data/board_times.json``. ``benchmarks.harness`` describes a harness's folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import executed
from tvm_mobilenet import targets
from tvm_mobilenet.boards.cost.memory_time import part_time
from tvm_mobilenet.boards.virtual.kernel_run import Counts, Part
from tvm_mobilenet.boards.virtual.memory import LINE, Traffic

TABLE = Path(__file__).parent / "data" / "board_times.json"
PASSES = Path(__file__).with_name("peer_passes.py")
CORES = {"a53": "rpi3", "a72": "rpi4"}  # each with a board that has it
PEERS = ("ncnn", "litert")
THREADS = (1, 4)
SLICE = 2_000_000  # executed instructions of a slice for one thread; several threads share them
# The identity of a Pi 3's A53, to replace that of the harness's Pi 4: part, revision, main identity, clock in kHz.
PI3 = (("0xd08", "0xd03"), ("CPU revision\t: 3", "CPU revision\t: 4"), ("410fd083", "410fd034"), ("1500000", "1200000"))


# ---- executed


def again(harness: Path, peer: str, name: str, threads: int) -> dict:
    """Execute a peer for a core and estimate its compute cycles; return a run for the table."""
    core = targets.load(CORES[name]).core
    root = harness / "arm64"
    variables = {
        "PYTHONPATH": f"{harness}/site:{root}/site",
        "PYTHONHOME": f"{root}/usr",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": 1,
        "OMP_WAIT_POLICY": "passive",
        "LD_LIBRARY_PATH": f"{root}/site/ncnn.libs",
    }
    emulator = ["setarch", "-R", "qemu-aarch64", "-cpu", core.llvm_cpu, "-L", str(_system(harness, core.llvm_cpu))]
    emulator += [word for key, value in variables.items() for word in ("-E", f"{key}={value}")]
    command = [str(root / "usr" / "bin" / "python3.11"), str(PASSES), peer, str(threads)]
    with tempfile.TemporaryDirectory(prefix="board-times-") as folder:
        output = Path(folder) / "counts"
        said = executed.run(
            executed.plugin(Path(folder)),
            core,
            emulator,
            command,
            output,
            SLICE // threads,
            env={**os.environ, "ARMCOST_WORK": str(harness)},
        )
        found = executed.read(output)
    check = next((line for line in said.splitlines() if line.startswith("CHECK")), "")
    if "argmax=1" not in check:
        raise SystemExit(f"{peer} for {name}: its output is not PyTorch's: {check or said[-500:]}")
    return {
        "peer": peer,
        "core": core.name,
        "threads": threads,
        "check": check.removeprefix("CHECK "),
        "model": model_of(core),
        **summary(found, core, 2),
    }


def model_of(core) -> str:
    """A hash of the core's figures that estimate compute cycles; a recorded run names the hash of its figures."""
    figures = {k: v for k, v in core.model.items() if k not in ("memory", "calls")}
    return hashlib.sha256(json.dumps([core.in_order, figures], sort_keys=True).encode()).hexdigest()[:12]


def _system(harness: Path, cpu: str) -> Path:
    """The folder with the board's ``/proc`` and ``/sys``; a Pi 3's is made from the harness's Pi 4."""
    path = harness / f"sysroot-{cpu}"
    if cpu == "cortex-a53" and not path.is_dir():
        work = path.with_suffix(".tmp")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(harness / "sysroot-cortex-a72", work, symlinks=True)
        for file in (*(work / "proc").rglob("*"), *(work / "sys").rglob("*")):
            if file.is_file():
                text = file.read_text(encoding="ascii")
                for old, new in PI3:
                    text = text.replace(old, new)
                file.write_text(text, encoding="ascii")
        work.rename(path)
    return path


def summary(found: executed.Execution, core, passes: int) -> dict:
    """For each slice and thread of a pass: compute cycles, bytes below L1 and bytes of DRAM, in thousands."""
    names = sorted({t for threads in found.slices.values() for t in threads})
    slices, instructions = [], 0
    for number in sorted(found.slices):
        row = []
        for thread in names:
            part = found.slices[number].get(thread, executed.Slice())
            instructions += found.instructions(part)
            row.append([round(v / passes / 1e3) for v in (found.cycles(part, core), *part.traffic.bytes)])
        slices.append(row)
    return {"instructions": round(instructions / passes), "gave_up": found.gave_up, "slices": slices}


# ---- estimated


def parts(run: dict, together: int = 1) -> list[tuple[Part, list[float]]]:
    """A run's slices as parts of a kernel, and their tasks' compute cycles; ``together`` slices form one part."""
    every = np.array(run["slices"], float) * 1e3  # (slices, threads, 3)
    found = []
    for k in range(0, len(every), together):
        cycles, inner, dram = every[k : k + together].sum(axis=0).T
        empty = np.zeros(0, np.int64)
        ran = [
            Counts(
                0,
                empty,
                empty,
                traffic=Traffic((a / LINE, b / LINE), (0.0, 0.0)),
                private=Traffic((a / LINE, 0.0), (0.0, 0.0)),
            )
            for a, b in zip(inner, dram, strict=True)
        ]
        shared = Traffic((0.0, dram.sum() / LINE), (0.0, 0.0))
        found.append((Part("parallel" if len(ran) > 1 else "serial", ran, len(ran), shared=shared), list(cycles)))
    return found


def target_of(row: dict, exposed: float | None = None):
    """The board of a row at the row's clock, optionally with another ``exposed`` than its core's."""
    target = targets.load(row["board"])
    if exposed is not None:
        memory = {**target.core.model["memory"], "exposed": exposed}
        core = dataclasses.replace(target.core, model={**target.core.model, "memory": memory})
        target = dataclasses.replace(target, core=core)
    return dataclasses.replace(target, clock_hz=row["clock_hz"])


def estimated(row: dict, run: dict, exposed: float | None = None, together: int = 1) -> tuple[float, float, float]:
    """Milliseconds of a row: predicted, and compute and traffic alone of the longest threads."""
    target = target_of(row, exposed)
    times = [
        part_time(part, costs, None, row["threads"], target.core, target, True) for part, costs in parts(run, together)
    ]
    return tuple(1e3 / target.clock_hz * sum(getattr(t, k) for t in times) for k in ("whole", "compute", "memory"))


def run_of(row: dict, runs: list[dict]) -> dict:
    """The run that estimates a row."""
    core = targets.load(row["board"]).core.name
    wanted = row["peer"], core, row["threads"]
    for run in runs:
        if (run["peer"], run["core"], run["threads"]) == wanted:
            return run
    raise SystemExit(f"no run of {wanted} in {TABLE.name}: python -m benchmarks.board_times --harness DIR --again")


def errors(rows: list[dict], runs: list[dict], exposed: float | None = None) -> np.ndarray:
    """Predicted over published time of each row, minus one."""
    return np.array([estimated(r, run_of(r, runs), exposed)[0] / r["ms"] - 1 for r in rows])


def halves(rows: list[dict], runs: list[dict]) -> list[tuple[float, float, float]]:
    """For every way to halve the rows: the ``exposed`` of 0 to 1, one for all cores, that fits one half best.

    The result also has the mean error without sign of the fitted half and of the other one.
    """
    tried = np.linspace(0, 1, 21)
    off = np.abs([errors(rows, runs, exposed) for exposed in tried])  # (tried, rows)
    found = []
    for half in itertools.combinations(range(len(rows)), len(rows) // 2):
        other = [k for k in range(len(rows)) if k not in half]
        best = int(off[:, half].mean(axis=1).argmin())
        found.append((tried[best], off[best, half].mean(), off[best, other].mean()))
    return found


# ---- printed


def rows_table(rows: list[dict], runs: list[dict]) -> str:
    """Every row with its prediction, as Markdown."""
    lines = [
        "| peer | threads | board, clock | board, ms | arithmetic | memory | predicted, ms | error |"
        " memory the board implies |",
        "|---|" + "---|" * 8,
    ]
    for row in rows:
        whole, compute, memory = estimated(row, run_of(row, runs))
        lines.append(
            f"| {row['peer']} | {row['threads']} | {row['board']}, {row['clock_hz'] / 1e9:.1f} GHz | {row['ms']:g} | "
            f"{compute:.1f} | {memory:.1f} | {whole:.1f} | {whole / row['ms'] - 1:+.0%} | "
            f"{(row['ms'] - compute) / memory:.2f} x |"
        )
    return "\n".join(lines)


def runs_table(runs: list[dict]) -> str:
    """The executed runs, as Markdown."""
    lines = [
        "| peer | core | threads | instructions, M | arithmetic, M cycles: all, longest | balance | below L1, MB |"
        " DRAM, MB | slices |",
        "|---|" + "---|" * 8,
    ]
    for run in runs:
        every = np.array(run["slices"], float) * 1e3
        cycles, inner, dram = every.sum(axis=0).sum(axis=0) / 1e6
        longest = every[:, :, 0].max(axis=1).sum() / 1e6
        lines.append(
            f"| {run['peer']} | {run['core']} | {run['threads']} | {run['instructions'] / 1e6:.1f} | "
            f"{cycles:.1f}, {longest:.1f} | {longest * run['threads'] / cycles:.2f} | {inner:.0f} | {dram:.0f}"
            f" | {len(every)} |"
        )
    return "\n".join(lines)


def halves_text(rows: list[dict], runs: list[dict]) -> str:
    """A text of the error of ``exposed`` on rows to which it was not fitted."""
    exposed, fitted, other = np.array(halves(rows, runs)).T
    as_is = np.abs(errors(rows, runs))
    return (
        f"Mean error of all rows, exposed as the cores' files have it: {as_is.mean():.0%}. Fitted on half of the "
        f"rows, in all {len(exposed)} ways to halve them: exposed {np.median(exposed):.2f} in the median, "
        f"{exposed.min():.2f} to {exposed.max():.2f}; mean error of the fitted half {fitted.mean():.0%}, of the "
        f"other half {other.mean():.0%}, {other.min():.0%} to {other.max():.0%}."
    )


def coarser_table(rows: list[dict], runs: list[dict]) -> str:
    """Predictions with several slices as one part, up to the whole network."""
    steps = (1, 4, 16, 10**6)
    lines = [
        "| peer, threads, board | " + " | ".join(f"{k} slices" if k < 10**6 else "all" for k in steps) + " |",
        "|---|" + "---|" * len(steps),
    ]
    for row in rows:
        cells = [f"{estimated(row, run_of(row, runs), together=k)[0]:.1f}" for k in steps]
        lines.append(f"| {row['peer']}, {row['threads']}, {row['board']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def keep(kept: dict) -> None:
    """Write the table, with one row or slice in each line."""
    runs = []
    for run in kept["runs"]:
        head = json.dumps({k: v for k, v in run.items() if k != "slices"})[:-1]
        runs.append(f'{head}, "slices": [\n' + ",\n".join(map(json.dumps, run["slices"])) + "]}")
    text = (
        f'{{"about": {json.dumps(kept["about"])},\n"rows": [\n'
        + ",\n".join(map(json.dumps, kept["rows"]))
        + '],\n"runs": [\n'
        + ",\n".join(runs)
        + "]}\n"
    )
    work = TABLE.with_suffix(".tmp")
    work.write_text(text, encoding="utf-8")
    work.replace(TABLE)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.board_times", description=__doc__.split("\n")[0])
    parser.add_argument("--harness", type=Path, metavar="DIR", help="where the peers can be executed")
    parser.add_argument("--again", nargs="*", metavar="WHICH", help="of ncnn, litert, a53, a72, 1, 4; all if none")
    args = parser.parse_args(argv)
    kept = json.loads(TABLE.read_text(encoding="utf-8"))
    if args.again is not None:
        known = {*PEERS, *CORES, *map(str, THREADS)}
        if unknown := [w for w in args.again if w not in known]:
            parser.error(f"--again {unknown[0]}: known are {', '.join(sorted(known))}")
        if not args.harness:
            parser.error("--again needs --harness")
        if not (args.harness / "runners" / "common.py").is_file():
            parser.error(f"--harness {args.harness}: no runners/common.py in it")
        for peer in [p for p in PEERS if p in args.again] or PEERS:
            for core in [c for c in CORES if c in args.again] or CORES:
                for threads in [t for t in THREADS if str(t) in args.again] or THREADS:
                    print(f"{peer} on {core}, {threads} threads ...", file=sys.stderr, flush=True)
                    run = again(args.harness.resolve(), peer, core, threads)
                    same = [(r["peer"], r["core"], r["threads"]) == (peer, run["core"], threads) for r in kept["runs"]]
                    kept["runs"] = [r for r, s in zip(kept["runs"], same, strict=True) if not s] + [run]
                    kept["runs"].sort(key=lambda r: (r["core"], r["peer"], r["threads"]))
                    keep(kept)
    for run in kept["runs"]:
        if run["model"] != model_of(targets.load(CORES[run["core"].removeprefix("cortex-")]).core):
            print(
                f"{run['peer']}, {run['core']}, {run['threads']}: its arithmetic is of another core file than "
                "today's; execute it --again",
                file=sys.stderr,
            )
    for table in (
        runs_table(kept["runs"]),
        *(t(kept["rows"], kept["runs"]) for t in (rows_table, halves_text, coarser_table)),
    ):
        print(table + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
