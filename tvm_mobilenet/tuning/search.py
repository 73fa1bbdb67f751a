"""The search over decisions: which candidate of which layer to try next, under one limit for the whole network.

Within a layer, one after the other:
1. the default decisions, the best known ones, and those of near layers (``Space.nearest``),
2. in turns: neighbours of the best point that have not been tried (a step along one choice), and a proposal of Optuna's
   TPE sampler, which learns from every trial of the layer, until
3. all points have been tried, or the layer's number of trials is used up, or the time is.
A space of no more points than trials is thus searched exhaustively, best regions first.

Between layers: the next trial goes to where it is expected to gain most a second, ``count * (best - floor) / (stale +
3)²`` over the layer's seconds a trial, where ``count`` is how often the network has the layer, ``floor`` its peak
and ``stale`` the number of trials since it last improved.

Every trial is in the log before the next one is chosen, so a search that was stopped at any moment goes on from the
log.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.tune_logs.log import Record, identity
from tvm_mobilenet.tuning.workers import Done, keep_busy

LISTED = 1_000  # points at most for a space to be listed; a larger one is sampled
PROPOSALS = 4  # of the sampler, until one is valid and new
AGAIN = 3  # points of a layer that are estimated again when the cost model has changed, the best first
FAILED_IN_A_ROW = 8  # candidates from the first one on, after which a search gives up
STALE_BEFORE_NEAR = 6  # trials without gain after which a layer asks its near layers again


@dataclass
class LayerSearch:
    """The search of one layer: what was tried, what is best, what to try next.

    Parameters
    ----------
    name : str
        The layer's name.
    space : schedules.Space
        Its decisions.
    count : int
        How often the network has it.
    floor : float
        Cycles of its multiply-adds alone.
    trials : int
        At most so many candidates are tried.
    """

    name: str
    space: object
    count: int = 1
    floor: float = 0.0
    trials: int = 48
    starts: list[dict] = field(default_factory=list)
    tried: dict[str, Record] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)  # tried before today's estimates; not tried again
    confirmed: set[str] = field(default_factory=set)  # points whose whole kernel was run and found right
    best: Record | None = None
    stale: int = 0
    seconds: float = 0.0
    curve: list[float] = field(default_factory=list)  # best point's cost after each trial

    def __post_init__(self):
        listed = list(itertools.islice(self.space.points(), LISTED + 1))
        self.points = listed if len(listed) <= LISTED else None
        self._turn = 0
        self._random = random.Random(self.name)
        self._study = None
        self.starts.insert(0, self.space.default)

    @property
    def default_cost(self) -> float | None:
        record = self.tried.get(identity(self.space.default))
        return record and record.cost

    @property
    def size(self) -> int | None:
        """How many points there are; None: more than ``LISTED``."""
        return self.points and len(self.points)

    @property
    def most(self) -> int:
        """How many trials there will be at most."""
        return min(self.trials, self.size or self.trials)

    @property
    def done(self) -> bool:
        return len(self.tried) + len(self.running) + len(self.passed) >= self.most

    @property
    def searched(self) -> bool:
        """Whether no trial is left, nor one still running."""
        return len(self.tried) + len(self.passed) >= self.most

    @property
    def gain(self) -> float:
        """Cycles that the next trial is expected to save the network, a second of search."""
        started = len(self.tried) + len(self.running)
        if started == 0:
            return math.inf
        if self.best is None or started < 2:
            return 1e12 * self.count / started
        above = max(self.best.cost - self.floor, 0.005 * self.best.cost)
        seconds = self.seconds / max(1, len(self.tried))
        return self.count * above / (self.stale + 3 + 2 * len(self.running)) ** 2 / max(seconds, 0.05)

    def estimate_again(self, records: list[Record]) -> None:
        """Take in trials whose code is today's, but whose costs are not: the best few are tried again, the others count
        as tried."""
        ordered = sorted((r for r in records if r.cost is not None), key=lambda r: r.score)
        best = [r.decisions for r in ordered if not self.space.valid(r.decisions)][:AGAIN]
        self.starts += [decisions for decisions in best if decisions not in self.starts]
        retried = {identity(decisions) for decisions in self.starts}
        for record in records:
            if (key := identity(record.decisions)) not in retried:
                self.passed.add(key)

    def settle(self, record: Record) -> None:
        """Take a run of the whole kernel in place of the point's sample; another point may be best then."""
        key = identity(record.decisions)
        self.tried[key] = record
        if record.cost is not None:
            self.confirmed.add(key)
        self.best = min((r for r in self.tried.values() if r.cost is not None), key=lambda r: r.score, default=None)

    def tell(self, record: Record) -> bool:
        """Take note of a trial; whether it is the best so far."""
        key = identity(record.decisions)
        self.running.discard(key)
        self.passed.discard(key)
        self.tried[key] = record
        if record.whole and record.cost is not None:
            self.confirmed.add(key)
        self.seconds += record.seconds
        better = record.cost is not None and (self.best is None or record.score < self.best.score)
        if better:
            self.best = record
        self.stale = 0 if better else self.stale + 1
        self.curve.append(self.best.cost if self.best else math.inf)
        if self._study is not None:
            self._teach(record)
        return better

    def ask(self) -> dict | None:
        """Decisions to try next, now counted as running; None when there are none left."""
        if self.done:
            return None
        for decisions in self._candidates():
            if self._new(decisions):
                self.running.add(identity(decisions))
                return decisions
        return None

    def _new(self, decisions: dict) -> bool:
        key = identity(decisions)
        return key not in self.tried and key not in self.running and key not in self.passed

    def _candidates(self) -> Iterator[dict]:
        while self.starts:
            start = self.starts.pop(0)
            if not self.space.valid(start):
                yield start
        self._turn += 1
        if self.best is not None and self._turn % 2:
            yield from self._neighbours()
        yield from self._proposals()
        if self.best is not None:
            yield from self._neighbours()
        yield from self._random_points()

    def _random_points(self) -> Iterator[dict]:
        if self.points is not None:
            yield from self._random.sample(self.points, len(self.points))
            return
        for _ in range(10_000):
            point = {name: self._random.choice(choice.candidates) for name, choice in self.space.choices.items()}
            if not self.space.valid(point):
                yield point

    def _neighbours(self) -> Iterator[dict]:
        near = list(self.space.neighbours(self.best.decisions))
        self._random.shuffle(near)
        yield from near

    def _proposals(self) -> Iterator[dict]:
        if len(self.tried) < 4 or len(self.tried) > 0.7 * (self.size or math.inf):
            return  # nothing learned yet, or so little left that proposals would be known ones
        if self._study is None:
            self._open_study()
        for _ in range(PROPOSALS):
            trial = self._study.ask(self._distributions)
            decisions = {
                name: self._choices[name][trial.params[name]] if name in self._ordered else trial.params[name]
                for name in self._distributions
            }
            refused = self.space.valid(decisions)
            self._study.tell(trial, None if not refused else self._worst * 4, state=None if refused else self._fail)
            if not refused:
                yield decisions

    def _open_study(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._fail = optuna.trial.TrialState.FAIL
        self._choices = {name: choice.candidates for name, choice in self.space.choices.items()}
        self._ordered = {
            name for name, c in self._choices.items() if isinstance(c[0], int) and not isinstance(c[0], bool)
        }
        self._distributions = {
            name: optuna.distributions.IntDistribution(0, len(candidates) - 1)
            if name in self._ordered
            else optuna.distributions.CategoricalDistribution(candidates)
            for name, candidates in self._choices.items()
        }
        sampler = optuna.samplers.TPESampler(
            seed=self._random.randrange(1 << 30), n_startup_trials=4, multivariate=True
        )
        self._study = optuna.create_study(sampler=sampler)
        for record in self.tried.values():
            self._teach(record)

    @property
    def _worst(self) -> float:
        return max((r.score for r in self.tried.values() if r.cost is not None), default=1.0)

    def _teach(self, record: Record) -> None:
        import optuna

        if self.space.valid(record.decisions):
            return
        parameters = {
            name: self._choices[name].index(value) if name in self._ordered else value
            for name, value in record.decisions.items()
        }
        value = record.score if record.cost is not None else self._worst * 4
        self._study.add_trial(
            optuna.trial.create_trial(params=parameters, distributions=self._distributions, value=value)
        )


def near(layers: dict[str, LayerSearch], kind_of: Callable[[str], object]) -> dict[str, list[str]]:
    """For each layer, the others of its kind and dtype, the nearest in size first: their decisions are where it
    starts."""

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
        As ``near`` gives it.
    write : callable
        ``write(record, best)`` logs a trial, and whether it is the best of its layer.
    time_limit : float
        Seconds for all trials of these layers, those of earlier runs included, with ``workers`` at once.
    """

    layers: dict[str, LayerSearch]
    near: dict[str, list[str]]
    write: Callable[[Record, bool], None]
    time_limit: float = 420.0
    workers: int = 2
    clock: Callable[[], float] = time.monotonic

    def resume(self, records: list[Record]) -> int:
        """Take in trials of earlier runs; how many of them counted."""
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
        """Seconds of search that the trials took so far, with all workers busy."""
        return sum(layer.seconds for layer in self.layers.values()) / self.workers

    def next(self) -> tuple[LayerSearch, dict] | None:
        """The layer and decisions to try next; None when all layers are done."""
        for layer in sorted(self.layers.values(), key=lambda layer: -layer.gain):
            if layer.done:
                continue
            if layer.stale >= STALE_BEFORE_NEAR or not layer.tried:
                self._start_from_near(layer)
            decisions = layer.ask()
            if decisions is not None:
                return layer, decisions
            layer.trials = len(layer.tried) + len(layer.running)  # nothing left to propose
        return None

    def _start_from_near(self, layer: LayerSearch) -> None:
        for other in self.near.get(layer.name, ()):
            best = self.layers[other].best
            start = best and layer.space.nearest(best.decisions)
            if start and layer._new(start) and start not in layer.starts:
                layer.starts.append(start)

    def run(
        self, workers, record_of: Callable, candidate_of: Callable, progress: Callable[[], None] = lambda: None
    ) -> str:
        """Search until all layers are done or the time is over; which of the two: ``done`` or ``time``.

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
            self.write(record, self.layers[record.layer].tell(record))
            failed = failed + 1 if record.cost is None else -math.inf
            if failed >= FAILED_IN_A_ROW:
                raise TvmMobilenetError(
                    f"each of the first {FAILED_IN_A_ROW} candidates failed, the last one, {record.layer}, with: "
                    f"{record.failure}",
                    "this is hardly the candidates' fault: run again with --debug",
                )

        end = self.clock() + max(0.0, self.time_limit - self.spent)
        return "time" if keep_busy(workers, next_candidate, take, progress, end, self.clock) else "done"
