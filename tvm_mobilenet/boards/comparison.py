"""Compare computed outputs with their reference.

Every board and every verb uses `compare`. It takes a kernel's output as it lies in memory and leaves out the gaps of a
row pitch. It returns the difference in units of the reference's standard deviation, or of a tolerance for each value.
The caller decides how much is allowed. `require_right` decides for a single kernel, whose values must be equal in
dtypes with a fixed order of steps (`checking.stepped`); `checking.network_ends` and `tolerance` decide for whole
networks.
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
        The largest difference over its unit; infinite if a value is not finite, and not that of the reference.
    where : tuple of int
        The index of that value.
    written, size : int
        The number of values that are not NaN, and the number of all values.
    """

    relative: float
    where: tuple[int, ...]
    written: int
    size: int


def in_channels(found: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An output as it lies in memory, without the gaps between its rows.

    Parameters
    ----------
    found : array
        An array of ``shape``, or with a longer last axis, the row pitch.
    shape : tuple of int
        The shape of the output itself.

    Raises
    ------
    ValueError
        The shapes do not fit. They are never broadcast.
    """
    if found.shape[:-1] != shape[:-1] or found.shape[-1:] < shape[-1:]:
        raise ValueError(f"an output of shape {found.shape}, the reference has {shape}")
    return found[..., : shape[-1]] if shape else found


def deviation_of(expected: np.ndarray) -> float:
    """The unit of differences: the standard deviation; without deviation the largest value; if that is zero, 1. Values
    that are infinite, as a mask has them, do not count.
    """
    finite = expected if np.isfinite(expected).all() else expected[np.isfinite(expected)]
    return (float(finite.std()) or float(np.abs(finite).max()) if finite.size else 0.0) or 1.0


def compare(found: np.ndarray, expected: np.ndarray, unit=None, *, sample: bool = False) -> Difference:
    """Compare an output with its reference.

    Parameters
    ----------
    found : array
        The output as it lies in memory, see `in_channels`.
    expected : array
        The reference, without pitch.
    unit : float or array, optional
        The unit of all differences, or one for each value; by default `deviation_of` the reference.
    sample : bool
        Only a sample of the tasks ran. NaN marks values that were not written; they are left out.

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
        off = np.where(np.isinf(expected) & (found == expected), 0, off)
    worst = int(off.argmax())
    where = tuple(int(i) for i in np.unravel_index(worst, off.shape))
    largest = float(off.flat[worst])
    relative = largest if math.isfinite(largest) and (count or not sample) else math.inf
    return Difference(relative, where, count, found.size)


def relative(found: np.ndarray, expected: np.ndarray, unit=None) -> float:
    """The largest difference that `compare` finds, by default in the reference's standard deviations."""
    return compare(found, expected, unit).relative


def last_place(found: np.ndarray, expected: np.ndarray, dtype: str) -> np.ndarray:
    """One unit in the last place for each pair of values of a dtype, in float64, taken at the larger of the two."""
    if np.dtype(dtype).kind != "f":
        return np.ones(expected.shape)
    smallest = np.finfo(dtype).smallest_subnormal
    with np.errstate(invalid="ignore", over="ignore"):
        larger = np.fmax(np.abs(in_channels(found, expected.shape)), np.abs(expected)).astype(dtype)
        return np.fmax(np.spacing(np.where(np.isfinite(larger), larger, 0)), smallest).astype(np.float64)


def require_right(
    found: np.ndarray, expected: np.ndarray, *, sample: bool = False, units: int | None = None, dtype: str = ""
) -> float:
    """`relative` for one kernel's output, whose buffer was filled with NaN before the run.

    Parameters
    ----------
    found, expected, sample
        As `compare` takes them.
    units : int, optional
        How many units in the last place of its dtype each value may differ by. With 0, values must be equal except for
        the sign of zero. With None, the reference does not round as the kernel does: ``KERNEL_TOLERANCE`` standard
        deviations are allowed, plus the rounding to the output's dtype.
    dtype : str
        The dtype whose last place ``units`` count; the output's by default.

    Returns
    -------
    float
        The largest difference; with ``units`` in units in the last place.

    Raises
    ------
    WrongResult
        A value differs by more, or was not written; of a ``sample``, no value was written.
    """
    unit = None if units is None else last_place(found, expected, dtype or str(found.dtype))
    allowed = float(units or 0)
    if units is None:
        deviation = deviation_of(expected.astype(np.float64))
        lost = dtypes.of(str(found.dtype)).rounding if str(found.dtype) in dtypes.DTYPES else 0.0
        if lost > KERNEL_TOLERANCE / 4:  # else the rounding is negligible beside that of the sums
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
