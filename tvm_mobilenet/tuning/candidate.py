"""What a search tries, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A layer by name, and decisions; ``whole`` to run all of the kernel's tasks."""

    layer: str
    decisions: dict
    whole: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a candidate that computes the right thing costs, and by how much of the output's standard deviation it is
    off.

    ``code``: the key of the code that ran (``tune_logs.keys``), empty if its builder does not tell. Of a predicted
    cost, ``compute``: what it would be if every load hit the first-level cache; ``memory``: what the traffic takes
    at all levels, one after another; ``balance``: the compute cycles of all cores over an even share of it.
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
