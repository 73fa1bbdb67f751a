"""Search the decisions that ship in ``tune_logs``: networks of the papers on every core, the most used first.

    python -m tvm_mobilenet.rebuild_logs --time-limit 2h

The search has two rounds, core by core: the four networks at full width and 224 pixels, then all widths and
resolutions, whose layers start from the results of their nearest ones. A layer that several networks share is searched
once; its weight is its share of each network's floor. Trials are kept in the working folder, and the same command
continues from them until schedules, code generation or the cost model change. ``--dtype float16`` searches the layers
of the same networks in that dtype, on the cores that compute it; their records stand beside those of float32.

After each search the core's file is rewritten. It gets a layer if a whole run of other decisions gave the right result,
and if three conditions hold: their score (``Record.score``) is lower than the default's by more than ``GAIN``; on all
cores they are neither slower nor less evenly shared; and on one core they are slower by ``DEARER`` at most. Valid
records of layers that the search did not reach stay. The same happens when the command is interrupted.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tvm_mobilenet import dtypes, packages
from tvm_mobilenet.cli import entry, options
from tvm_mobilenet.cluster import place
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.files.whole_file import folder_to_write
from tvm_mobilenet.models.options import ModelOptions
from tvm_mobilenet.terminal import console
from tvm_mobilenet.tune_logs import log
from tvm_mobilenet.tuning import session as tuning
from tvm_mobilenet.tuning.layer_search import LayerSearch

GAIN = 0.003  # share of the default's score: a smaller gain is hardly worth a line
DEARER = 0.02  # share of the default's cost on one core, in exchange for gains on four cores and in the caches
TARGETS = ("rpi4", "rpi5", "rpi3")  # a board of each core
TRIALS = 24  # a layer
FULL = tuple(ModelOptions(model=name) for name in ("v1", "v2", "v3-large", "v3-small"))
WIDTHS = (
    *(ModelOptions(alpha=a, resolution=r) for a in (0.25, 0.5, 0.75, 1.0) for r in (224, 192, 160, 128)),
    *(ModelOptions(model="v2", alpha=a) for a in (0.35, 0.5, 0.75, 1.3, 1.4)),
    *(ModelOptions(model=name, alpha=0.75) for name in ("v3-large", "v3-small")),
)
ROUNDS = (FULL, tuple(dict.fromkeys((*FULL, *WIDTHS))))


@dataclass(frozen=True)
class Shipped:
    """The content of a core's file after its search."""

    core: str
    path: Path
    searched: int
    trials: int
    records: int
    default: float
    tuned: float


def weights_of(networks: Iterable, target) -> dict:
    """The weight of each distinct layer of networks: its occurrences over the network's floor."""
    from tvm_mobilenet.compiler import pipeline

    found: dict = {}
    for network in networks:
        counts = pipeline.for_core(network.graph, target.core).counts
        floor = sum(layer.mult_adds * count for layer, count in counts.items())
        for layer, count in counts.items():
            found[layer] = found.get(layer, 0.0) + 1e9 * count / floor
    return found


def winner(search: LayerSearch) -> log.Record | None:
    """The record of a layer that is worth shipping; None if its default stays."""
    default = search.tried.get(log.identity(search.space.default))
    if default is None or default.cost is None:
        return None

    from tvm_mobilenet.schedules.choices import EVEN

    def better(record: log.Record) -> bool:
        if record.cost is None or not record.whole or record.cost > (1 + DEARER) * default.cost:
            return False
        if record.score > (1 - GAIN) * default.score:
            return False
        if record.balance and default.balance and record.balance > max(EVEN, 1.02 * default.balance):
            return False
        return None in (record.cost_all_cores, default.cost_all_cores) or (
            record.cost_all_cores <= default.cost_all_cores
        )

    best = min(filter(better, search.tried.values()), key=lambda r: r.score, default=None)
    return best and replace(best, default_cost=default.cost, seconds=0.0)


def ship(work: tuning.Work, path: Path) -> Shipped:
    """Write a core's file: winners of this search, and earlier records that were not tried again."""
    winners = {name: record for name, s in work.searches.items() if s.tried and (record := winner(s))}

    def overtaken(record: log.Record) -> bool:
        search = work.searches.get(record.layer)
        return search is not None and (
            log.identity(record.decisions) in search.tried or bool(search.space.valid(record.decisions))
        )

    def choose(records: list[log.Record]) -> list[log.Record]:
        kept = {r.layer: r for r in records if not overtaken(r)}
        return [r for _, r in sorted((kept | winners).items())]

    log.Journal(path).rewrite(choose)
    costs = [
        (s.count * s.default_cost, s.count * getattr(winners.get(n), "cost", s.default_cost))
        for n, s in work.searches.items()
        if s.default_cost
    ]
    default, tuned = map(sum, zip(*costs, strict=True)) if costs else (0.0, 0.0)
    return Shipped(
        work.target.core.name,
        path,
        len(costs),
        sum(len(s.tried) for s in work.searches.values()),
        sum(1 for _ in log.Journal(path).records()),
        default,
        tuned,
    )


