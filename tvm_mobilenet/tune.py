"""Tune a network for a target: search its layers' decisions on a board, then build and verify with the best.

    python -m tvm_mobilenet.tune --target rpi4 --model v2 --alpha 0.5

Every candidate is distinct machine code, executed and checked against PyTorch. If the command is interrupted, running
it again continues the search. If nothing is left to search, it only builds and verifies.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tvm_mobilenet import packages
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.cli.flags import refuse
from tvm_mobilenet.cli.tune_text import print_result, show_search, write_page
from tvm_mobilenet.cluster import place
from tvm_mobilenet.files import own_files
from tvm_mobilenet.files.whole_file import require_appendable
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.models.options import FLOAT32
from tvm_mobilenet.terminal import console
from tvm_mobilenet.tuning import fleet, known_layers, prediction_error
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.result import LayerResult, TuneResult
from tvm_mobilenet.tuning.session import CANDIDATE_SECONDS, TIME_LIMIT, TRIALS, Work


def tune(
    model: options.ModelOptions,
    target,
    *,
    board: str = "virtual",
    log: Path = options.LOG,
    output: Path | None = None,
    trials: int = TRIALS,
    time_limit: float = TIME_LIMIT,
    workers: int | str | place.Place = place.PROCESSES,
    linker: str | None = None,
    debug: bool = False,
    network=None,
    evaluate=None,
    finish: Callable | None = None,
) -> TuneResult:
    """Search the decisions of a network's layers, then build and verify it.

    Parameters
    ----------
    model : ModelOptions
    target : targets.Target
    board : str
        The board that runs the candidates, as ``boards.open_board`` takes it; all boards of a tracker's key run in
        parallel.
    log : path
        The tune log; its trials are in a file beside it.
    output : path
        The folder of the built module.
    trials : int
        Largest number of candidates for each layer.
    time_limit : float
        Seconds of search, including interrupted runs.
    workers : int or str
        The workers that build and run candidates: a number of processes on this machine, or a Dask cluster
        (``cluster.place.parse``).
    network, evaluate, finish : optional
        Replacements for ``load_network``, ``tuning.runner.Evaluate`` and ``build_and_verify``.

    Raises
    ------
    TvmMobilenetError
        The model or target does not fit, the log cannot be written, or the build does not verify.
    """
    output = output or options.OUTPUT / f"{model.slug}-{target.name}"
    own_files.tidy(output)
    require_appendable(log, "--log")
    if evaluate is None:
        from tvm_mobilenet.tuning.runner import Evaluate

        evaluate = Evaluate(target, board, linker)
    where = place.parse(workers)
    fleet_of, boards = fleet.of(board, target, linker, lambda *how: where.pool(*how, debug), debug)
    from tvm_mobilenet.compiler import pipeline

    if network is None:
        from tvm_mobilenet.cli.notices import announce as announce_network
        from tvm_mobilenet.compiler.network import load_network

        network = load_network(model)
        announce_network(network)
    work = tuning.prepare(pipeline.for_core(network.graph, target.core).counts, target, board, log, trials)
    with console.Progress() as progress:
        show = show_search(work, progress, time_limit)
        pool = fleet_of or (lambda: where.pool(evaluate, CANDIDATE_SECONDS, debug, alone=board == "local"))
        ended, new = tuning.search(
            work, evaluate, time_limit, boards or where.processes or None, debug, show, pool=pool
        )
    error = prediction_error.find(work, where.pool, linker) if work.measured else None
    built, verified = (finish or build_and_verify)(network, target, log, output, linker, board)
    return result_of(model, work, ended, new, built, verified, error)


def build_and_verify(network, target, log: Path, output: Path, linker: str | None, board: str) -> tuple:
    """The module with the logs' decisions, and its comparison with PyTorch."""
    from tvm_mobilenet import build, verify

    console.say(f"building into {output}")
    built = build.build(network.options, target, log=log, output=output, linker=linker, network=network)
    console.say("verifying the built machine code against PyTorch")
    return built, verify.verify(output, board=board, network=network, target=target)


