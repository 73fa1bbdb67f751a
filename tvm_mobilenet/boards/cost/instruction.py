"""One disassembled instruction as the cost model sees it, of whichever architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    address : int
    text : str
    kind : str
        One of ``instructions.CLASSES``.
    reads, writes : tuple of str
        Registers, flags as ``nzcv``; without the accumulator and the write-back of a base.
    accumulator : str
        Register that is both read and written by a multiply-accumulate: the one that forwarding shortens.
    base : str
        Base register that the access writes back.
    branch : str
        ``""``, ``cond``, ``always``, ``call``, ``indirect``.
    target : int
        Of a direct branch, else -1.
    """

    address: int
    text: str
    kind: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    accumulator: str = ""
    base: str = ""
    branch: str = ""
    target: int = -1
