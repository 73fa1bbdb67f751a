"""What a board gives back, and what its kernels take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvm_mobilenet.errors import BoardError


@dataclass(frozen=True, order=True)
class Measurement:
    """What a kernel or a network costs. ``Seconds`` and ``PredictedCycles`` never compare with each other."""

    value: float

    unit = ""
    predicted = False


@dataclass(frozen=True, order=True)
class Seconds(Measurement):
    """Wall time measured on a real board, in seconds."""

    unit = "s"


@dataclass(frozen=True, order=True)
class PredictedCycles(Measurement):
    """Cycles of one core, predicted by the core model from executed code."""

    unit = "cycles"
    predicted = True


class KernelModule:
    """What all loaded modules share: kernels check nothing themselves, so what each takes is checked before a call."""

    _takes: Mapping[str, Sequence[tuple[tuple[int, ...], str]]] = {}

    def expect(self, takes: Mapping[str, Sequence[tuple[tuple[int, ...], str]]]) -> None:
        """Say what kernels take: for each symbol, shape and dtype of every operand in order."""
        self._takes = {**self._takes, **takes}

    def check(self, symbol: str, operands: Iterable[tuple[tuple[int, ...], object]]) -> None:
        """Refuse a call whose operands are not those that the kernel takes, if that is known (`expect`).

        Parameters
        ----------
        symbol : str
        operands : iterable of (shape, dtype)

        Raises
        ------
        BoardError
            It names the kernel, the operand, what it is and what the kernel takes.
        """
        wanted = self._takes.get(symbol)
        if wanted is None:
            return
        given = [(tuple(shape), str(dtype)) for shape, dtype in operands]
        if len(given) != len(wanted):
            raise BoardError(f"kernel {symbol}: {len(given)} operands, it takes {len(wanted)}", _REMEDY)
        for i, (found, right) in enumerate(zip(given, wanted, strict=True)):
            right = tuple(right[0]), str(right[1])
            if found != right:
                raise BoardError(
                    f"kernel {symbol}: operand {i + 1} of {len(wanted)} is {found[1]} {found[0]}, "
                    f"it takes {right[1]} {right[0]}",
                    _REMEDY,
                )


_REMEDY = "module and plan were not built together: build again"
