"""The one comparison of what code computed with its reference, and what a network's outputs are judged by.

`compare` serves every board and every verb: it takes a kernel's output as it lies in memory, leaves out what stands
between rows with a pitch, and says by how much of the reference's standard deviation the rest is off. What is allowed
is the caller's: `require_right` for a single kernel, `check_output` for a whole network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import VerificationError

KERNEL_TOLERANCE = 1e-4  # of the standard deviation; float32 sums over 1,000 terms differ by about 1e-6
OUTPUT_TOLERANCE = 1e-4  # times the square root of the number of layers: rounding adds up like a random walk


@dataclass(frozen=True)
class OutputCheck:
    """One output over all inputs, against the model's framework."""

    name: str
    max_difference: float
    mean_difference: float
    relative: float
    cosine: float
    top1: float
    top5: float
    gate: float

    @property
    def ok(self) -> bool:
        return self.relative <= self.gate


class WrongResult(Exception):
    """Machine code computes something other than its layer."""


@dataclass(frozen=True)
class Difference:
    """How far an array is from its reference.

    Attributes
    ----------
    relative : float
        The largest difference over the reference's standard deviation; infinite where a value is no finite number.
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


def spread_of(expected: np.ndarray) -> float:
    """The unit of all differences: the standard deviation; the largest value where there is no deviation, or 1."""
    return float(expected.std()) or float(np.abs(expected).max()) or 1.0


def compare(found: np.ndarray, expected: np.ndarray, *, sample: bool = False) -> Difference:
    """Compare an output with its reference.

    Parameters
    ----------
    found : array
        As it lies in memory, see `in_channels`.
    expected : array
        The reference, without pitch.
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
    spread = spread_of(expected)
    off = np.abs(np.where(written, found, expected if sample else np.inf) - expected)
    worst = int(off.argmax())
    where = tuple(int(i) for i in np.unravel_index(worst, off.shape))
    largest = float(off.flat[worst])
    relative = largest / spread if math.isfinite(largest) and (count or not sample) else math.inf
    return Difference(relative, where, count, found.size)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """`compare`'s largest difference, as a fraction of the reference's standard deviation."""
    return compare(found, expected).relative


def require_right(found: np.ndarray, expected: np.ndarray, *, sample: bool = False) -> float:
    """`relative` of one kernel's output, whose buffer was not a number before it ran.

    Raises
    ------
    WrongResult
        Above ``KERNEL_TOLERANCE``, or something was not written; of a ``sample``, nothing was.
    """
    difference = compare(found, expected, sample=sample)
    if not difference.written or (difference.written < difference.size and not sample):
        raise WrongResult(f"wrong result: {difference.written} of {difference.size} values are numbers")
    if not difference.relative <= KERNEL_TOLERANCE:
        raise WrongResult(f"wrong result: {difference.relative:.3g} of the output's spread off at {difference.where}")
    return difference.relative


def check_output(name: str, found: list[np.ndarray], expected: list[np.ndarray], layers: int) -> OutputCheck:
    """Compare one output over all inputs; ``layers``: of the network, whose rounding adds up.

    Raises
    ------
    VerificationError
        The reference says the same to every input.
    """
    f, e = np.stack(found).astype(np.float64), np.stack(expected).astype(np.float64)
    if len(e) > 1 and np.ptp(e, axis=0).max() < 1e-3 * (e.std() or 1.0):
        raise VerificationError(
            f"the reference's output {name} is the same for every input, so it can show nothing",
            "use weights that are trained, or leave out --weights for calibrated ones",
        )
    difference = np.abs(f - e)  # in the output's own unit; judged is `relative`
    flat_f, flat_e = f.reshape(len(f), -1), e.reshape(len(e), -1)
    norm = np.linalg.norm(flat_f) * np.linalg.norm(flat_e)
    best_f, best_e = np.argsort(-flat_f, 1), np.argsort(-flat_e, 1)
    top5 = np.mean([len(set(a[:5]) & set(b[:5])) / min(5, len(a)) for a, b in zip(best_f, best_e, strict=True)])
    return OutputCheck(
        name,
        float(difference.max()),
        float(difference.mean()),
        relative(f, e),
        float((flat_f * flat_e).sum() / norm) if norm else 1.0,
        float(np.mean(best_f[:, 0] == best_e[:, 0])),
        float(top5),
        OUTPUT_TOLERANCE * math.sqrt(max(1, layers)),
    )
