"""The jobs of a search and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A layer by name, and decisions; ``whole`` runs all of the kernel's tasks."""

    layer: str
    decisions: dict
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """The cost of a candidate with a correct result, and its error in standard deviations of the output.

    ``code``: the key of the code that ran (``tune_logs.keys``), empty if its builder does not give it. The other fields
    belong to predicted costs. ``compute``: the cost if every load hit the first-level cache. ``memory``: the cycles of
    the traffic at all levels, added up. ``balance``: the compute cycles on all cores over an even share of them.
    """

    cost: float
    unit: str
    predicted: bool
    difference: float
    cost_all_cores: float | None = None
    compute: float | None = None
    memory: float | None = None
    balance: float | None = None
    code: str = ""
