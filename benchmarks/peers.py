"""The table of targets: this tree beside LiteRT, ncnn, ONNX Runtime and the floor, on three cores.

    python -m benchmarks.peers                                  # this tree, by our own core model and caches
    python -m benchmarks.peers --harness DIR                    # A72 and N1 as the peers were measured, too
    python -m benchmarks.peers --harness DIR --again ncnn ncnn_fp16     # runs peers once more, too
    python -m benchmarks.peers --dtype float16                  # rows and columns of one dtype alone

Our own rows are always measured: the network is built with the decisions that ship, run on the virtual board, and its
caches followed on a second pass, when they are warm. In float16 that is the Pi 5's network, and the peer ncnn's own
float16; its floor stays that of float32, so that rows compare. Peers' rows are kept in ``benchmarks/data/peers.json``.
A harness is a folder with ``armcost.py``, ``apy.sh``, ``runners/`` and ``models/v1.onnx``: an aarch64 Python under
qemu-aarch64, a plugin that counts blocks and simulates caches, llvm-mca 19 for estimates. With one, our module for the
Pi 4 and the Pi 5 is executed and estimated as the peers: as the bundle that goes to devices, and by TVM's own runtime,
which lays out memory itself. There is no Cortex-A53 in llvm-mca that ranks kernels rightly (docs/predictor.md), so its
column is our own core model's in any case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "data" / "peers.json"
BOARDS = {"rpi4": "A72", "rpi5": "N1", "rpi3": "A53"}
CPU = {"rpi4": "cortex-a72", "rpi5": "neoverse-n1"}
# x floor, L1 misses in M, DRAM fills in MB: what this project set out for.
TARGETS = {
    "float32": {"rpi4": (1.045, 2.4, 38.0), "rpi5": (1.06, 2.0, 28.0), "rpi3": (1.40, 2.8, 44.0)},
    "float16": {"rpi5": (0.54, 1.0, 14.0)},
}
COLUMNS = (("rpi4", "float32"), ("rpi5", "float32"), ("rpi3", "float32"), ("rpi5", "float16"))  # board and dtype
MORE = (  # networks beside v1, and what this project set out for, x float32 floor
    ({"model": "v2"}, " (target in float16: 0.58)"),
    ({"model": "v3-large"}, " (target in float16: 0.64)"),
    ({"alpha": 0.25, "resolution": 128}, ""),
)
HALVES = 7  # multiply-adds an instruction at least, of a network in vectors of eight halves
SMALL = 1e6  # multiply-adds of a layer whose balance does not count
FLOOR = 568.740352e6  # multiply-adds of MobileNet v1 1.0-224


@dataclass(frozen=True)
class Row:
    """One network on one core.

    Parameters
    ----------
    floor : float
        Cycles of arithmetic over those of its multiply-adds at the full rate of float32.
    l1_misses : float
        Millions of lines a pass.
    dram_fills : float
        Megabytes a pass.
    pointwise : (float, float)
        Mean and worst of the pointwise layers that are kernels of their own, over the floors of their dtype.
    depthwise : float
        Cycles a vector fmla of the worst depthwise layer that is one.
    balance : float
        The longest of four cores' shares over their mean, of the worst convolution, product or fused block of more
        than a million multiply-adds.
    code_bytes : int
        Instructions and read-only data of the whole module.
    build_seconds : float
        From the imported network to the module.
    """

    floor: float
    l1_misses: float
    dram_fills: float
    pointwise: tuple[float, float]
    depthwise: float
    balance: float
    code_bytes: int
    build_seconds: float


def measure(board: str, options) -> Row:
    """A network (``ModelOptions``) of the registry, built with the decisions that ship and run on a virtual board."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.build import build
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.survey.estimates import code_bytes

    target = targets.load(board)
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        network = load_network(options)
        start = time.monotonic()
        build(options, target, output=Path(folder), network=network)
        seconds = time.monotonic() - start
        module = built.read(folder)
        layers = {step.symbol: Layer.parse(step.layer) for step in module.plan.steps}
        with open_board("virtual", target).load(module.library) as loaded:
            runner = PlanRunner(loaded, module.plan, module.parameters())
            batch = network.inputs(1)[0]
            plain = runner.run(*batch).kernels
            warm = [runner.run(*batch, memory=True).kernels for _ in range(2)][1]
        size = code_bytes(module.library)
    rates = {la.dtype: target.core.macs_per_cycle(la.dtype) for la in layers.values()}
    cycles = [float(k.cycles_on(1).value) for k in plain]
    shares = [float(k.cycles_on(4).value) * 4 for k in plain]
    ran = [layers[k.symbol] for k in plain]
    over = [
        (la, c / (la.mult_adds / rates[la.dtype]), s / c)
        for la, c, s in zip(ran, cycles, shares, strict=True)
        if la.mult_adds
    ]
    points = [x for la, x, _ in over if la.kind == "pointwise"]
    return Row(
        sum(cycles) / (sum(la.mult_adds for la in ran) / target.core.macs_per_cycle("float32")),
        sum(k.traffic.fills[0] for k in warm) / 1e6,
        sum(k.traffic.fills[-1] for k in warm) * 64 / 1e6,
        (sum(points) / len(points), max(points)),
        max((x / target.core.fma_per_cycle for la, x, _ in over if la.kind == "depthwise"), default=0.0),
        max((b for la, _, b in over if la.kind != "dense" and la.mult_adds > SMALL), default=1.0),
        size,
        seconds,
    )


