"""Tables that compare this tree with LiteRT, ncnn, ONNX Runtime, targets and the floor, in three dtypes.

    python -m benchmarks.peers                                  # this tree, by our own core model and caches
    python -m benchmarks.peers --dtype int8                     # of one dtype alone: float32, float16 or int8
    python -m benchmarks.peers --dtype int8 --harness DIR       # A72 and N1 executed as the peers were, too
    python -m benchmarks.peers --harness DIR --again ncnn       # runs the peers with that name once more, too
    python -m benchmarks.peers --models v1 --cores A72          # one network, one core
    python -m benchmarks.peers --dtype float32 --harness DIR --again litert ncnn onnx --peers-only   # peers of float32

It prints a table of each network beside the peers, then one of all layers with their cycles and the load balance of
four cores. Our own rows are always made again: the network is built with the decisions that ship and run on the virtual
board, and a second pass with warm caches counts. Floors are those of float32 for every dtype, so that rows compare.
Peers' rows are kept in ``benchmarks/data/peers.json``. With a harness (``benchmarks/harness.py``), the bundle of the
same build for the Pi 4 and the Pi 5 is executed and estimated like the peers, and in float32 also TVM's own runtime,
which plans memory itself. llvm-mca's Cortex-A53 does not rank kernels correctly (docs/concepts/predictor.md), so that
column always comes from our own core model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness as harnesses
from benchmarks.harness import CPU, Run

TABLE = Path(__file__).parent / "data" / "peers.json"
BOARDS = {"rpi4": "A72", "rpi5": "N1", "rpi3": "A53"}
COLUMNS = {"float32": ("rpi4", "rpi5", "rpi3"), "float16": ("rpi5",), "int8": ("rpi4", "rpi5", "rpi3")}
MODELS = ("v1", "v2", "v3-large", "v4-small")
SMALL_MODEL = {"alpha": 0.25, "resolution": 128}  # estimated only by our core model
# The targets of this project: x float32 floor, L1 misses in M, DRAM fills in MB; None without a target.
TARGETS = {
    ("float32", "v1"): {"rpi4": (1.045, 2.4, 38.0), "rpi5": (1.06, 2.0, 28.0), "rpi3": (1.40, 2.8, 44.0)},
    ("float16", "v1"): {"rpi5": (0.54, 1.0, 14.0)},
    ("float16", "v2"): {"rpi5": (0.58, None, None)},
    ("float16", "v3-large"): {"rpi5": (0.64, None, None)},
    ("int8", "v1"): {"rpi4": (0.555, 0.7, 8.5), "rpi5": (0.33, 0.45, 7.0), "rpi3": (1.05, None, None)},
    ("int8", "v2"): {"rpi4": (0.63, None, None), "rpi5": (0.45, None, None)},
    ("int8", "v3-large"): {"rpi4": (0.70, None, None), "rpi5": (0.55, None, None)},
}
SMALL = 1e6  # multiply-adds below which a layer's load balance does not count


@dataclass(frozen=True)
class Row:
    """One network on one core.

    Parameters
    ----------
    floor : float
        Cycles of compute over those of its multiply-adds at the full rate of float32.
    l1_misses : float
        Millions of lines a pass.
    dram_fills : float
        Megabytes a pass.
    pointwise : (float, float)
        Mean and worst of the pointwise layers that are separate kernels, over the floors of their dtype.
    depthwise : float
        Cycles for each vector fmla of the worst depthwise layer that is a separate kernel.
    balance : float
        The longest of four cores' shares over their mean, of the worst convolution, product or fused block of more
        than a million multiply-adds.
    code_bytes : int
        Instructions and read-only data of the whole module.
    build_seconds : float
        From the imported network to the module.
    executed, by_tvm : Run or None
        The bundle in the harness, and the same kernels in TVM's runtime.
    outside : float or None
        Share of the bundle's executed instructions that are outside of kernels.
    """

    floor: float
    l1_misses: float
    dram_fills: float
    pointwise: tuple[float, float]
    depthwise: float
    balance: float
    code_bytes: int
    build_seconds: float
    executed: Run | None = None
    by_tvm: Run | None = None
    outside: float | None = None


def measure(board: str, network, harness: Path | None = None) -> Row:
    """A network, built with the decisions that ship and run on a virtual board, and its bundle in a harness."""
    from tvm_mobilenet import targets
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.boards.plan_runner import PlanRunner
    from tvm_mobilenet.build import build
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.layer import Layer
    from tvm_mobilenet.survey.estimates import code_bytes

    target, options = targets.load(board), network.options
    mult_adds = sum(call.layer.mult_adds for call in (network.original or network.graph).calls)
    floor = mult_adds / target.core.macs_per_cycle("float32")
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        packed = Path(folder, "bundle") if harness and board in CPU else None
        with_tvm = bool(packed) and options.dtype == "float32" and options.model == "v1"
        start = time.monotonic()
        build(options, target, output=Path(folder), network=network, bundle=packed, tvm_executable=with_tvm)
        seconds = time.monotonic() - start
        module = built.read(folder)
        layers = {step.symbol: Layer.parse(step.layer) for step in module.plan.steps}
        with open_board("virtual", target).load(module.library) as loaded:
            runner = PlanRunner(loaded, module.plan, module.parameters())
            batch = network.inputs(1)[0]
            plain = runner.run(*batch).kernels
            warm = [runner.run(*batch, memory=True).kernels for _ in range(2)][1]
        size, name = code_bytes(module.library), f"{options.model}-{options.dtype}"
        ran = by_tvm = outside = None
        if packed:
            ran = harnesses.bundle(harness, name, board, mult_adds, packed)
            outside = 1 - sum(k.instructions for k in plain) / ran.instructions
        if with_tvm:
            by_tvm = harnesses.by_tvm(harness, f"{name}-tvm", board, mult_adds, Path(folder, built.EXECUTABLE))
    cycles = [float(k.cycles_on(1).value) for k in plain]
    shares = [float(k.cycles_on(4).value) * 4 for k in plain]
    over = [
        (la, c / (la.mult_adds / target.core.macs_per_cycle(la.dtype)), s / c)
        for la, c, s in zip([layers[k.symbol] for k in plain], cycles, shares, strict=True)
        if la.mult_adds
    ]
    points = [x for la, x, _ in over if la.kind == "pointwise"]
    return Row(
        sum(cycles) / floor,
        sum(k.traffic.fills[0] for k in warm) / 1e6,
        sum(k.traffic.fills[-1] for k in warm) * 64 / 1e6,
        (sum(points) / len(points), max(points)),
        max((x / target.core.fma_per_cycle for la, x, _ in over if la.kind == "depthwise"), default=0.0),
        max((b for la, _, b in over if la.kind != "dense" and la.mult_adds > SMALL), default=1.0),
        size,
        seconds,
        ran,
        by_tvm,
        outside,
    )


def table(title: str, rows: dict[str, dict[str, tuple]], boards: tuple[str, ...]) -> str:
    """Rows by name with their figures by board, as Markdown; ``title``: network and dtype."""
    lines = [
        f"| {title}, one core | "
        + " | ".join(f"{BOARDS[board]}: x float32 floor | L1 misses, M | DRAM fills, MB" for board in boards)
        + " |",
        "|---|" + "---|" * 3 * len(boards),
    ]
    for name, known in rows.items():
        cells = [
            "" if value is None else form.format(value)
            for board in boards
            for form, value in zip(("{:.3f}", "{:.2f}", "{:.1f}"), known.get(board, (None,) * 3), strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def layers_table(dtype: str, measured: dict[tuple[str, str], Row]) -> str:
    """The figures of each network's layers on each core by our own core model, as Markdown.

    Parameters
    ----------
    measured : dict
        By network and board.
    """
    lines = [
        f"| {dtype}, by our core model | pointwise layers, x floor of their dtype: mean (worst) | depthwise layers, "
        "cycles a vector of multiply-adds: worst | four cores, longest share over mean: worst layer above 1 M "
        "multiply-adds | code without weights, KB | build, seconds | x float32 floor |",
        "|---|" + "---|" * 6,
    ]
    for (title, board), row in measured.items():
        mean, worst = row.pointwise
        cells = [f"{mean:.3f} ({worst:.3f})", f"{row.depthwise:.2f}", f"{row.balance:.3f}"]
        cells += [f"{row.code_bytes / 1e3:.0f}", f"{row.build_seconds:.1f}", f"{row.floor:.3f}"]
        lines.append(f"| {title} on {BOARDS[board]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kept(dtype: str, model: str) -> list[dict]:
    """The recorded rows of peers for a network in a dtype."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if (row.get("dtype", "float32"), row.get("model", "v1")) == (dtype, model)]


