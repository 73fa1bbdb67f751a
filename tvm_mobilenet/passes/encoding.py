"""The real values that the integers of a network's inputs and outputs represent.

A float port has no encoding. The values of an int8 or uint8 port represent ``(q - zero) * scale``. There is one scale
for the whole tensor, or one for each channel of an image's bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BYTES = 256  # number of values of a byte


@dataclass(frozen=True)
class Whole:
    """One scale and zero point of a tensor.

    Attributes
    ----------
    step : float
        The difference between neighbouring values.
    zero : int
        The integer that represents 0.0.
    dtype : str
        ``int8`` or ``uint8``.
    """

    step: float
    zero: int
    dtype: str = "int8"

    @property
    def scales(self) -> tuple[float, ...]:
        """One number."""
        return (self.step,)

    @property
    def zeros(self) -> tuple[float, ...]:
        """One number."""
        return (float(self.zero),)

    @property
    def as_uint8(self) -> Whole:
        """The encoding of the same values as uint8, which are 128 higher."""
        return Whole(self.step, self.zero + 128, "uint8")

    def real(self, values: np.ndarray) -> np.ndarray:
        """Values as float32: the exact difference times the step, in float32."""
        return (values.astype(np.float32) - np.float32(self.zero)) * np.float32(self.step)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """``clamp(rint(x / step) + zero)``, the quotient in float32, ties to even."""
        range_ = np.iinfo(self.dtype)
        scaled = np.asarray(values, np.float32) / np.float32(self.step)
        whole = np.rint(np.clip(scaled, range_.min - self.zero, range_.max - self.zero).astype(np.float64))
        return (whole + self.zero).astype(self.dtype)


@dataclass(frozen=True)
class Pixels:
    """Bytes of an image, which the network reads as ``(byte / 255 - mean) / std``.

    Attributes
    ----------
    mean, std : tuple of float
        One for each channel, in the network's order.
    axis : int
        The axis of the channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    axis: int
    dtype = "uint8"

    @property
    def scales(self) -> tuple[float, ...]:
        """One for each channel."""
        return tuple(1 / (255 * std) for std in self.std)

    @property
    def zeros(self) -> tuple[float, ...]:
        """One for each channel; they are fractions, since a mean need not be a byte."""
        return tuple(255 * mean for mean in self.mean)

    @cached_property
    def table(self) -> np.ndarray:
        """(channels, 256) float32: the value of each byte of a channel, as preprocessing computes it."""
        bytes_ = np.arange(BYTES) / 255.0
        return ((bytes_ - np.array(self.mean)[:, None]) / np.array(self.std)[:, None]).astype(np.float32)

    def real(self, values: np.ndarray) -> np.ndarray:
        """Bytes as float32, by the table."""
        return self.table[np.arange(len(self.mean)).reshape(self._along(values.ndim)), values]

    def stored(self, values: np.ndarray) -> np.ndarray:
        """The bytes whose values are nearest to these."""
        mean, std = (np.reshape(each, self._along(values.ndim)) for each in (self.mean, self.std))
        return np.clip(np.rint((values * std + mean) * 255), 0, 255).astype(np.uint8)

    def _along(self, dimensions: int) -> list[int]:
        return [-1 if axis == self.axis else 1 for axis in range(dimensions)]