@dataclass(frozen=True)
class Executed:
    """Our module as the peers were measured; of each: x floor, L1 misses in M, DRAM fills in MB.

    ``outside``: instructions outside kernels, as a part of all that a pass in TVM's runtime executes. The harness
    counts those of the whole process, the virtual board those of the kernels.
    """

    bundle: tuple[float, float, float]
    by_tvm: tuple[float, float, float]
    outside: float


def by_harness(harness: Path, board: str, dtype: str) -> Executed:
    """Build, pack and run our module there."""
    import numpy as np

    from tvm_mobilenet import targets
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.build import build
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.models.options import ModelOptions

    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        model = ModelOptions(model=str(harness / "models" / "v1.onnx"), dtype=dtype)
        packed = Path(folder) / "bundle"
        build(model, targets.load(board), output=Path(folder), bundle=packed, tvm_executable=True)
        by_tvm, instructions = _estimated(
            harness,
            "tvm_mobilenet",
            board,
            ["./apy.sh", "runners/run_tvm.py", "{n}", str(Path(folder) / built.EXECUTABLE)],
        )
        run = f'exec setarch -R qemu-aarch64 -cpu $CPU -L {harness}/sysroot-$CPU $QEMU_EXTRA "$@"'
        program = [str(packed / "mobilenet"), "bench", "--threads", "1", "--runs", "{n}"]
        bundle, _ = _estimated(harness, "bundle", board, ["sh", "-c", run, "sh", *program])
        module = built.read(folder)
        with open_board("virtual", targets.load(board)).load(module.library) as loaded:
            inputs = [np.zeros(t.shape, t.dtype) for _, t in module.plan.inputs]
            ran = PlanRunner(loaded, module.plan, module.parameters()).run(*inputs).kernels
        return Executed(bundle, by_tvm, 1 - sum(k.instructions for k in ran) / instructions)


def again(harness: Path, runner: str, board: str) -> tuple[float, float, float]:
    """A peer, run once more; behind ``_`` stands what its runner is told, as in ``ncnn_fp16``.

    Raises
    ------
    SystemExit
        It was told to compute in halves, and its multiply-adds are of four values each, not of eight.
    """
    name, _, told = runner.partition("_")
    found, _ = _estimated(harness, runner, board, ["./apy.sh", f"runners/run_{name}.py", "{n}", *([told] * bool(told))])
    ran = json.loads((harness / "out" / f"{runner}.{CPU[board]}.json").read_text(encoding="utf-8"))
    if told == "fp16" and ran["macs_executed"] < HALVES * ran["fma"]:
        each = ran["macs_executed"] / ran["fma"]
        raise SystemExit(f"{runner} on {board}: {each:.1f} multiply-adds an instruction: it ran in float32")
    return found


def _estimated(harness: Path, name: str, board: str, command: list[str]) -> tuple[tuple[float, float, float], float]:
    """Figures as ``by_harness`` has them, and executed instructions of a pass."""
    environment = {**os.environ, "ARMCOST_WORK": str(harness)}
    environment.pop("PYTHONPATH", None)
    arguments = ["run", "--name", name, "--cpu", CPU[board], "--cache", "--", *command]
    done = subprocess.run(
        [sys.executable, "armcost.py", *arguments], cwd=harness, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} for {board} in {harness}: exit code {done.returncode}: {done.stderr.strip()[-800:]}")
    found = json.loads((harness / "out" / f"{name}.{CPU[board]}.json").read_text(encoding="utf-8"))
    return (found["cycles"] / found["bound"], found["l1miss"] / 1e6, found["dram_mb"]), found["instructions"]