def rows_of(dtype: str, model: str, own: dict[str, Row], again: dict[str, dict[str, Run]]) -> dict[str, dict]:
    """The rows of a network's table: peers (with new figures for those run ``again``), targets, this tree."""
    rows = {}
    for row in kept(dtype, model):
        ran = again.get(row["name"], {})
        known = {b: tuple(row[b]) for b in CPU if b in row}
        rows[row["name"]] = known | {b: one.figures for b, one in ran.items()}
    rows["targets"] = TARGETS.get((dtype, model), {})
    rows["this tree, by our core model"] = {b: (r.floor, r.l1_misses, r.dram_fills) for b, r in own.items()}
    for name, of in (
        ("this tree, its bundle executed and estimated as the peers", lambda r: r.executed),
        ("the same by TVM's own runtime", lambda r: r.by_tvm),
    ):
        if found := {b: of(r).figures for b, r in own.items() if of(r)}:
            rows[name] = found
    return {name: row for name, row in rows.items() if row}


def _run_again(harness: Path | None, network, names: list[str], boards: tuple[str, ...]) -> dict:
    """Run the peers with these prefixes again; results by name and board. A peer without a runner in the harness gets
    the network's files of ``bench --against``."""
    options = network.options
    mult_adds = sum(call.layer.mult_adds for call in (network.original or network.graph).calls)
    rows = [
        row
        for row in kept(options.dtype, options.model)
        if any(row["name"].lower().startswith(name.lower()) for name in names)
    ]
    cores = [board for board in CPU if board in boards]
    found = {
        row["name"]: {
            board: harnesses.peer(harness, row["runner"], board, mult_adds, options.dtype)
            for board in cores
            if board in row
        }
        for row in rows
        if "runner" in row
    }
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        engines = {row["name"]: row["engine"] for row in rows if "engine" in row}
        if engines:
            write(network, tuple(engines.values()), Path(folder))
        for name, engine in engines.items():
            found[name] = {}
            for board in cores:
                print(f"{name} on {board} ...", file=sys.stderr, flush=True)
                ran = harnesses.peer_on(harness, engine, board, mult_adds, Path(folder), options.model)
                found[name][board] = ran
    return found


