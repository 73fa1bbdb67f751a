"""The one comparison of what code computed with its reference.

`compare` serves every board and every verb: it takes a kernel's output as it lies in memory, leaves out what stands
between rows with a pitch, and says by how much of the reference's standard deviation, or of what each value may be off,
the rest is off. What is allowed is the caller's: `require_right` for a single kernel, which in dtypes whose order of
steps is fixed has to be equal to it (`checking.stepped`); for whole networks see `checking.network_ends` and
`tolerance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_mobilenet import dtypes

KERNEL_TOLERANCE = 1e-4  # of the standard deviation; float32 sums over 1,000 terms differ by about 1e-6


class WrongResult(Exception):
    """Machine code computes something other than its layer."""


@dataclass(frozen=True)
class Difference:
    """How far an array is from its reference.

    Attributes
    ----------
    relative : float
        The largest difference over its unit; infinite where a value is no finite number.
    where : tuple of int
        The index of that value.
    written, size : int
        How many values are numbers, of how many.
    """

    relative: float
    where: tuple[int, ...]
    written: int
    size: int


def in_channels(found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An output as it lies in memory, without what stands between its rows.

    Parameters
    ----------
    found : array
        Of ``shape``, or with more on the last axis: its row pitch.
    shape : tuple of int
        Of the output itself.

    Raises
    ------
    ValueError
        The shapes do not fit. They are never broadcast.
    """
    if found.shape[:-1] != shape[:-1] or found.shape[-1:] < shape[-1:]:
        raise ValueError(f"an output of shape {found.shape}, the reference has {shape}")
    return found[..., : shape[-1]] if shape else found


def deviation_of(expected: np.ndarray) -> float:
    """The unit of all differences: the standard deviation; the largest value where there is no deviation, or 1."""
    return float(expected.std()) or float(np.abs(expected).max()) or 1.0


def compare(found: np.ndarray, expected: np.ndarray, unit=None, *, sample: bool = False) -> Difference:
    """Compare an output with its reference.

    Parameters
    ----------
    found : array
        As it lies in memory, see `in_channels`.
    expected : array
        The reference, without pitch.
    unit : float or array, optional
        Of all differences, or of each; the reference's `deviation_of` by default.
    sample : bool
        Only a sample of the tasks ran: what is not a number was not written, and is left out.

    Raises
    ------
    ValueError
        The shapes do not fit.
    """
    expected = expected.astype(np.float64)
    found = in_channels(found, expected.shape).astype(np.float64)
    written = ~np.isnan(found)
    count = int(written.sum())
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(np.where(written, found, expected if sample else np.inf) - expected)
        off = off / (deviation_of(expected) if unit is None else unit)
    worst = int(off.argmax())
    where = tuple(int(i) for i in np.unravel_index(worst, off.shape))
    largest = float(off.flat[worst])
    relative = largest if math.isfinite(largest) and (count or not sample) else math.inf
    return Difference(relative, where, count, found.size)


def relative(found: np.ndarray, expected: np.ndarray, unit=None) -> float:
    """`compare`'s largest difference, in units of the reference's standard deviation unless told."""
    return compare(found, expected, unit).relative


def last_place(found: np.ndarray, expected: np.ndarray, dtype: str) -> np.ndarray:
    """One unit in the last place of each value of a dtype, float64: of the larger of the two."""
    if np.dtype(dtype).kind != "f":
        return np.ones(expected.shape)
    smallest = np.finfo(dtype).smallest_subnormal
    with np.errstate(invalid="ignore", over="ignore"):
        larger = np.fmax(np.abs(in_channels(found, expected.shape)), np.abs(expected)).astype(dtype)
        return np.fmax(np.spacing(np.where(np.isfinite(larger), larger, 0)), smallest).astype(np.float64)


def require_right(
    found: np.ndarray, expected: np.ndarray, *, sample: bool = False, units: int | None = None, dtype: str = ""
) -> float:
    """`relative` of one kernel's output, whose buffer was not a number before it ran.

    Parameters
    ----------
    found, expected, sample
        As `compare` takes them.
    units : int, optional
        By how many units in the last place of its dtype each value may differ; 0: values are equal, signs of zero
        aside. None: the reference does not round as the kernel does, and ``KERNEL_TOLERANCE`` of its standard deviation
        is allowed, to which comes what storing in the output's dtype loses.
    dtype : str
        Of whose last place ``units`` are; the output's by default.

    Returns
    -------
    float
        The largest difference: in units in the last place where ``units`` says how many may be.

    Raises
    ------
    WrongResult
        More than that, or something was not written; of a ``sample``, nothing was.
    """
    unit = None if units is None else last_place(found, expected, dtype or str(found.dtype))
    allowed = float(units or 0)
    if units is None:
        deviation = deviation_of(expected.astype(np.float64))
        lost = dtypes.of(str(found.dtype)).rounding if str(found.dtype) in dtypes.DTYPES else 0.0
        if lost > KERNEL_TOLERANCE / 4:  # else it is nothing beside what sums lose
            unit = deviation + np.abs(expected.astype(np.float64)) * (lost / KERNEL_TOLERANCE)
        allowed = KERNEL_TOLERANCE
    difference = compare(found, expected, unit, sample=sample)
    if not difference.written or (difference.written < difference.size and not sample):
        raise WrongResult(f"wrong result: {difference.written} of {difference.size} values are numbers")
    if units is not None and not difference.relative <= allowed:
        raise WrongResult(
            f"wrong result: {difference.relative:.3g} units in the last place off at {difference.where}, "
            f"{units or 'none'} is allowed"
        )
    if not difference.relative <= allowed:
        raise WrongResult(
            f"wrong result: {difference.relative:.3g} of the output's standard deviation off at {difference.where}"
        )
    return difference.relative
