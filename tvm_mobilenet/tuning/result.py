"""The result of a tuning run, for each layer and for the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class LayerResult:
    """The result for one layer. Costs are in ``TuneResult.unit``, on one core; ``compute`` is part of the tuned
    cost.
    """

    layer: str
    count: int
    decisions: dict
    source: str
    points: int | None
    trials: int
    floor: float
    untuned: float | None
    tuned: float | None
    tuned_all_cores: float | None
    curve: list[float] = field(default_factory=list, repr=False)
    compute: float | None = None

    @property
    def floor_multiple(self) -> float | None:
        return self.tuned / self.floor if self.tuned and self.floor else None


@dataclass(frozen=True)
class TuneResult:
    """The result of `tune`.

    Parameters
    ----------
    ended : str
        ``done`` if nothing is left to search, ``time`` if the time limit ended the search.
    layers : list of LayerResult
        Each distinct layer once.
    unit, predicted
        Of all costs.
    untuned, tuned, tuned_all_cores, floor : float or None
        Costs of the whole network, as a sum of single layers whose operand was just written; None while a layer is
        unknown. Predicted costs are compute and memory; the floor is that of the multiply-adds alone.
    compute : float or None
        As ``tuned``, if every load hit the first-level cache; None for measured costs.
    floor_float32 : float or None
        For multiply-adds in another dtype, their floor in float32.
    build, verification
        The results of `build.build` and `verify.verify`.
    prediction : PredictionError or None
        For a real board: the error of the virtual board against it.
    """

    model: str
    target: str
    core: str
    cores: int
    board: str
    ended: str
    unit: str
    predicted: bool
    layers: list[LayerResult]
    untuned: float | None
    tuned: float | None
    tuned_all_cores: float | None
    floor: float
    clock_hz: float
    log: Path
    new_trials: int
    build: object = None
    verification: object = None
    prediction: object = None
    compute: float | None = None
    floor_float32: float | None = None

    def milliseconds(self, cost: float | None) -> float | None:
        """A cost of this result as milliseconds on the target."""
        return cost and 1e3 * (cost / self.clock_hz if self.unit == "cycles" else cost)
