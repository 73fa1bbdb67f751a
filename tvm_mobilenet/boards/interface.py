"""What a board gives back."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Measurement:
    """What a kernel or a network costs. ``Seconds`` and ``PredictedCycles`` never compare with each other."""

    value: float

    unit = ""
    predicted = False


@dataclass(frozen=True, order=True)
class Seconds(Measurement):
    """Wall time measured on a real board, in seconds."""

    unit = "s"


@dataclass(frozen=True, order=True)
class PredictedCycles(Measurement):
    """Cycles of one core, predicted by the core model from executed code."""

    unit = "cycles"
    predicted = True