def rebuild(
    targets: Iterable,
    rounds: Iterable = ROUNDS,
    *,
    dtype: str = "float32",
    folder: Path,
    output: Path | None = None,
    trials: int = TRIALS,
    time_limit: float = 7200.0,
    workers: int | str | place.Place = place.PROCESSES,
    debug: bool = False,
) -> list[Shipped]:
    """Search and write the files of all targets' cores.

    Parameters
    ----------
    targets : iterable of targets.Target
    rounds : iterable of tuples of ModelOptions
        Rounds in order, each for all targets.
    dtype : str
        The dtype of the layers.
    folder : path
        Of the trials.
    output : path, optional
        The folder for ``<core>.jsonl``; by default the folder that ships.
    time_limit : float
        Seconds of search in total, including interrupted runs; half of it for the first round.
    workers : int or str
        Processes of this machine, or a Dask cluster (``cluster.place.parse``).
    """
    from tvm_mobilenet.tune import show_search
    from tvm_mobilenet.tuning.runner import Evaluate

    targets, rounds, outlines, done = list(targets), in_dtype(rounds, dtype), {}, {}
    where = place.parse(workers)
    for k, networks in enumerate(rounds):
        for options_ in networks:
            if options_ not in outlines:
                console.say(f"importing {options_.title}")
                outlines[options_] = outline(options_)
        limit = time_limit / len(targets) * (k + 1) / len(rounds)
        for target in targets:
            core = target.core.name
            counts = weights_of((outlines[o] for o in networks), target)
            work = tuning.prepare(counts, target, "virtual", folder / f"{core}.jsonl", trials)
            console.say(f"{core}: {len(counts)} layers of {len(networks)} networks")
            try:
                with console.Progress(30.0) as progress:
                    show, evaluate = show_search(work, progress, limit), Evaluate(target)
                    pool = functools.partial(where.pool, evaluate, tuning.CANDIDATE_SECONDS, debug)
                    tuning.search(work, evaluate, limit, where.processes or None, debug, show, pool=pool)
            finally:
                path = (output or log.shipped(core).parent) / f"{core}.jsonl"
                done[core] = ship(work, path)
                console.say(_line(done[core]))
    return list(done.values())


def outline(network: ModelOptions):
    """The layers of a network as in its build, for any weights; for int8 those of its seeded weights."""
    from tvm_mobilenet.compiler.network import load_network
    from tvm_mobilenet.survey.estimates import weightless

    return load_network(network) if network.dtype == "int8" else weightless(network)


def in_dtype(rounds: Iterable, dtype: str) -> list[tuple[ModelOptions, ...]]:
    """The networks of each round with their layers in a dtype."""
    other = {"dtype": dtype} if dtype != "float32" else {}
    return [tuple(replace(network, **other) for network in networks) for networks in rounds]


def computing(names: Iterable[str] | None, dtype: str) -> list:
    """The targets of these names, which must compute the dtype; without names, those of ``TARGETS`` that do.

    Raises
    ------
    TvmMobilenetError
        A name is unknown, or its target does not compute the dtype.
    """
    from tvm_mobilenet import targets

    chosen = [targets.load(name) for name in names or TARGETS]
    able = [target for target in chosen if target.computes(dtype)]
    if names and len(able) < len(chosen):
        unable = ", ".join(target.name for target in chosen if target not in able)
        raise TvmMobilenetError(
            f"--targets {unable}: no arithmetic of {dtype}",
            f"targets that have it: {', '.join(targets.computing(dtype))}",
        )
    return able


def _line(one: Shipped) -> str:
    gain = f", {1 - one.tuned / one.default:.2%} less than the defaults" if one.default else ""
    return f"{one.core}: {one.searched} layers, {one.trials} trials, {one.records} records in {one.path}{gain}"


def parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    new = entry.parser_for("rebuild_logs", __doc__.split("\n")[0])
    new.add_argument("--targets", action="append", metavar="NAME", help=f"default: {', '.join(TARGETS)}")
    new.add_argument(
        "--dtype", choices=dtypes.OF_DATA, default=dtypes.OF_DATA[0], help="of the layers (default: %(default)s)"
    )
    new.add_argument("--trials", type=options.positive(int), default=TRIALS, help="a layer (default: %(default)s)")
    new.add_argument(
        "--time-limit",
        type=options.time_span,
        default=7200.0,
        metavar="TIME",
        help="of all searches together (default: 2h)",
    )
    options.add_workers(new)
    new.add_argument("--folder", type=folder_to_write, default=str(options.OUTPUT / "rebuild"), help="of the trials")
    new.add_argument("--ship-to", type=folder_to_write, help="of the files; where they ship from unless given")
    new.add_argument("--first", action="store_true", help="only the four networks at full width and 224 pixels")
    return new


def _run(args: argparse.Namespace) -> None:
    wanted = packages.for_model(options.ModelOptions()) + packages.for_board("virtual") + packages.SEARCH
    wanted += packages.for_workers(args.workers.address)
    packages.require("rebuild_logs", *wanted)
    found = rebuild(
        computing(args.targets, args.dtype),
        ROUNDS[:1] if args.first else ROUNDS,
        dtype=args.dtype,
        folder=args.folder,
        output=args.ship_to,
        trials=args.trials,
        time_limit=args.time_limit,
        workers=args.workers,
        debug=args.debug,
    )
    for one in found:
        print(_line(one))


def main(argv: list[str] | None = None) -> int:
    return entry.run_verb(parser(), _run, argv)


if __name__ == "__main__":
    sys.exit(main())
