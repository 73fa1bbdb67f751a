"""The search over all layers: the choice of the next layer, under one time limit for the whole network.

The next trial goes to the layer with the largest expected gain per second: ``count * (best - floor) / (stale + 3)²``
over the layer's seconds per trial. ``count`` is the number of times that the network has the layer, ``floor`` its cost
at peak and ``stale`` the number of trials since its last improvement. `layer_search` chooses the next candidate of a
layer. `turns` decides how many candidates run ahead of results, independently of the speed of workers.

Every trial is logged as soon as it ends, so a search that was stopped at any moment continues from the log.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.tune_logs.log import Record, identity
from tvm_mobilenet.tuning.layer_search import LayerSearch
from tvm_mobilenet.tuning.turns import Turns
from tvm_mobilenet.tuning.workers import Done, keep_busy

FAILED_IN_A_ROW = 8  # a search gives up if so many of its first candidates all fail


def near(layers: dict[str, LayerSearch], kind_of: Callable[[str], object]) -> dict[str, list[str]]:
    """For each layer, the others of its kind and dtype, nearest in size first. The layer starts from their
    decisions.
    """

    def distance(a, b) -> float:
        sizes = [(a.height * a.width, b.height * b.width), (a.channels, b.channels), (a.out_channels, b.out_channels)]
        return sum(abs(math.log(x / y)) for x, y in sizes)

    parsed = {name: kind_of(name) for name in layers}
    alike = {
        name: [
            other
            for other in layers
            if other != name
            and parsed[other].kind == parsed[name].kind
            and parsed[other].dtype == parsed[name].dtype
            and parsed[other].kernel == parsed[name].kernel
            and parsed[other].stride == parsed[name].stride
        ]
        for name in layers
    }
    return {
        name: sorted(others, key=lambda other: distance(parsed[name], parsed[other]))[:3]
        for name, others in alike.items()
    }


@dataclass
class Search:
    """All layers of a network together.

    Parameters
    ----------
    layers : dict of str to LayerSearch
    near : dict of str to list of str
        From ``near``.
    write : callable
        ``write(record, best)`` logs a trial, and whether it is the best of its layer.
    time_limit : float
        Seconds for all trials of these layers, including those of earlier runs, with ``workers`` at once.
    """

    layers: dict[str, LayerSearch]
    near: dict[str, list[str]]
    write: Callable[[Record, bool], None]
    time_limit: float = 420.0
    workers: float = 2
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self):
        self.pace: object = ""  # the pace of the pool, in words
        self._turns: Turns | None = None
        self._ended: dict[str, Record] = {}  # the best of each layer, including results that are not told yet

    def resume(self, records: list[Record]) -> int:
        """Take in trials of earlier runs; returns how many of them counted."""
        counted = 0
        for record in records:
            layer = self.layers.get(record.layer)
            if layer and record.whole and identity(record.decisions) in layer.tried:
                layer.settle(record)
            elif layer and identity(record.decisions) not in layer.tried and not layer.space.valid(record.decisions):
                layer.tell(record)
                counted += 1
        return counted

    @property
    def spent(self) -> float:
        """Seconds of search so far, as if all workers had been busy."""
        return sum(layer.seconds for layer in self.layers.values()) / self.workers

    def next(self) -> tuple[LayerSearch, dict] | None:
        """The layer and decisions to try next; None if none is left, or none can be chosen before the next result."""
        if self._turns is None:
            self._turns = Turns(self.layers, self.near)
        return self._turns.next()

    def end(self, record: Record) -> None:
        """Take the result of a trial that `next` gave."""
        layer = self.layers[record.layer]
        before = min((r.score for r in (layer.best, self._ended.get(record.layer)) if r), default=math.inf)
        better = record.cost is not None and record.score < before
        if better:
            self._ended[record.layer] = record
        self.write(record, better)
        self._turns.end(record)

    def run(
        self, workers, record_of: Callable, candidate_of: Callable, progress: Callable[[], None] = lambda: None
    ) -> str:
        """Search until all layers are done or the time is over; returns ``done`` or ``time``.

        Parameters
        ----------
        workers : Workers
        record_of : callable
            ``record_of(done)`` makes the record of a finished trial.
        candidate_of : callable
            ``candidate_of(layer, decisions)`` makes the job for a worker.
        progress : callable
            Called after every trial, and every second.

        Raises
        ------
        TvmMobilenetError
            The first candidates all failed.
        """
        failed = 0.0

        def next_candidate():
            choice = self.next()
            return choice and candidate_of(choice[0].name, choice[1])

        def take(done: Done) -> None:
            nonlocal failed
            record = record_of(done)
            self.end(record)
            failed = failed + 1 if record.cost is None else -math.inf
            if failed >= FAILED_IN_A_ROW:
                raise TvmMobilenetError(
                    f"each of the first {FAILED_IN_A_ROW} candidates failed, the last one, {record.layer}, with: "
                    f"{record.failure}",
                    "this is hardly the candidates' fault: run again with --debug",
                )

        end = self.clock() + max(0.0, self.time_limit - self.spent)
        try:
            return "time" if keep_busy(workers, next_candidate, take, progress, end, self.clock) else "done"
        finally:
            if self._turns is not None:
                self._turns.close()
