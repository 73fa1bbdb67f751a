"""The search of one layer's decisions: the order in which candidates are tried.

The order is:
1. the default decisions, the best known ones, and those of similar layers (``Space.nearest``),
2. alternately: neighbours of the best point that have not been tried (a step along one choice), and a proposal of
   Optuna's TPE sampler, which learns from every trial of the layer, until
3. all points have been tried, or the layer's trials or the time are used up.
So a space with no more points than trials is searched exhaustively, best regions first.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tvm_mobilenet.tune_logs.log import Record, identity

LISTED = 1_000  # a space with more points is sampled, not listed
PROPOSALS = 4  # the sampler is asked at most so often for a point that is valid and new
AGAIN = 3  # number of a layer's best points that are estimated again if the cost model has changed


@dataclass
class LayerSearch:
    """The search of one layer: the points that were tried, the best one, and the next one.

    Parameters
    ----------
    name : str
        The layer's name.
    space : schedules.Space
        The layer's search space.
    count : int
        Number of times that the network has the layer.
    floor : float
        Cycles of its multiply-adds alone.
    trials : int
        Largest number of candidates to try.
    """

    name: str
    space: object
    count: int = 1
    floor: float = 0.0
    trials: int = 48
    starts: list[dict] = field(default_factory=list)
    tried: dict[str, Record] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)  # asked for, without a result yet
    queued: deque[dict] = field(default_factory=deque)  # those of them that no worker has started
    passed: set[str] = field(default_factory=set)  # tried with earlier estimates; not tried again
    confirmed: set[str] = field(default_factory=set)  # points whose whole kernel was run and is correct
    best: Record | None = None
    stale: int = 0  # trials since the last improvement
    seconds: float = 0.0  # of all trials
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
        """The number of points; None if there are more than ``LISTED``."""
        return self.points and len(self.points)

    @property
    def most(self) -> int:
        """The largest number of trials."""
        return min(self.trials, self.size or self.trials)

    @property
    def done(self) -> bool:
        return len(self.tried) + len(self.running) + len(self.passed) >= self.most

    @property
    def searched(self) -> bool:
        """Whether no trial is left, nor one still running."""
        return len(self.tried) + len(self.passed) >= self.most

    @property
    def begun(self) -> int:
        """The number of running trials."""
        return len(self.running) - len(self.queued)

    @property
    def gain(self) -> float:
        """Expected saving of the next trial, in cycles of the network per second of search."""
        started = len(self.tried) + self.begun
        if started == 0:
            return math.inf
        if self.best is None or started < 2:
            return 1e12 * self.count / started
        above = max(self.best.cost - self.floor, 0.005 * self.best.cost)
        seconds = self.seconds / max(1, len(self.tried))
        return self.count * above / (self.stale + 3 + 2 * self.begun) ** 2 / max(seconds, 0.05)

    def estimate_again(self, records: list[Record]) -> None:
        """Take in trials with today's code but earlier estimates. The best few are tried again, the others count as
        tried.
        """
        ordered = sorted((r for r in records if r.cost is not None), key=lambda r: r.score)
        best = [r.decisions for r in ordered if not self.space.valid(r.decisions)][:AGAIN]
        self.starts += [decisions for decisions in best if decisions not in self.starts]
        retried = {identity(decisions) for decisions in self.starts}
        for record in records:
            if (key := identity(record.decisions)) not in retried:
                self.passed.add(key)

    def settle(self, record: Record) -> None:
        """Replace a point's sampled result by that of the whole kernel; another point may then be the best."""
        key = identity(record.decisions)
        self.tried[key] = record
        if record.cost is not None:
            self.confirmed.add(key)
        self.best = min((r for r in self.tried.values() if r.cost is not None), key=lambda r: r.score, default=None)

    def tell(self, record: Record) -> bool:
        """Record a trial; returns whether it is the best so far."""
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
        """The next decisions to try, which then count as running; None if none is left."""
        if self.done:
            return None
        for decisions in self._candidates():
            if self._new(decisions):
                self.running.add(identity(decisions))
                return decisions
        return None

    def start_from(self, decisions: dict) -> None:
        """Try next the point nearest to the decisions of another layer."""
        start = self.space.nearest(decisions)
        if start and self._new(start) and start not in self.starts:
            self.starts.append(start)

    def forget(self) -> None:
        """Drop the decisions that were asked for and have no result."""
        self.running.clear()
        self.queued.clear()

    def _new(self, decisions: dict) -> bool:
        key = identity(decisions)
        return key not in self.tried and key not in self.running and key not in self.passed

    def _candidates(self) -> Iterator[dict]:
        while self.starts:
            start = self.starts.pop(0)
            if not self.space.valid(start):
                yield start
        self._turn += 1
        if self._turn % 2:
            yield from self._neighbours()
        yield from self._proposals()
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
        """Neighbours of the best point, or of the default while there is no result."""
        near = list(self.space.neighbours(self.best.decisions if self.best else self.space.default))
        self._random.shuffle(near)
        yield from near

    def _proposals(self) -> Iterator[dict]:
        if len(self.tried) < 4 or len(self.tried) > 0.7 * (self.size or math.inf):
            return  # nothing learned yet, or so few points left that proposals would repeat known ones
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
