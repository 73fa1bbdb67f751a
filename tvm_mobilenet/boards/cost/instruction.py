"""One disassembled instruction of any architecture, in the form that the cost model takes."""

from __future__ import annotations

from typing import NamedTuple


class Instruction(NamedTuple):
    """One instruction.

    Parameters
    ----------
    address : int
    text : str
    kind : str
        One of ``instructions.CLASSES``.
    reads, writes : tuple of str
        Registers; flags are ``nzcv``. The accumulator and the write-back of a base are not included.
    accumulator : str
        The register that a multiply-accumulate both reads and writes; forwarding shortens its latency.
    base : str
        The base register that the access writes back.
    branch : str
        ``""``, ``cond``, ``always``, ``call``, ``indirect``.
    target : int
        The target of a direct branch, else -1.
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
