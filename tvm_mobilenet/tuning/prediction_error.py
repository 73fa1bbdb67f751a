"""The error of the virtual board's predictions against measurements on a real board, layer by layer, on one core.

After a tuning run on a real board, each layer's best decisions have a measured cost. Their predicted cost comes from
the trial log if the virtual board has run them, and is computed now if it has not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from tvm_mobilenet.terminal.titles import title
from tvm_mobilenet.tune_logs.log import Today, identity, target_name, trials_of
from tvm_mobilenet.tuning.candidate import Candidate
from tvm_mobilenet.tuning.runner import Evaluate
from tvm_mobilenet.tuning.workers import Done, keep_busy

CANDIDATE_SECONDS = 60.0
TIME_LIMIT = 90.0  # seconds for predictions; the remaining layers are left out


@dataclass(frozen=True)
class LayerPrediction:
    """One layer's best decisions: measured and predicted seconds on one core, and the number of times the network has
    the layer.
    """

    layer: str
    count: int
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """``predicted / measured - 1``."""
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class PredictionError:
    """All layers that were predicted; ``left_out`` is the number of the others."""

    board: str
    layers: list[LayerPrediction]
    left_out: int = 0

    @property
    def error(self) -> float:
        """The error of all layers together, weighted by their number in the network."""
        return sum(p.predicted * p.count for p in self.layers) / sum(p.measured * p.count for p in self.layers) - 1

    def summary(self) -> str:
        """For people, one line."""
        if not self.layers:
            return "predictor no layer was predicted"
        off = statistics.median(abs(p.error) for p in self.layers)
        worst = max(self.layers, key=lambda p: abs(p.error))
        rest = f"; {self.left_out} layers left out" if self.left_out else ""
        return (
            f"predictor {self.error:+.0%} against {self.board} over {len(self.layers)} layers on 1 core; a layer "
            f"is off by {off:.0%} (median), at most by {worst.error:+.0%} ({title(worst.layer)}){rest}"
        )


def find(work, pool: Callable, linker: str | None = None, limit: float = TIME_LIMIT):
    """The `PredictionError` of a search on a real board; None for a target without predictions.

    Parameters
    ----------
    work : tuning.Work
        After its search.
    pool : callable
        ``pool(evaluate, seconds)`` makes the pool that predicts costs which the log does not have.
    limit : float
        Seconds for these predictions.
    """
    target = work.target
    if target.architecture not in ("aarch64", "armv7") or not getattr(target.core, "model", None):
        return None
    best = {name: s.best for name, s in work.searches.items() if s.best is not None and not s.best.predicted}
    predicted = _known(work, best)
    missing = [Candidate(name, r.decisions) for name, r in best.items() if name not in predicted]

    def take(done: Done) -> None:
        if done.value is not None:
            predicted[done.job.layer] = done.value.cost

    if missing:
        with pool(Evaluate(target, "virtual", linker), CANDIDATE_SECONDS) as running:
            keep_busy(running, lambda: missing.pop() if missing else None, take, end=time.monotonic() + limit)
    layers = [
        LayerPrediction(name, work.searches[name].count, record.cost, predicted[name] / target.clock_hz)
        for name, record in best.items()
        if name in predicted
    ]
    return PredictionError(work.board, layers, len(best) - len(layers))


def _known(work, best: dict) -> dict[str, float]:
    """Predicted cycles from the trial log, by layer."""
    points = {(name, identity(record.decisions)) for name, record in best.items()}
    today = Today(work.target)
    found = {}
    for record in trials_of(work.log).records():
        at = record.layer, identity(record.decisions)
        mine = target_name(record.target) == work.target.name
        if mine and record.predicted and record.cost is not None and at in points and today.counts(record):
            found[record.layer] = record.cost
    return found
