"""Measure the time of a built module's runs on a board, for one or several numbers of threads, with the conditions.

The network runs in its own process on the board. It is warmed up until its times settle, and the first times determine
the number of runs in a sample and the number of samples. Every row lists reasons to doubt it (throttling, a changed
clock, outliers) and their remedies. On the virtual board the figures are predictions, and are labelled so.

    python -m tvm_mobilenet.bench out/v1-1.0-224-rpi4 --board ssh://pi@raspberrypi.local --threads 1,2,4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.cli import entry, flags, options
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.temporary import TemporaryFolder
from tvm_mobilenet.files.whole_file import output_file
from tvm_mobilenet.measuring.benchmark import Benchmark
from tvm_mobilenet.terminal import console


def bench(
    folder: str | Path,
    *,
    board="virtual",
    threads: Sequence[int] = (1,),
    seconds: float = 3.0,
    cool_down: float = 2.0,
    cpus: Sequence[int] | None = None,
    against: Sequence[str] = (),
    layers: bool = True,
    runtime: str = "own",
    target=None,
    show: Callable[[str], None] = lambda line: None,
) -> Benchmark:
    """Measure a built module, or have the virtual board predict it.

    In one piece: the steps of a verb in order.

    Parameters
    ----------
    folder : path
        What `build` wrote.
    board : str or board
        An argument or a result of ``boards.open_board``.
    threads : sequence of int
        Numbers of threads; each makes a row.
    seconds : float
        Time to measure each row.
    cool_down : float
        Least seconds between rows. If the board reports its temperature, the pause lasts until the board has cooled
        down.
    cpus : sequence of int, optional
        The CPUs to use; TVM's threads then stay on them, but are not pinned one by one.
    against : sequence of str
        Other engines to measure in turn with ours: ``litert``, ``ncnn``, ``onnxruntime``, in the build's dtype, or as
        ``ncnn:float32`` says, or on a file of the user's, ``ncnn=net.param``. Which kernels each ran is in the result;
        one that fell back to another dtype has no time.
    layers : bool
        Whether to time every kernel call too.
    runtime : str
        The runtime of a measurement: ``own``, which ships, or ``tvm``, TVM's virtual machine.
    show : callable
        Called with a line of progress now and then.

    Raises
    ------
    TvmMobilenetError
        The folder holds no built module, or no TVM executable for ``runtime="tvm"``; ``against`` on a virtual board.
    BoardError
        The board cannot be reached, or the module does not run there.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import module as built

    module = built.read(folder)
    target = target or module.target
    if isinstance(board, str):
        with open_board(board, target) as opened:
            return bench(
                folder,
                board=opened,
                threads=threads,
                seconds=seconds,
                cool_down=cool_down,
                cpus=cpus,
                against=against,
                layers=layers,
                runtime=runtime,
                target=target,
                show=show,
            )
    from tvm_mobilenet.measuring import measured_rows

    if not board.measures:
        if against:
            raise TvmMobilenetError(
                "--against: the virtual board cannot run other engines",
                "measure on a board; figures of other engines are in docs/results/speed.md",
            )
        return measured_rows.predicted(module, target, threads, show)
    with TemporaryFolder() as temporary:
        others = {}
        if against:
            from tvm_mobilenet.compiler import model_files
            from tvm_mobilenet.compiler.network import load_network
            from tvm_mobilenet.peers import files as peers

            show(f"writing the network for {', '.join(against)}")
            network = load_network(model_files.from_build(module))
            wanted = peers.dtype_of(module.plan)
            others = peers.contenders(network, against, Path(temporary), wanted, target.architecture)
        return measured_rows.measured(
            board,
            module,
            target,
            measured_rows.Asked(threads, seconds, cool_down, cpus, layers),
            peers=others,
            show=show,
            runtime=runtime,
        )


