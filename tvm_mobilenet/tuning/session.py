"""The search of a network's layers on a board, with its log: the part of `tune` between import and build.

`prepare` makes a search for each distinct layer, which starts from the decisions in the logs. `search` runs these
searches in worker processes and logs every trial. If only a sample of a layer's best candidate was run, it then runs
that candidate whole. It leaves the tune log tidy, however it ends.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from tvm_mobilenet import schedules
from tvm_mobilenet.layer import Layer
from tvm_mobilenet.tune_logs import keys
from tvm_mobilenet.tune_logs.log import (
    Journal,
    Record,
    Today,
    TuneLogs,
    consulted,
    identity,
    target_key,
    target_name,
    tidy,
    trials_of,
)
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.layer_search import LayerSearch
from tvm_mobilenet.tuning.search import Search, near
from tvm_mobilenet.tuning.workers import Done, Workers, keep_busy

TRIALS = 64  # a layer
TIME_LIMIT = 360.0  # seconds of search for a network, without import, build and verification
CANDIDATE_SECONDS = 60.0
WORTH_STARTING = 0.95  # a share of the time limit: if earlier runs spent more, no workers are started
WHOLE_MULT_ADDS = 400e6  # candidates of smaller layers run whole: a run then costs less than the build


@dataclass(frozen=True)
class Work:
    """All inputs of a network's search: its layers, their spaces, and the logs."""

    target: object
    board: str
    log: Path
    searches: dict  # name to LayerSearch
    near: dict
    known: dict  # name to log.Known

    @property
    def measured(self) -> bool:
        return self.board != "virtual"

    def refuses(self, record: Record) -> bool:
        """Whether a record is of one of these layers on this core, and today's schedule refuses its decisions."""
        search = self.searches.get(record.layer) if record.core == self.target.core.name else None
        return search is not None and bool(search.space.valid(record.decisions))


def prepare(counts: dict, target, board: str, log: Path, trials: int = TRIALS) -> Work:
    """A search for each of a network's layers, with the best decisions that the logs know.

    Parameters
    ----------
    counts : dict of Layer to int
        The number of occurrences of each distinct layer.
    """
    logs = TuneLogs(consulted(log, target.core.name), target)
    searches, known = {}, {}
    for layer, count in counts.items():
        if layer.body is not None:  # a generic layer has no choices
            continue
        floor = layer.mult_adds / target.core.macs_per_cycle(layer.dtype)
        if board != "virtual":
            floor /= target.clock_hz
        found = logs.find(layer)
        searches[layer.name] = LayerSearch(
            layer.name,
            schedules.space(layer, target.core),
            count,
            floor,
            trials,
            starts=[found.record.decisions] if found else [],
        )
        if found:
            known[layer.name] = found
    return Work(target, board, log, searches, near(searches, Layer.parse), known)


def resume(work: Work, searching) -> int:
    """Resume from the trials of earlier runs that are still valid: those with the same target, board and code.

    If the cost model or the core's figures have changed, the few best of them are estimated again, and the others count
    as tried.
    """
    today, name = Today(work.target), target_name(target_key(work.target))
    same, again = [], []
    for record in trials_of(work.log).records():
        mine = record.core == work.target.core.name and target_name(record.target) == name
        if mine and record.board == work.board and record.layer in work.searches and today.builds(record):
            (same if today.counts(record) else again).append(record)
    for layer in work.searches.values():
        layer.estimate_again([record for record in again if record.layer == layer.name])
    return searching.resume(same)


