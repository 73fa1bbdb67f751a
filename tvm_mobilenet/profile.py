"""Show the cost of every layer on a board, and its distance from the roofline.

Each kernel call is timed in its place in the network, on one or several threads. The table adds the bounds of the
target's compute, caches and memory, the decisions of its schedule, and the virtual board's prediction.

    python -m tvm_mobilenet.profile out/v1-1.0-224-rpi4 --view slowest --trace out/trace.json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.cli.flags import refuse, refuse_for_predictions
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.whole_file import output_file, write_whole
from tvm_mobilenet.measuring.layer_profile import LayerProfile, Profile, trace
from tvm_mobilenet.measuring.roofline import CEILINGS
from tvm_mobilenet.terminal import console, notebook
from tvm_mobilenet.terminal.table import Detail, Layers

VIEWS = ("order", "slowest", "kind")


def profile(
    folder: str | Path,
    *,
    board="virtual",
    threads: int = 1,
    seconds: float = 2.0,
    runtime: str = "own",
    target=None,
    show=lambda line: None,
) -> Profile:
    """Profile a built module.

    Parameters
    ----------
    folder : path
        A folder that `build` wrote.
    board : str or board
        An argument or a result of ``boards.open_board``.
    threads : int
    seconds : float
        Time to spend on passes over the layers, if they are measured.
    runtime : str
        The runtime that calls the kernels in a measurement: ``own``, or ``tvm``.

    Raises
    ------
    TvmMobilenetError
        The folder holds no built module, or the virtual board has fewer cores.
    BoardError
        The board cannot be reached, or the module does not run there.
    """
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.measuring import layer_profile

    module = built.read(folder)
    target = target or module.target
    if isinstance(board, str):
        with open_board(board, target) as opened:
            return profile(
                folder, board=opened, threads=threads, seconds=seconds, runtime=runtime, target=target, show=show
            )
    if not board.measures and threads > target.cores:
        raise TvmMobilenetError(
            f"--threads {threads}: target {target.name} has {target.cores} cores",
            "predictions are made for a thread a core",
        )
    return layer_profile.profile_of(board, module, target, threads, seconds, show, runtime)


def _about(result: Profile) -> str:
    milliseconds = console.number(result.seconds * 1e3)
    return f"{len(result.layers)} kernel calls on {result.target}, {milliseconds} ms in all, {result.how}"


@notebook.shows(Profile, _about)
def print_result(result: Profile, view: str = "order") -> None:
    """Print one view as a table, and the summary."""
    heading = (
        f"{options.ModelOptions.from_data(result.model).title} on {result.target}, board {result.board}, "
        f"{result.threads} thread{'s' * (result.threads > 1)}: {result.how}"
    )
    beside = not result.is_predicted and all(x.predicted is not None for x in result.layers)
    if view == "kind":
        columns, items = ("kind", "calls"), result.kinds
        begin, end = (lambda k: (k.kind, k.calls)), (lambda k: ())
    else:
        columns = ("layer", Layers("what"))
        items = sorted(result.layers, key=lambda x: -x.seconds) if view == "slowest" else result.layers
        begin, end = (lambda x: (x.name, x.layer)), _built
    columns += (
        "ms",
        "share %",
        Detail("cumulated %"),
        Detail("GFLOPS"),
        "x roofline",
        *(["predicted ms"] if beside else []),
    )
    columns += () if view == "kind" else ("binds", Detail("from"), Detail("decisions"))
    rows = []
    for item, cumulated in zip(items, _cumulated(items), strict=True):
        predicted = (item.predicted * 1e3,) if beside else ()
        rows.append(
            (
                *begin(item),
                item.seconds * 1e3,
                _percent(item.share),
                _percent(cumulated),
                item.gflops,
                item.multiple,
                *predicted,
                *end(item),
            )
        )
    console.print_table(columns, rows, heading)
    least = sum(x.roofline.seconds for x in result.layers)
    bound = {name: sum(x.share for x in result.layers if x.binds == name) for name in CEILINGS}
    console.print_text(
        f"whole     {result.seconds * 1e3:.4g} ms {result.how}, {result.seconds / least:.2f} x the roofline; "
        + "of the time bound by "
        + ", ".join(f"{name} {share:.0%}" for name, share in bound.items() if share),
        indent=10,
    )
    for note in result.notes:
        console.print_text(f"! {note}", indent=2)


def _built(x: LayerProfile) -> tuple:
    return x.binds, x.source, " ".join(f"{k}={v}" for k, v in x.decisions.items())


def _percent(share: float) -> str:
    return f"{share * 100:.1f}"


def _cumulated(items) -> list[float]:
    found = []
    for item in items:
        found.append(item.share + (found[-1] if found else 0.0))
    return found


def parser() -> argparse.ArgumentParser:
    """The arguments of ``profile``."""
    new = entry.parser_for("profile", __doc__.split("\n")[0])
    new.add_argument("folder", type=Path, help="a folder that `build` or `tune` wrote")
    options.add_board(new)
    new.add_argument(
        "--threads", type=options.positive(int), default=1, help="number of threads (default: %(default)s)"
    )
    new.add_argument(
        "--seconds",
        type=options.positive(float),
        default=2.0,
        help="on a real board, time to measure the layers (default: %(default)s)",
    )
    options.add_runtime(new)
    new.add_argument(
        "--view",
        choices=VIEWS,
        default="order",
        help="layers in order, slowest first, or summed by kind (default: order)",
    )
    new.add_argument("--trace", type=output_file, metavar="FILE", help="also write a trace for ui.perfetto.dev")
    new.add_argument("--html", type=output_file, metavar="FILE", help="also write a page: roofline, memory, layers")
    new.add_argument("--json", action="store_true", help="print one JSON document on stdout (docs/guides/benchmark.md)")
    return new


def _run(args: argparse.Namespace) -> int:
    packages.import_tvm()  # no layer is computed by PyTorch here
    from tvm_mobilenet.boards import open_board
    from tvm_mobilenet.compiler import module as built
    from tvm_mobilenet.compiler.kept import kept

    if args.json:
        refuse(args, ("--view",), "it orders the table, and the JSON document has every layer", "leave it out")
    module = built.read(args.folder)
    target = module.target
    address = options.board_for(args, target)
    if address == "virtual":
        refuse_for_predictions(args, ("--seconds", "--runtime"))
    # measurements are shown beside the virtual board's predictions
    run = packages.for_board("virtual" if target.core.model else address)
    packages.require("profile", *run, *packages.for_pages(bool(args.html)))
    with kept(module), open_board(address, target) as board:
        result = profile(
            args.folder,
            board=board,
            threads=args.threads,
            seconds=args.seconds,
            runtime=args.runtime,
            target=target,
            show=console.say,
        )
    if args.html:
        from tvm_mobilenet.survey import profile_page

        profile_page.page(result, module, target).write(args.html, "--html")
        console.say(f"page: {args.html}")
    if args.trace:
        write_whole(args.trace, json.dumps(trace(result)), "--trace")
    console.print_json(result) if args.json else print_result(result, args.view)
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
