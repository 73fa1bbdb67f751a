"""What samples of a time say: extremes, mean, percentiles, deviation, and how many lie far out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

# A normal distribution's standard deviation is 1.4826 median absolute deviations; five of those are passed by one
# sample in a million, so what lies beyond is something else that ran.
DEVIATIONS = 5 * 1.4826


@dataclass(frozen=True)
class Statistics:
    """Of the samples of one time, in seconds.

    Attributes
    ----------
    deviation : float or None
        The standard deviation; None of one sample, as of a prediction.
    outliers : int
        Samples above the median by more than five robust standard deviations, and by more than 5 %.
    """

    samples: int
    min: float
    mean: float
    p50: float
    p90: float
    p99: float
    max: float
    deviation: float | None
    outliers: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Statistics:
        """The statistics of at least one sample."""
        ordered, middle = sorted(samples), median(samples)
        spread = median(abs(s - middle) for s in ordered)
        limit = max(middle + DEVIATIONS * spread, 1.05 * middle)
        return cls(
            len(ordered),
            ordered[0],
            fmean(ordered),
            middle,
            percentile(ordered, 0.9),
            percentile(ordered, 0.99),
            ordered[-1],
            stdev(ordered) if len(ordered) > 1 else None,
            sum(s > limit for s in ordered),
        )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of sorted values, linear between two of them, as ``numpy.percentile`` has it."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
