"""Reasons to doubt a measurement, from the board's state during it, and their remedies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_mobilenet.measuring.statistics import Statistics

CLOCK_MOVED = 0.02  # share of the highest clock seen
WARMED_C = 10.0
BUSY = 0.5  # running tasks per core before the measurement
MANY_OUTLIERS = 0.01  # share of the samples
FIRMWARE_REMEDIES = {
    "under-voltage": "use the supply made for the board, and a short thick cable",
    "clock capped": "cool the board (heat sink, fan) and check its supply",
    "throttled": "cool the board: a heat sink or fan, or a longer --cool-down",
    "soft temperature limit": "cool the board: a heat sink or fan, or a longer --cool-down",
}


@dataclass(frozen=True)
class Mark:
    """One reason for doubt: its ``kind`` (throttled, clock, temperature, warm-up, outliers, load), the observation, the
    remedy.
    """

    kind: str
    text: str
    remedy: str


def marks_of(states: Sequence[dict], time: Statistics, steady: bool, clock_hz: int | None = None) -> list[Mark]:
    """The reasons to doubt one row.

    Parameters
    ----------
    states : sequence of dict
        As ``boards.agent.facts.state`` gives them, the first after warm-up, the last after the last sample.
    time : Statistics
    steady : bool
        Whether the times had settled when warm-up ended.
    clock_hz : int, optional
        The highest clock that the board may run at.
    """
    marks = throttling(states)
    clocks = [s["clock_hz"] for s in states if s.get("clock_hz")]
    if clocks and min(clocks) < (1 - CLOCK_MOVED) * max(clocks):
        marks.append(
            Mark(
                "clock",
                f"the clock moved between {_mhz(min(clocks))} and {_mhz(max(clocks))} MHz",
                _governor_remedy(states),
            )
        )
    elif clocks and clock_hz and max(clocks) < (1 - CLOCK_MOVED) * clock_hz:
        marks.append(
            Mark("clock", f"the clock stayed at {_mhz(max(clocks))} of {_mhz(clock_hz)} MHz", _governor_remedy(states))
        )
    warmth = [s["temperature_c"] for s in states if s.get("temperature_c") is not None]
    if warmth and warmth[-1] - warmth[0] > WARMED_C:
        marks.append(
            Mark(
                "temperature",
                f"it warmed from {warmth[0]:.0f} to {warmth[-1]:.0f} °C",
                "a longer --cool-down, or a heat sink",
            )
        )
    if not steady:
        marks.append(
            Mark(
                "warm-up",
                "the times had not settled when warm-up ended",
                "end what else runs on the board, or measure longer with --seconds",
            )
        )
    if time.outliers > max(1, MANY_OUTLIERS * time.samples):
        marks.append(
            Mark(
                "outliers",
                f"{time.outliers} of {time.samples} samples lie far above the median, the worst "
                f"at {time.max / time.p50:.1f} times it",
                "end what else runs on the board, measure again",
            )
        )
    return marks


def throttling(states: Sequence[dict]) -> list[Mark]:
    """The marks of a board that was slowed down during the measurement."""
    seen = dict.fromkeys(flag for s in states for flag in s.get("throttled") or ())
    marks = [
        Mark(
            "throttled",
            f"{flag} while measuring",
            FIRMWARE_REMEDIES.get(flag, "cool the board: a heat sink or fan, or a longer --cool-down"),
        )
        for flag in seen
    ]
    before, after = (set(s.get("throttled_since_boot") or ()) for s in (states[0], states[-1]))
    marks += [
        Mark("throttled", f"{flag} for a moment while measuring", FIRMWARE_REMEDIES.get(flag, "cool the board"))
        for flag in sorted(after - before - set(seen))
    ]
    counts = [s["throttle_events"] for s in states if s.get("throttle_events") is not None]
    if counts and counts[-1] > counts[0]:
        marks.append(
            Mark(
                "throttled",
                f"{counts[-1] - counts[0]} throttle events while measuring",
                "cool the machine, or a longer --cool-down",
            )
        )
    return marks


def load_mark(facts: dict) -> Mark | None:
    """The mark of a board with other running tasks, from the facts taken before the measurement."""
    load, cores = facts.get("state", {}).get("load"), facts.get("cores") or 1
    if load is None or load <= BUSY * cores:
        return None
    return Mark(
        "load",
        f"{load:.1f} tasks were running on {cores} cores before the measurement",
        "end what else runs on the board",
    )


def _governor_remedy(states: Sequence[dict]) -> str:
    governor = next((s["governor"] for s in reversed(states) if s.get("governor")), "")
    if governor and governor != "performance":
        return f"the governor is {governor}; on the board: sudo cpupower frequency-set -g performance"
    return "cool the board and check its supply"


def _mhz(hertz: float) -> int:
    return round(hertz / 1e6)
