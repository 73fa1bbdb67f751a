"""Shares of images with their confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Share:
    """A count of images among a number, and the 95 % interval of the share.

    Attributes
    ----------
    count, images : int
    share, low, high : float
        ``count / images``, and Wilson's interval (1927), which is valid near 0 and 1 and for few images too.
    """

    count: int
    images: int
    share: float
    low: float
    high: float

    @classmethod
    def of(cls, count: int, images: int) -> Share:
        """The share of at least one image."""
        p, z = count / images, Z95
        centre = (p + z * z / (2 * images)) / (1 + z * z / images)
        half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images * images))
        low = 0.0 if count == 0 else max(0.0, centre - half)
        return cls(count, images, p, low, 1.0 if count == images else min(1.0, centre + half))

    def __str__(self) -> str:
        return f"{self.share:.2%} ({self.count:,} of {self.images:,}; 95 %: {self.low:.2%} to {self.high:.2%})"