def table(rows: dict[str, dict[str, tuple[float, float, float]]], boards=tuple(BOARDS), dtype: str = "float32") -> str:
    """Rows by name, each with what is known by board, as Markdown."""
    lines = [
        f"| v1 1.0-224 {dtype}, one core | "
        + " | ".join(f"{BOARDS[board]}: x float32 floor | L1 misses, M | DRAM fills, MB" for board in boards)
        + " |",
        "|---|" + "---|" * 3 * len(boards),
    ]
    for name, known in rows.items():
        cells = []
        for board in boards:
            floor, misses, fills = known.get(board, (None,) * 3)
            cells += [f"{floor:.3f}", f"{misses:.2f}", f"{fills:.1f}"] if floor else [""] * 3
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layers_table(measured: dict[tuple[str, str], Row], others: dict[str, dict[tuple[str, str], float]]) -> str:
    """What the layers of v1 reach on each core in each dtype, and other networks over their floors of float32."""

    def line(name: str, cell) -> str:
        return f"| {name} | " + " | ".join(cell(board) for board in measured) + " |"

    lines = [
        "| by our core model | " + " | ".join(f"{BOARDS[board]} {dtype}" for board, dtype in measured) + " |",
        "|---|" + "---|" * len(measured),
        line(
            "pointwise layers, x floor: mean (worst)",
            lambda b: f"{measured[b].pointwise[0]:.3f} ({measured[b].pointwise[1]:.3f})",
        ),
        line("depthwise layers, cycles a vector fmla: worst", lambda b: f"{measured[b].depthwise:.2f}"),
        line(
            "four cores, longest share over mean: worst layer above 1 M multiply-adds",
            lambda b: f"{measured[b].balance:.3f}",
        ),
        line("code without weights, KB", lambda b: f"{measured[b].code_bytes / 1e3:.0f}"),
        line("build, seconds", lambda b: f"{measured[b].build_seconds:.1f}"),
    ]
    lines += [
        line(f"{model}, x float32 floor", lambda b, known=known: f"{known[b]:.3f}") for model, known in others.items()
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--harness", type=Path, metavar="DIR", help="estimate A72 and N1 as the peers were, there")
    parser.add_argument(
        "--again", nargs="*", default=[], metavar="PEER", help="litert, ncnn, ncnn_fp16, ort: once more"
    )
    parser.add_argument("--dtype", choices=sorted(TARGETS), help="of this dtype alone (default: both)")
    args = parser.parse_args(argv)
    if args.again and not args.harness:
        parser.error("--again needs --harness")
    if args.harness and not (args.harness / "armcost.py").is_file():
        parser.error(f"--harness {args.harness}: no armcost.py in it")
    from tvm_mobilenet.models.options import ModelOptions

    harness = args.harness and args.harness.resolve()
    columns = [column for column in COLUMNS if args.dtype in (None, column[1])]
    measured = {column: _measured(column) for column in columns}
    for dtype in dict.fromkeys(dtype for _, dtype in columns):
        boards = tuple(board for board, of in columns if of == dtype)
        print(table(_rows(dtype, boards, measured, harness, args.again), boards, dtype) + "\n")
    more = {
        ModelOptions(**of).title + target: {column: _measured(column, **of).floor for column in columns}
        for of, target in MORE
    }
    print(layers_table(measured, more))
    return 0


def kept(dtype: str) -> dict[str, dict]:
    """The peers' rows of a dtype, as they are kept."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return {name: row for name, row in rows.items() if row.get("dtype", "float32") == dtype}


def _measured(column: tuple[str, str], **of) -> Row:
    from tvm_mobilenet.models.options import ModelOptions

    board, dtype = column
    options = ModelOptions(**of, dtype=dtype)
    print(f"{options.title} on {board} ...", file=sys.stderr, flush=True)
    return measure(board, options)


def _rows(dtype: str, boards: tuple[str, ...], measured: dict, harness: Path | None, once_more: list[str]) -> dict:
    """The rows of a dtype's table: peers, targets, this tree."""
    rows = {name: {b: tuple(row[b]) for b in CPU if b in row} for name, row in kept(dtype).items()}
    for name, row in kept(dtype).items():
        if row["runner"] and row["runner"] in once_more:
            rows[name] = {b: again(harness, row["runner"], b) for b in rows[name]}
    rows["targets"] = TARGETS[dtype]
    own = {b: measured[b, dtype] for b in boards}
    rows["this tree, by our core model"] = {b: (r.floor, r.l1_misses, r.dram_fills) for b, r in own.items()}
    if harness:
        found = {b: by_harness(harness, b, dtype) for b in CPU if b in boards}
        rows["this tree, estimated as the peers"] = {b: ran.bundle for b, ran in found.items()}
        rows["the same by TVM's own runtime"] = {b: ran.by_tvm for b, ran in found.items()}
        for b, ran in found.items():
            print(f"executed instructions outside kernels on {BOARDS[b]}: {ran.outside:.2%}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    sys.exit(main())
