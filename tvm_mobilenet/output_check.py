"""A network's outputs against its model's own framework: differences, cosine, and whether the classes agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .errors import VerificationError

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


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the standard deviation; over the largest value where there is no deviation."""
    spread = float(expected.std()) or float(np.abs(expected).max()) or 1.0
    difference = float(np.abs(found.astype(np.float64) - expected).max())
    return difference / spread if math.isfinite(difference) else math.inf


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
    difference = np.abs(f - e)
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