def write(network, engines: tuple[str, ...], folder: Path) -> None:
    """Write the files for `benchmarks.peer_inferences`: the network for each engine, an image, and PyTorch's output for
    it.

    Raises
    ------
    SystemExit
        An engine has no files for it.
    """
    import numpy as np

    from tvm_mobilenet.peers import files

    written = files.contenders(network, engines, folder, architecture="aarch64")
    if missing := [contender["missing"] for contender in written.values() if "missing" in contender]:
        raise SystemExit(missing[0])
    image = network.inputs(1)[0]
    np.save(folder / "input.npy", image[0])
    np.save(folder / "expected.npy", network.reference([image])[0][0][0])
    (folder / "files.json").write_text(json.dumps(written), encoding="utf-8")


def _print_dtype(dtype: str, models: list[str], args: argparse.Namespace) -> None:
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.models.options import ModelOptions

    harness = args.harness and args.harness.resolve()
    boards = tuple(board for board in COLUMNS[dtype] if BOARDS[board] in args.cores)
    measured: dict[tuple[str, str], Row] = {}
    small = [ModelOptions(**SMALL_MODEL, dtype=dtype)] if models == list(MODELS) and not args.peers_only else []
    for options in [*(ModelOptions(model=model, dtype=dtype) for model in models), *small]:
        network, own = load_network(options), {}
        for board in () if args.peers_only else boards:
            print(f"{options.title} on {board} ...", file=sys.stderr, flush=True)
            own[board] = measured[options.title, board] = measure(board, network, None if options in small else harness)
            if own[board].outside is not None:
                share = f"{own[board].outside:.2%}"
                print(f"executed instructions outside kernels on {BOARDS[board]}: {share}", file=sys.stderr)
        if options not in small:
            again = _run_again(harness, network, args.again, boards)
            title = options.title if dtype != "float32" else f"{options.title} float32"
            print(table(title, rows_of(dtype, options.model, own, again), boards) + "\n", flush=True)
    if measured:
        print(layers_table(dtype, measured) + "\n", flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__.split("\n")[0])
    parser.add_argument("--harness", type=Path, metavar="DIR", help="estimate A72 and N1 as the peers were, there")
    parser.add_argument("--again", nargs="*", default=[], metavar="PEER", help="litert, ncnn, onnx: once more")
    parser.add_argument("--dtype", choices=sorted(COLUMNS), help="of this dtype alone (default: all)")
    parser.add_argument("--models", default=",".join(MODELS), metavar="NAME,NAME", help="default: %(default)s")
    parser.add_argument("--cores", default=",".join(BOARDS.values()), metavar="NAME,NAME", help="default: %(default)s")
    parser.add_argument("--peers-only", action="store_true", help="this tree's own rows are left out")
    args = parser.parse_args(argv)
    if args.again and not args.harness:
        parser.error("--again needs --harness")
    models, args.cores = args.models.split(","), args.cores.split(",")
    if unknown := [model for model in models if model not in MODELS]:
        parser.error(f"--models {unknown[0]}: there are tables of {', '.join(MODELS)}")
    if unknown := [core for core in args.cores if core not in BOARDS.values()]:
        parser.error(f"--cores {unknown[0]}: there are columns of {', '.join(BOARDS.values())}")
    dtypes = [args.dtype] if args.dtype else list(COLUMNS)
    runners = bool(args.again) and any("runner" in row for dtype in dtypes for m in models for row in kept(dtype, m))
    by_tvm = "float32" in dtypes and "v1" in models and not args.peers_only  # also run TVM's own runtime
    python = bool(args.again) or by_tvm
    if args.harness and (lacking := harnesses.missing(args.harness, python, runners)):
        parser.error(
            f"--harness {args.harness}: there is no {', no '.join(lacking)}; benchmarks/harness.py describes the folder"
        )
    for dtype in dtypes:
        _print_dtype(dtype, models, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
