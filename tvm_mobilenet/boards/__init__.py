"""Boards: something that runs a built module and measures it.

``VirtualBoard`` executes the machine code under an emulator and prices it, ``LocalBoard`` runs it on this machine,
``RemoteBoard`` over RPC. They run the same kernels and return the same kind of ``Measurement``.
"""

from __future__ import annotations

from dataclasses import dataclass


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


def open_board(kind: str, target):
    """The board of a target: ``virtual``, or ``local`` for this machine.

    Raises
    ------
    BoardError
        There is no such kind, or the target does not run on it.
    """
    if kind == "virtual":
        from tvm_mobilenet.boards.virtual import VirtualBoard

        return VirtualBoard(target)
    if kind == "local":
        from tvm_mobilenet.boards.local import LocalBoard

        return LocalBoard(target)
    from tvm_mobilenet.errors import BoardError

    raise BoardError(f"unknown kind of board {kind!r}", "virtual or local")
