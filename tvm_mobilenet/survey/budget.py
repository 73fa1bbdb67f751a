"""Budgets: parse a user's limits, and find the best network within them or the nearest beyond."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm_mobilenet import dtypes
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.models.options import DTYPES

TIMES = {"us": 1e-3, "ms": 1.0, "s": 1e3}  # to milliseconds
SIZES = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True)
class Limits:
    """The most milliseconds on a number of cores, the most bytes of memory, the least top-1 (0..1)."""

    milliseconds: float | None = None
    cores: int = 1
    memory_bytes: float | None = None
    accuracy: float | None = None

    def __str__(self) -> str:
        parts = []
        if self.milliseconds is not None:
            parts.append(f"{self.milliseconds:g} ms on {self.cores} core{'s' if self.cores > 1 else ''}")
        if self.memory_bytes is not None:
            parts.append(f"{self.memory_bytes / 1e6:g} MB")
        if self.accuracy is not None:
            parts.append(f"top-1 of {100 * self.accuracy:g} %")
        return ", ".join(parts)

    def misses(self, network) -> dict[str, float]:
        """Each limit that a network exceeds, as text, and by which share of the limit; empty if it fits."""
        found: dict[str, float] = {}
        if self.milliseconds is not None:
            value = network.latency(self.cores)
            if (over := value / self.milliseconds - 1) > 0:
                found[f"{value:.2f} ms, {value - self.milliseconds:.2f} ms ({over:.1%}) over"] = over
        if self.memory_bytes is not None and (over := network.memory_bytes / self.memory_bytes - 1) > 0:
            more = (network.memory_bytes - self.memory_bytes) / 1e6
            found[f"{network.memory_bytes / 1e6:.2f} MB, {more:.2f} MB ({over:.1%}) over"] = over
        if self.accuracy is not None and (network.top1 is None or network.top1 < self.accuracy):
            if network.top1 is None:
                found["no published accuracy"] = float("inf")
            else:
                under = 1 - network.top1 / self.accuracy
                points = 100 * (self.accuracy - network.top1)
                whose = " of float32" * of_float32(network)
                found[f"top-1 {100 * network.top1:.1f} %{whose}, {points:.1f} points too low"] = under
        return found


def limits_of(args, target) -> Limits | None:
    """The limits a user gave with ``--budget``, ``--memory`` and ``--min-accuracy``; None without any.

    Raises
    ------
    TvmMobilenetError
        A value has no unit or a wrong one, or the target has another number of cores.
    """
    if args.cores not in ("1", str(target.cores), "all"):
        raise TvmMobilenetError(
            f"--cores {args.cores}: {target.name} has {target.cores}, latencies are of 1 and all",
            f"give 1 or {target.cores}",
        )
    if args.budget is None and args.memory is None and args.min_accuracy is None:
        return None
    return Limits(
        None if args.budget is None else quantity("--budget", args.budget, TIMES, "time", "60ms"),
        target.cores if args.cores == "all" else int(args.cores),
        None if args.memory is None else quantity("--memory", args.memory, SIZES, "amount of memory", "64MB"),
        args.min_accuracy,
    )


def quantity(flag: str, text: str, units: dict[str, float], what: str, example: str) -> float:
    """A number with its unit, converted by ``units``.

    Raises
    ------
    TvmMobilenetError
        The number is not above zero, or the unit is missing or unknown.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(\D*?)\s*", text)
    if not match or not float(match[1]) > 0:
        raise TvmMobilenetError(f"{flag} {text}: no {what} above zero", f"for example {example}")
    if match[2] not in units:
        why = f"{match[2]!r} is not a unit of {what}" if match[2] else "the unit is missing"
        raise TvmMobilenetError(f"{flag} {text}: {why}", f"units are {', '.join(units)}; for example {example}")
    return float(match[1]) * units[match[2]]


def numbers(flag: str, text: str | None, kind: type) -> list:
    """Numbers with commas between; none for None."""
    try:
        return [kind(part) for part in text.split(",")] if text else []
    except ValueError:
        what = "integers" if kind is int else "numbers"
        raise TvmMobilenetError(f"{flag} {text}: not {what} with commas between", f"for example {flag} 1,2") from None


def fitting(networks: Sequence, limits: Limits) -> list:
    """The networks within the limits, by falling published accuracy. Among equals the dtype nearest to float32, whose
    accuracy is published, comes first, then the faster network.

    Networks without a published accuracy come after all others, the one with more mult-adds first.
    """

    def order(network) -> tuple:
        less = DTYPES.index(network.dtype)
        if network.top1 is None:
            return 0.0, -network.mult_adds, less, network.latency(limits.cores)
        return -network.top1, less, network.latency(limits.cores)

    return sorted((n for n in networks if not limits.misses(n)), key=order)


def choose(networks: Sequence, limits: Limits, made: Callable) -> tuple:
    """The best network within the limits that also fits when it is built, and those that did not fit.

    Parameters
    ----------
    made : callable
        Builds a network; returns it with the figures of the built module, which decide.

    Returns
    -------
    (network or None, list)
        The network with its figures as built, and the built ones that do not fit, with theirs.
    """
    over = []
    for network in fitting(networks, limits):
        final = made(network)
        if not limits.misses(final):
            return final, over
        over.append(final)
    return None, over


def nearest(networks: Sequence, limits: Limits) -> tuple:
    """The network whose worst miss is the smallest, and a text of its misses."""
    best = min(networks, key=lambda n: max(limits.misses(n).values(), default=0.0))
    return best, list(limits.misses(best))


def accuracy(network) -> str:
    """A text of a network's accuracy."""
    if network.top1 is None:
        return "no published accuracy"
    return f"top-1 {100 * network.top1:.1f} % ({'of float32' if of_float32(network) else 'published'})"


def of_float32(network) -> bool:
    """Whether a network's accuracy is that of its float32 network, which quantization may change."""
    return dtypes.of(network.dtype).integer
