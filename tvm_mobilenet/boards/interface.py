"""The measurements that a board returns, and the operands that its kernels take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvm_mobilenet.errors import BoardError


@dataclass(frozen=True, order=True)
class Measurement:
    """The cost of a kernel or a network. ``Seconds`` and ``PredictedCycles`` cannot be compared with each other."""

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
    """The base of all loaded modules. Kernels check nothing themselves, so the module checks their operands before a
    call."""

    _takes: Mapping[str, Sequence[tuple[tuple[int, ...], str]]] = {}

    def expect(self, takes: Mapping[str, Sequence[tuple[tuple[int, ...], str]]]) -> None:
        """Declare the operands of kernels: for each symbol, shape and dtype of every operand in order."""
        self._takes = {**self._takes, **takes}

    def check(self, symbol: str, operands: Iterable[tuple[tuple[int, ...], object]]) -> None:
        """Refuse a call whose operands differ from the declared ones (`expect`).

        Parameters
        ----------
        symbol : str
        operands : iterable of (shape, dtype)

        Raises
        ------
        BoardError
            An operand differs; the message names the kernel, the operand, its shape and dtype, and the declared ones.
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
