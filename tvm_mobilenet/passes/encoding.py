"""What the whole numbers of a network's inputs and outputs stand for.

A port of floats has no encoding. One of int8 or uint8 stands for ``(q - zero) * scale``, with one scale of the whole
tensor or, of an image's bytes, one a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

BYTES = 256  # values of one byte


@dataclass(frozen=True)
class Whole:
    """One scale and zero point of a tensor.

    Attributes
    ----------
    step : float
        From one value to the next.
    zero : int
        Which stands for 0.0.
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
        """The same of values that are 128 higher."""
        return Whole(self.step, self.zero + 128, "uint8")

    def real(self, values: np.ndarray) -> np.ndarray:
        """float32, each the exact difference times the step in float32."""
        return (values.astype(np.float32) - np.float32(self.zero)) * np.float32(self.step)

    def stored(self, values: np.ndarray) -> np.ndarray:
        """``clamp(rint(x / step) + zero)``, the quotient in float32, ties to even."""
        range_ = np.iinfo(self.dtype)
        scaled = np.asarray(values, np.float32) / np.float32(self.step)
        whole = np.rint(np.clip(scaled, range_.min - self.zero, range_.max - self.zero).astype(np.float64))
        return (whole + self.zero).astype(self.dtype)


@dataclass(frozen=True)
class Pixels:
    """Bytes of an image, of which the network sees ``(byte / 255 - mean) / std``.

    Attributes
    ----------
    mean, std : tuple of float
        One a channel, in the network's order of channels.
    axis : int
        Of the channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    axis: int
    dtype = "uint8"

    @property
    def scales(self) -> tuple[float, ...]:
        """One a channel."""
        return tuple(1 / (255 * std) for std in self.std)

    @property
    def zeros(self) -> tuple[float, ...]:
        """One a channel; fractions, since a mean is no byte."""
        return tuple(255 * mean for mean in self.mean)

    @cached_property
    def table(self) -> np.ndarray:
        """(channels, 256) float32: what each byte of a channel stands for, as preprocessing computes it."""
        bytes_ = np.arange(BYTES) / 255.0
        return ((bytes_ - np.array(self.mean)[:, None]) / np.array(self.std)[:, None]).astype(np.float32)

    def real(self, values: np.ndarray) -> np.ndarray:
        """float32, of the table."""
        return self.table[np.arange(len(self.mean)).reshape(self._along(values.ndim)), values]

    def stored(self, values: np.ndarray) -> np.ndarray:
        """The bytes that stand for what is nearest to values."""
        mean, std = (np.reshape(each, self._along(values.ndim)) for each in (self.mean, self.std))
        return np.clip(np.rint((values * std + mean) * 255), 0, 255).astype(np.uint8)

    def _along(self, dimensions: int) -> list[int]:
        return [-1 if axis == self.axis else 1 for axis in range(dimensions)]
