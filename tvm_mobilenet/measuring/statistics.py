"""Statistics of the samples of a time: extremes, mean, percentiles, deviation, and outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

# The standard deviation of a normal distribution is 1.4826 median absolute deviations. One sample in a million exceeds
# five standard deviations, so a larger one shows that something else ran.
DEVIATIONS = 5 * 1.4826


@dataclass(frozen=True)
class Statistics:
    """The statistics of one time's samples, in seconds.

    Attributes
    ----------
    deviation : float or None
        The standard deviation; None for a single sample, such as a prediction.
    outliers : int
        Samples more than five robust standard deviations, and more than 5 %, above the median.
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
    """A percentile of sorted values, interpolated linearly like ``numpy.percentile``."""
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