def parser() -> argparse.ArgumentParser:
    """The arguments of ``bench``."""
    new = entry.parser_for("bench", __doc__.split("\n")[0])
    new.add_argument("folder", type=Path, help="a folder that `build` or `tune` wrote")
    options.add_board(new)
    group = new.add_argument_group("measuring")
    group.add_argument(
        "--threads",
        type=options.counts,
        default=(1,),
        metavar="N,N",
        help="numbers of threads; each makes a row (default: 1)",
    )
    group.add_argument(
        "--seconds", type=options.positive(float), default=3.0, help="time to measure each row (default: %(default)s)"
    )
    group.add_argument(
        "--cool-down",
        type=options.time_span,
        default=2.0,
        metavar="TIME",
        help="shortest pause between rows; it lasts until the board is as warm as before (default: 2s)",
    )
    group.add_argument("--cpus", type=options.numbers, metavar="N,N", help="CPUs that may be used (default: all)")
    options.add_runtime(group)
    group.add_argument("--no-layers", action="store_true", help="time whole runs, not layers")
    group.add_argument(
        "--check-timing",
        action="store_true",
        help="only compare these timings with those of TVM's time_evaluator: 20 rounds of turns, at least 10 s",
    )
    group = new.add_argument_group("comparing")
    group.add_argument("--compare", type=Path, metavar="FILE", help="an older benchmark, written by --json or --record")
    group.add_argument(
        "--max-regress",
        type=options.percentage,
        default=0.05,
        metavar="PERCENT",
        help="exit with code 6 if a row is slower than in --compare by more than this, and name the layers that "
        "cause it (default: 5%%)",
    )
    group.add_argument(
        "--against",
        metavar="NAME,NAME",
        help="other engines, litert, ncnn or onnxruntime, that run the same network in turns with ours: in the "
        "build's dtype, in float32 as NAME:float32, or from a file of yours as NAME=FILE",
    )
    group = new.add_argument_group("output")
    group.add_argument("--record", type=output_file, metavar="FILE", help="also write the JSON document to this file")
    group.add_argument("--html", type=output_file, metavar="FILE", help="also write a page: samples, engines, layers")
    form = group.add_mutually_exclusive_group()
    form.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout (docs/guides/benchmark.md)"
    )
    form.add_argument("--csv", action="store_true", help="rows of threads, then of layers, as CSV")
    form.add_argument("--markdown", action="store_true", help="tables for a document or an issue")
    return new


def _run(args: argparse.Namespace) -> int:
    packages.import_tvm()  # PyTorch is for the files of other engines alone
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.kept import kept
    from tvm_mobilenet.measuring import benchmark, benchmark_text, measured_rows, regression
    from tvm_mobilenet.peers import files as peers

    flags.refuse_for_bench(args)
    against = peers.parse(args.against) if args.against else ()
    old = benchmark.read(args.compare) if args.compare else None
    module = built.read(args.folder)
    target = module.target
    address = options.board_for(args, target)
    if address == "virtual":
        flags.refuse_for_predictions(args, ("--seconds", "--cool-down", "--cpus", "--no-layers", "--runtime"))
    packages.require("bench", *packages.for_board(address), *packages.for_pages(bool(args.html)))
    if against:
        model = options.ModelOptions.from_data(module.info["model"])
        packages.require("bench --against", *packages.for_model(model))
        peers.require(against, address)
    with kept(module), open_board(address, target) as board:
        if args.check_timing:
            return _check_timing(args, board, module, measured_rows)
        result = bench(
            args.folder,
            board=board,
            threads=args.threads,
            seconds=args.seconds,
            cool_down=args.cool_down,
            cpus=args.cpus,
            against=against,
            layers=not args.no_layers,
            runtime=args.runtime,
            target=target,
            show=console.say,
        )
    if args.record:
        benchmark.write(result, args.record)
    comparison = regression.compare(old, result, args.max_regress) if old else None
    if args.html:
        from tvm_mobilenet.survey import bench_page

        bench_page.page(result, comparison).write(args.html, "--html")
        console.say(f"page: {args.html}")
    if args.json:
        console.print_json(result)
    else:
        form = "csv" if args.csv else "markdown" if args.markdown else "table"
        benchmark_text.show(result, form, comparison)
    if comparison:
        comparison.require()
    return 0


def _check_timing(args: argparse.Namespace, board, module, measured_rows) -> int:
    if not board.measures:
        raise TvmMobilenetError("--check-timing: the virtual board measures no time", "--board local, or a board's")
    found = measured_rows.check_timing(board, module, args.threads[0], max(10.0, args.seconds))
    if args.json:
        console.print_json(found)
        return 0
    print(
        f"ours / time_evaluator  {found['median']:.4f}, the median of {len(found['ratios'])} rounds from "
        f"{min(found['ratios']):.4f} to {max(found['ratios']):.4f}\n"
        f"ours                   {found['ours'] * 1e3:.4g} ms\n"
        f"time_evaluator         {found['time_evaluator'] * 1e3:.4g} ms, number={found['number']}, "
        f"repeat={found['repeat']}"
    )
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