def result_of(
    model: options.ModelOptions, work: Work, ended: str, new: int, built=None, verified=None, prediction=None
) -> TuneResult:
    """The result of a search, layers in the order of the network."""
    layers = [
        LayerResult(
            name,
            s.count,
            s.best.decisions if s.best else s.space.default,
            "tuned" if s.best else "default",
            s.size,
            len(s.tried),
            s.floor,
            s.default_cost,
            s.best and s.best.cost,
            s.best and s.best.cost_all_cores,
            s.curve,
            s.best and s.best.compute,
        )
        for name, s in work.searches.items()
    ]

    def total(field: str) -> float | None:
        values = [getattr(layer, field) for layer in layers]
        return None if None in values else sum(v * layer.count for v, layer in zip(values, layers, strict=True))

    return TuneResult(
        model.title,
        work.target.name,
        work.target.core.name,
        work.target.cores,
        work.board,
        ended,
        "s" if work.measured else "cycles",
        not work.measured,
        layers,
        total("untuned"),
        total("tuned"),
        total("tuned_all_cores"),
        total("floor"),
        work.target.clock_hz,
        work.log,
        new,
        built,
        verified,
        prediction,
        compute=total("compute"),
        floor_float32=_floor_float32(work),
    )


def _floor_float32(work: Work) -> float | None:
    """The floor in float32 of layers of another dtype."""
    layers = {Layer.parse(name): search.count for name, search in work.searches.items()}
    if all(layer.dtype == FLOAT32 for layer in layers):
        return None
    cycles = sum(n * layer.mult_adds for layer, n in layers.items()) / work.target.core.macs_per_cycle(FLOAT32)
    return cycles / work.target.clock_hz if work.measured else cycles


def needs(model: options.ModelOptions, target, board: str, linker: str | None, workers: str = "") -> tuple[str, ...]:
    """The modules of a whole run: search, build and verification; ``workers``: the address of a cluster."""
    # a real board's measurements are compared with the virtual board's predictions
    run = packages.for_board("virtual" if target.core.model else board)
    run += packages.for_linking(linker) + packages.SEARCH + packages.for_workers(workers)
    return packages.for_comparing(model) + run


def announce(model: options.ModelOptions, target, board: str, args: argparse.Namespace) -> None:
    """Print the plan of the run, before the slow part begins."""
    console.say(f"tune {model.title} for {target.name} ({target.title}: {target.cores} x {target.core.name})")
    console.say(
        f"  board    {board}" + (" (executes the machine code; cycles are predicted)" if board == "virtual" else "")
    )
    limits = f"{args.trials} trials a layer and {console.duration(args.time_limit)}"
    console.say(f"  search   at most {limits}" + f", on {args.workers}" * bool(args.workers.address))
    console.say(f"  log      {args.log}")
    console.say(f"  output   {options.output_folder(args, model, target)}")


def parser() -> argparse.ArgumentParser:
    """The arguments of ``tune``."""
    new = entry.parser_for("tune", __doc__.split("\n")[0])
    options.add_model_options(new)
    options.add_target_options(new)
    group = new.add_argument_group("search")
    group.add_argument(
        "--trials",
        type=options.positive(int),
        default=TRIALS,
        help="largest number of trials for each layer (default: %(default)s)",
    )
    group.add_argument(
        "--time-limit",
        type=options.time_span,
        default=TIME_LIMIT,
        metavar="TIME",
        help="longest time to search, such as 90s or 2h (default: 6m)",
    )
    options.add_workers(group)
    group.add_argument("--dry-run", action="store_true", help="print the search that would run, and exit")
    group.add_argument("--list", action="store_true", help="show the layers with their known decisions, and exit")
    options.add_output_options(new)
    return new


def _run(args: argparse.Namespace) -> int:
    if (target := options.load_target(args)) is None:
        return 0
    model, board = options.model_options(args, target), options.board_for(args, target)
    if board == "local" and args.workers.processes > 1:
        why = "on this machine one candidate is built and measured at a time: two would disturb each other"
        refuse(args, ("--workers",), why, "leave it out")
    stops = args.dry_run or args.list
    packages.require(
        "tune",
        *(packages.for_model(model) if stops else needs(model, target, board, args.linker, args.workers.address)),
    )
    announce(model, target, board, args)
    if stops:
        from tvm_mobilenet.cli.notices import announce as announce_network
        from tvm_mobilenet.compiler import pipeline
        from tvm_mobilenet.compiler.network import load_network

        network = load_network(model)
        announce_network(network)
        counts = pipeline.for_core(network.graph, target.core).counts
        known_layers.print_known(tuning.prepare(counts, target, board, args.log, args.trials), args.json)
        return 0
    output = options.output_folder(args, model, target)
    result = tune(
        model,
        target,
        board=board,
        log=args.log,
        output=output,
        trials=args.trials,
        time_limit=args.time_limit,
        workers=args.workers.at_most(1) if board == "local" else args.workers,
        linker=args.linker,
        debug=args.debug,
    )
    page = write_page(result, output)
    console.print_json(result) if args.json else print_result(result)
    console.say(f"page: {page}")
    result.verification.require()
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