def search(
    work: Work,
    evaluate,
    time_limit: float = TIME_LIMIT,
    workers: int | None = 2,
    debug: bool = False,
    show: Callable[[Search], None] = lambda searching: None,
    timeout: float = CANDIDATE_SECONDS,
    pool: Callable | None = None,
) -> tuple[str, int]:
    """Search, run the best candidates whole, and log. Returns ``done`` or ``time``, and the number of new trials.

    In one piece, since it must release everything that it starts, however the search ends.

    Parameters
    ----------
    evaluate : callable
        ``tuning.runner.Evaluate``, or a replacement in tests.
    show : callable
        Called with the `Search` now and then, to show progress.
    pool : callable, optional
        ``pool()`` makes a pool that runs candidates, such as a `fleet.Fleet`, in place of ``Workers`` that call
        ``evaluate``. ``workers`` is then the number that it runs at once, or None if only the pool knows it.
    """
    best_log, trial_log = Journal(work.log), trials_of(work.log)
    facts = {
        "core": work.target.core.name,
        "in_order": work.target.core.in_order,
        "target": target_key(work.target),
        "board": work.board,
        "estimate": "" if work.measured else keys.estimate_key(work.target),
        "sources": keys.sources_key(),
        "versions": versions(),
    }

    def record_of(done: Done) -> Record:
        found, job = done.value, done.job
        return Record(
            layer=job.layer,
            decisions=job.decisions,
            code=(found and found.code) or code_of(job),
            cost=found and found.cost,
            whole=job.whole,
            failure=done.failure,
            unit=found.unit if found else "s" if work.measured else "cycles",
            predicted=found.predicted if found else not work.measured,
            cost_all_cores=found and found.cost_all_cores,
            cores=work.target.cores,
            compute=found and found.compute,
            balance=found and found.balance,
            memory=found and found.memory,
            seconds=done.seconds,
            **facts,
        )

    def code_of(job: Candidate) -> str:
        """The code key of a candidate whose outcome has none, because it failed or its builder computes no key."""
        try:
            return keys.code_key(Layer.parse(job.layer), job.decisions, work.target)
        except (ValueError, KeyError, TypeError):  # no schedule accepts them, and the trial says so
            return ""

    def candidate_of(name: str, decisions: dict) -> Candidate:
        return Candidate(name, decisions, whole=work.measured or Layer.parse(name).mult_adds <= WHOLE_MULT_ADDS)

    def write(record: Record, best: bool) -> None:
        trial_log.append(record)
        if best and record.whole:  # builds use only decisions whose kernel was run whole
            _write_best(best_log, work.searches[record.layer], record)

    searching = Search(work.searches, work.near, write, time_limit, workers or math.inf)
    resume(work, searching)
    before = sum(len(layer.tried) for layer in work.searches.values())
    waiting = any(not layer.done for layer in work.searches.values()) and searching.spent < WORTH_STARTING * time_limit
    if not waiting and not _unconfirmed(work):
        return ("done" if all(layer.done for layer in work.searches.values()) else "time"), 0
    ended = "done"
    try:
        with pool() if pool else Workers(evaluate, workers, timeout, debug) as running:
            searching.pace = running.pace
            if workers is None:
                searching.workers = max(1, running.pace.workers)
            ended = searching.run(running, record_of, candidate_of, lambda: show(searching))
            _confirm(work, running, record_of, trial_log, best_log, lambda: show(searching))
        _warn_of_failures(work)
    finally:
        if work.log.exists():
            tidy(work.log, work.refuses, Today(work.target))
    return ended, sum(len(layer.tried) for layer in work.searches.values()) - before


def _warn_of_failures(work: Work) -> None:
    for layer in work.searches.values():
        if layer.tried and layer.best is None:
            failure = next(iter(layer.tried.values())).failure
            warnings.warn(f"no candidate of {layer.name} ran; the first: {failure}", stacklevel=3)


def _write_best(best_log: Journal, layer, record: Record) -> None:
    best_log.append(replace(record, default_cost=layer.default_cost, seconds=0.0))


def _unconfirmed(work: Work) -> list:
    return [
        layer
        for layer in work.searches.values()
        if layer.best is not None and identity(layer.best.decisions) not in layer.confirmed
    ]


def _confirm(work: Work, pool, record_of: Callable, trial_log: Journal, best_log: Journal, show: Callable) -> None:
    """Run the best candidate of each layer whole, if only a sample of it was run. If it is wrong, or slower than the
    next best, that one follows.
    """
    waiting = _unconfirmed(work)

    def next_candidate() -> Candidate | None:
        layer = waiting.pop() if waiting else None
        return layer and Candidate(layer.name, layer.best.decisions, whole=True)

    def take(done: Done) -> None:
        record = record_of(done)
        trial_log.append(record)
        layer = work.searches[record.layer]
        layer.settle(record)
        if layer.best is not None and identity(layer.best.decisions) not in layer.confirmed:
            waiting.append(layer)
        elif layer.best is not None:
            _write_best(best_log, layer, layer.best)

    keep_busy(pool, next_candidate, take, show)


def versions() -> dict[str, str]:
    """The versions of the tools that a cost depends on."""
    found = {}
    for package in ("apache-tvm", "unicorn", "optuna"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
