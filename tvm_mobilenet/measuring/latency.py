"""The time of a run, for programs."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_mobilenet.terminal import console


@dataclass(frozen=True)
class Latency:
    """The time of a run, predicted by the virtual board.

    Attributes
    ----------
    target : str
    milliseconds : dict of int to float
        Milliseconds by number of cores.
    """

    target: str
    milliseconds: dict[int, float]

    predicted = True

    def __str__(self) -> str:
        each = ", ".join(
            f"{console.number(ms)} ms on {n} core{'s' * (n > 1)}" for n, ms in sorted(self.milliseconds.items())
        )
        return f"{each} of {self.target} (predicted)"
