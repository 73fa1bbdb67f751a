"""Ranges of values and their scales: the least and the largest value, a percentile, or a part of the whole range.

``minmax``      all values that were seen
``percentile``  without a share of the values at either end, one of `TAILS`
``mse``         a part of the range that was seen, one of `PARTS`

`range_choice` takes the range that changes the next activations least in the mean square.
"""

from __future__ import annotations

import math

import numpy as np

from tvm_mobilenet.models import options
from tvm_mobilenet.passes.quantize import Scale
from tvm_mobilenet.passes.whole_weights import HIGH, LOW, rounded_up

METHODS = options.METHODS
BINS = 2048
SAMPLES = 1 << 16  # values of an array for its histogram; its ends come from the whole array
TAILS = (1e-5, 1e-4, 1e-3)  # shares of values that a percentile leaves out, at each end
PARTS = tuple(2 ** (-i / 4) for i in range(9))  # parts of a range, the widest first


class Histogram:
    """The distribution of a value's magnitudes; its range grows as values arrive."""

    def __init__(self):
        self.low, self.high, self.counts = 0.0, 0.0, np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        """Count an array, by a sample of its elements that covers all channels."""
        low, high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        if (low, high) != (self.low, self.high):
            at, counts = self.centres, self.counts
            self.low, self.high, self.counts = low, high, np.zeros(BINS)
            if counts.any():
                self._count(at, counts)
        if self.high > self.low:
            self._count(sampled(values).astype(np.float64), None)

    def _count(self, values: np.ndarray, weights: np.ndarray | None) -> None:
        at = ((values - self.low) * (BINS / (self.high - self.low))).astype(np.int64)
        self.counts += np.bincount(np.clip(at, 0, BINS - 1), weights, BINS)

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        width = (self.high - self.low) / BINS
        return self.low + width * (np.arange(BINS) + 0.5)

    def scales(self, method: str) -> list[Scale]:
        """The candidate scales of one of ``METHODS``, the widest first."""
        if self.high <= self.low:
            return [Scale(1.0, 0)]
        if method == "minmax":
            found = [(self.low, self.high)]
        elif method == "percentile":
            found = [self._without(tail) for tail in TAILS]
        else:
            found = [(self.low * part, self.high * part) for part in PARTS]
        return list(dict.fromkeys(scale_of(*range_) for range_ in found))

    def _without(self, tail: float) -> tuple[float, float]:
        """The range without a share of the values at either end."""
        share = np.cumsum(self.counts) / self.counts.sum()
        low, high = np.searchsorted(share, tail), min(BINS - 1, int(np.searchsorted(share, 1 - tail)))
        low, high = min(float(self.centres[low]), 0.0), max(float(self.centres[high]), 0.0)
        return (low, high) if high > low else (self.low, self.high)

    def clipped(self, scale: Scale) -> float:
        """The share of values beyond a scale's ends."""
        low, high = scale.ends
        beyond = (self.centres < low - scale.step / 2) | (self.centres > high + scale.step / 2)
        return float(self.counts[beyond].sum() / max(1.0, self.counts.sum()))


def sampled(values: np.ndarray) -> np.ndarray:
    """At most about ``SAMPLES`` elements at equal distances, such that all channels are covered."""
    flat = values.reshape(-1)
    stride = -(-flat.size // SAMPLES)
    while stride > 1 and math.gcd(stride, values.shape[-1] if values.ndim else 1) > 1:
        stride += 1
    return flat[::stride]


def scale_of(low: float, high: float) -> Scale:
    """The scale of a range that contains zero: 255 steps, one of which is exactly zero."""
    step = float(rounded_up(np.array((high - low) / (HIGH - LOW))))
    return Scale(step, int(np.clip(np.rint(LOW - low / step), LOW, HIGH)))
