"""Compare a family's networks on a board: latency, memory and published accuracy in one table.

Each network runs once on the board with random weights (survey/estimates.py); a file keeps the estimates. With a budget
the sweep builds and verifies the network that it chooses, or the next best if the built module exceeds the budget.

    python -m tvm_mobilenet.sweep --target rpi4 --html out/sweep.html
    python -m tvm_mobilenet.sweep --target rpi4 --budget 60ms --cores 1 --min-accuracy 0.6
    python -m tvm_mobilenet.sweep --theory
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_mobilenet import packages, targets
from tvm_mobilenet.cli import accuracy_options, entry, options
from tvm_mobilenet.cli.flags import refuse, refuse_for_sweep
from tvm_mobilenet.errors import RegressionError
from tvm_mobilenet.files.whole_file import journal_file, output_file
from tvm_mobilenet.models.options import DTYPES, FLOAT32, ModelOptions
from tvm_mobilenet.models.papers import accuracies
from tvm_mobilenet.survey import budget
from tvm_mobilenet.survey.families import networks_of
from tvm_mobilenet.survey.sweep_text import print_result, show_in, write_csv
from tvm_mobilenet.terminal import console, notebook

ESTIMATES = options.OUTPUT / "sweep.jsonl"


@dataclass(frozen=True)
class Variant:
    """One network on one board.

    Parameters
    ----------
    milliseconds, milliseconds_all_cores : float
        On one core, and on all of the target's.
    predicted : bool
        Whether the virtual board predicted the times; otherwise a board measured them.
    mult_adds, parameters : int
        As the papers count them.
    module_bytes : int
        Constants and the kernels' code; a built module also holds TVM's executable.
    memory_bytes : int
        Peak memory: parameters, arena, and each core's scratch.
    top1 : float or None
        Published ImageNet accuracy, 0..1.
    source : str
        Who published it.
    dtype : str
        The dtype in which its layers compute.
    top1_of : str
        The dtype for which ``top1`` was published: float32.
    """

    model: str
    alpha: float
    resolution: int
    milliseconds: float
    milliseconds_all_cores: float
    predicted: bool
    mult_adds: int
    parameters: int
    module_bytes: int
    memory_bytes: int
    top1: float | None = None
    source: str = ""
    dtype: str = DTYPES[0]
    top1_of: str = FLOAT32

    @property
    def options(self) -> ModelOptions:
        return ModelOptions(model=self.model, alpha=self.alpha, resolution=self.resolution, dtype=self.dtype)

    @property
    def title(self) -> str:
        return self.options.title

    def latency(self, cores: int) -> float:
        """Milliseconds on one core or on all."""
        return self.milliseconds if cores == 1 else self.milliseconds_all_cores


@dataclass(frozen=True)
class Twin:
    """A network beside its twin with standard convolutions, and how many times more the twin costs."""

    model: str
    mult_adds: float
    one_core: float
    all_cores: float


@dataclass(frozen=True)
class SweepResult:
    """All networks of a sweep in the requested order, and their plain twins if there are any."""

    target: str
    title: str
    core: str
    cores: int
    board: str
    networks: list[Variant]
    twins: list[Twin]


def _chart(result: SweepResult) -> str:
    from tvm_mobilenet.report import vega
    from tvm_mobilenet.survey import sweep_page

    known = any(one.top1 is not None for one in result.networks)
    return vega.svg(sweep_page.front_chart(result, 1)) if known else ""


def _about(result: SweepResult) -> str:
    return f"{len(result.networks)} networks on {result.target}, {result.board} board"


notebook.shows(SweepResult, _about, _chart)(print_result)


def sweep(
    networks: Sequence, target, board: str = "virtual", *, twins: bool = False, estimates: Path = ESTIMATES, **how
) -> SweepResult:
    """The cost of networks on a board beside their published accuracy.

    Parameters
    ----------
    networks : list of ModelOptions
        Of the registry, as ``networks_of`` gives them.
    target : targets.Target
    twins : bool
        Also compare each v1 network of the largest resolution with its twin of standard convolutions.
    estimates, how
        As ``survey.estimates.estimate_networks`` takes them.

    Raises
    ------
    TvmMobilenetError
        The registry lacks a network, or a kernel does not run.
    """
    from tvm_mobilenet.survey import estimates as estimating

    networks = list(networks)
    separable = [n for n in networks if n.model == "v1"]
    largest = max((n.resolution for n in separable), default=0)
    pairs = [(n, dataclasses.replace(n, model="v1-plain")) for n in separable if n.resolution == largest and twins]
    pairs += [
        (n, p)
        for n in separable
        for p in networks
        if p == dataclasses.replace(n, model="v1-plain") and (n, p) not in pairs
    ]
    wanted = list(dict.fromkeys([*networks, *(p for pair in pairs for p in pair)]))
    costs = dict(
        zip(wanted, estimating.estimate_networks(wanted, target, board, estimates=estimates, **how), strict=True)
    )
    found = [
        Twin(
            n.title,
            costs[p].mult_adds / costs[n].mult_adds,
            costs[p].cost / costs[n].cost,
            costs[p].cost_all_cores / costs[n].cost_all_cores,
        )
        for n, p in pairs
    ]
    return SweepResult(
        target.name,
        target.title,
        target.core.name,
        target.cores,
        board,
        [_variant(costs[n], target) for n in networks],
        found,
    )


def _variant(estimate, target) -> Variant:
    from tvm_mobilenet.models import registry

    scale = 1e3 / target.clock_hz if estimate.predicted else 1e3
    name = registry.find(estimate.model).name
    top1, source = accuracies().get((name, estimate.alpha, estimate.resolution), (None, ""))
    return Variant(
        estimate.model,
        estimate.alpha,
        estimate.resolution,
        estimate.cost * scale,
        estimate.cost_all_cores * scale,
        estimate.predicted,
        estimate.mult_adds,
        estimate.parameters,
        estimate.parameters_bytes + estimate.code_bytes,
        _memory(estimate, target),
        top1,
        source,
        estimate.dtype,
    )


def _memory(made, target) -> int:
    """Bytes at the peak, of an estimate or of a built module."""
    return made.parameters_bytes + made.arena_bytes + made.scratch_bytes * target.cores


def parser() -> argparse.ArgumentParser:
    """The arguments of ``sweep``."""
    from tvm_mobilenet.models.registry import short_names

    new = entry.parser_for("sweep", __doc__.split("\n")[0])
    group = new.add_argument_group("networks")
    group.add_argument(
        "--families",
        default="v1",
        metavar="NAME,NAME",
        help=f"{', '.join(short_names())} (default: %(default)s)",
    )
    group.add_argument("--alphas", metavar="A,B", help="width multipliers (default: those with a published accuracy)")
    group.add_argument(
        "--resolutions", metavar="A,B", help="multiples of 32 (default: those with a published accuracy)"
    )
    group.add_argument(
        "--dtype",
        type=options.dtypes,
        default=DTYPES[:1],
        metavar="NAME,NAME",
        help="dtypes in which layers compute; every network runs in each (default: float32)",
    )
    options.add_target_options(new)
    group = new.add_argument_group(
        "budget: name the most accurate network that fits, by float32's published top-1, build and verify it"
    )
    group.add_argument("--budget", metavar="TIME", help="longest predicted latency, such as 60ms")
    group.add_argument("--cores", metavar="N", default="1", help="1, or all cores of the target (default: 1)")
    group.add_argument("--memory", metavar="SIZE", help="most memory, such as 64MB, for parameters, arena and scratch")
    group.add_argument(
        "--min-accuracy",
        type=accuracy_options.share,
        metavar="TOP1",
        help="least published top-1 in float32, such as 0.6 or 60%%",
    )
    new.add_argument(
        "--theory",
        action="store_true",
        help="show the papers' ratios of mult-adds beside ratios of predicted cycles on three cores, and exit; with "
        "--html they are part of the report",
    )
    options.add_workers(new)
    options.add_output_options(new)
    new.add_argument("--csv", type=output_file, metavar="FILE", help="write the table with its sources")
    new.add_argument("--html", type=output_file, metavar="FILE", help="write a page with charts, with plain twins too")
    new.add_argument(
        "--estimates",
        type=journal_file,
        default=str(ESTIMATES),
        metavar="FILE",
        help="file of the networks' estimates, which the next sweep reuses (default: %(default)s)",
    )
    return new


def needs(board: str, linker: str | None, builds: bool, workers: str = "", html: bool = False) -> tuple[str, ...]:
    """The modules that a sweep imports. ``builds``: it ends with a build and its verification; ``workers``: the address
    of a cluster; ``html``: it writes a page."""
    model = ModelOptions()
    compare = packages.for_comparing(model) if builds else packages.for_model(model)
    run = (*packages.for_board(board), *packages.for_linking(linker), "elftools")
    return (*compare, *run, *packages.for_workers(workers), *packages.for_pages(html))


def _run(args: argparse.Namespace) -> int:
    refuse_for_sweep(args)
    log = options.log_to_read(args)
    how = dict(estimates=args.estimates, log=log, workers=args.workers, linker=args.linker, debug=args.debug)
    found = None
    if args.theory:
        from tvm_mobilenet.survey import theory

        packages.require("sweep --theory", *needs("virtual", args.linker, False, args.workers.address, bool(args.html)))
        with console.Progress() as progress:
            found = theory.compare(show=show_in(progress), **how)
        if args.json:
            console.print_json(found)
        else:
            theory.print_result(found)
        if not args.html:
            return 0
    networks = networks_of(
        args.families.split(","),
        budget.numbers("--alphas", args.alphas, float),
        budget.numbers("--resolutions", args.resolutions, int),
        args.dtype,
    )
    if (target := options.load_target(args)) is None:
        return 0
    for dtype in args.dtype:
        targets.require(target, dtype)
    limits = budget.limits_of(args, target)
    board = options.board_for(args, target)
    if args.workers.address and board not in ("virtual", "local"):
        refuse(args, ("--workers",), f"{board} runs one network at a time", "leave it out")
    packages.require("sweep", *needs(board, args.linker, bool(limits), args.workers.address, bool(args.html)))
    console.say(f"sweep {len(networks)} networks on {target.name} ({target.title}), {board} board")
    console.say(f"  estimates   {args.estimates}")
    with console.Progress() as progress:
        result = sweep(networks, target, board, twins=args.html is not None, show=show_in(progress), **how)
    if args.csv:
        write_csv(result, args.csv)
        console.say(f"table: {args.csv}")
    if args.html:
        from tvm_mobilenet.survey import sweep_page

        sweep_page.page(result, found).write(args.html, "--html")
        console.say(f"page: {args.html}")
    document = console.plain_data(result)
    if found:  # not with --theory alone, which has printed everything
        return 0
    if not args.json:
        print_result(result)
    if limits:
        return _build_best(result, limits, args, target, board, document)
    if args.json:
        console.print_json(document)
    return 0


def _build_best(result: SweepResult, limits, args: argparse.Namespace, target, board: str, document: dict) -> int:
    """Build and verify the best network that fits the budget; if none fits, say by how much the nearest misses it."""
    from tvm_mobilenet.build import build
    from tvm_mobilenet.cli.notices import announce
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.verify import verify

    done: dict = {}

    def made(network: Variant) -> Variant:
        model = network.options
        console.say(f"build {model.title}")
        loaded = load_network(model)
        announce(loaded)
        done["build"] = build(
            model,
            target,
            log=args.log,
            output=options.output_folder(args, model, target),
            linker=args.linker,
            network=loaded,
        )
        console.say(f"verify {done['build'].folder}")
        found = done["verification"] = verify(done["build"].folder, board=board, network=loaded)
        found.require()
        final = dataclasses.replace(
            network,
            milliseconds=found.milliseconds,
            milliseconds_all_cores=found.milliseconds_all_cores,
            memory_bytes=_memory(done["build"], target),
        )
        for why in limits.misses(final):
            console.say(
                f"{final.title} was estimated at {network.latency(limits.cores):.2f} ms; the built module has {why}"
            )
        return final

    best, over = budget.choose(result.networks, limits, made)
    document["built_and_over"] = over
    if best is None:
        finals = {n.title: n for n in over}
        nearest, why = budget.nearest([finals.get(n.title, n) for n in result.networks], limits)
        if args.json:
            console.print_json({**document, "chosen": None, "nearest": nearest.title, "misses": why})
        raise RegressionError(
            f"no network fits {limits}; the nearest, {nearest.title}: {', '.join(why)}",
            "allow more, or sweep smaller --alphas and --resolutions",
        )
    checked = done["verification"]
    if args.json:
        verification = {**console.plain_data(checked), "ok": checked.ok}
        console.print_json({**document, "chosen": best, "build": done["build"], "verification": verification})
        return 0
    console.print_text(
        f"\nchosen    {best.title}: {best.latency(limits.cores):.1f} ms on {limits.cores} "
        f"core{'s' if limits.cores > 1 else ''}, {best.memory_bytes / 1e6:.1f} MB, {budget.accuracy(best)}; "
        f"the best that fits {limits}",
        indent=10,
    )
    console.print_text(f"{done['build'].summary()}\n{checked.summary()}", indent=10)
    return 0


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
