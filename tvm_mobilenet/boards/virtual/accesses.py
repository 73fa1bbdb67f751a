"""Addresses of a block's loads and stores, as sums of the registers at its beginning: memory is followed block by
block.

An emulator calls its memory hooks at every access, which takes most of its time. But an address is nearly always a
constant plus registers as they were at the block's beginning. The code tells which: this module follows additions,
moves, shifts and write-backs up to the access symbolically, once for each block. One call at the block's beginning,
which the counting of instructions needs anyway, then reads those few registers and knows all addresses.

A register that the block loads, or computes in another way, is not known at its beginning. If an access needs one, a
hook at that instruction reads the registers again (1 to 45 places in one of this project's kernels).
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from unicorn import arm64_const as a64

from tvm_mobilenet.boards.cost import native
from tvm_mobilenet.boards.cost.instructions import Instruction, disassemble

_SLOT = np.dtype([("reg", np.int32), ("extend", np.int32)])
_ACCESS = np.dtype(
    [
        ("offset", np.int64),
        ("term", np.uint32),
        ("terms", np.uint32),
        ("bytes", np.uint32),
        ("at", np.uint32),
        ("written", np.uint64),
    ]
)
_TERM = np.dtype([("slot", np.int64), ("factor", np.int64)])
_MOST_SLOTS = 64  # native.c
_LONGEST = 512  # most instructions of a block
_TEXTS = 1 << 16  # texts of instructions whose parts are kept: kernels have the same ones again and again
_EXTENDS = {"": 0, "sxtw": 1, "uxtw": 2}
_UC = {
    "sp": a64.UC_ARM64_REG_SP,
    "x29": a64.UC_ARM64_REG_X29,
    "x30": a64.UC_ARM64_REG_X30,
    **{f"x{i}": a64.UC_ARM64_REG_X0 + i for i in range(29)},
}


class UnknownAccess(Exception):
    """An access whose address or size does not follow from its text."""


class Sum(NamedTuple):
    """A constant plus registers at the block's beginning, each as ``((register, extension), factor)``."""

    constant: int = 0
    terms: tuple[tuple[tuple[str, str], int], ...] = ()

    def plus(self, other: Sum) -> Sum:
        if not other.terms:
            return Sum(self.constant + other.constant, self.terms)
        total = dict(self.terms)
        for term, factor in other.terms:
            total[term] = total.get(term, 0) + factor
        return Sum(self.constant + other.constant, tuple((t, f) for t, f in total.items() if f))

    def times(self, factor: int) -> Sum:
        if factor == 1:
            return self
        return Sum(self.constant * factor, tuple((t, f * factor) for t, f in self.terms))

    def half(self, extension: str) -> Sum | None:
        """Its low 32 bits, extended; None if the result is no such sum."""
        if not self.terms:
            low = self.constant & 0xFFFFFFFF
            return Sum(low - (1 << 32) if extension == "sxtw" and low >> 31 else low)
        if not self.constant and len(self.terms) == 1 and self.terms[0][1] == 1:
            (register, before), _ = self.terms[0]
            if not before or before == extension:
                return Sum(0, (((register, extension), 1),))
        return None


class Registers:
    """Integer registers during the walk through a block; None: not known.

    ``constants``: known constants are used. Without it, a register that the block sets to a constant counts as a
    register of the beginning, as it is for a block that begins after that instruction.
    """

    def __init__(self, constants: bool = True):
        self._values: dict[str, Sum | None] = {}
        self._constants = constants

    def __getitem__(self, name: str) -> Sum | None:
        """A register by the name in the text: ``x3``, ``w3``, ``sp``, ``xzr``."""
        if name in ("xzr", "wzr"):
            return Sum()
        whole = _whole(name)
        value = self._values.get(whole, _unchanged(whole))
        return value and value.half("uxtw") if name[0] == "w" else value

    def __setitem__(self, name: str, value: Sum | None):
        self._values[_whole(name)] = value and value.half("uxtw") if name[0] == "w" else value

    def forget(self):
        """Take the present contents of the registers as the beginning."""
        self._values.clear()

    def execute(self, i: Instruction) -> None:
        """Apply an instruction that is no access to the registers."""
        written = [r for r in i.writes if r[0] in "xs"]
        if not written:
            return
        mnemonic, parts, integer = _parts(i.text)
        value = None
        if integer:
            try:
                value = self._value(mnemonic, parts)
            except ValueError:
                value = None
        for register in written:
            self[register] = None
        if value and not value.terms and not self._constants:
            value = _unchanged(_whole(parts[0]))
        self[parts[0] if value else written[0]] = value

    def _value(self, mnemonic: str, parts: tuple[str, ...]) -> Sum | None:
        if mnemonic in ("add", "sub", "adds", "subs"):
            a, b = self[parts[1]], self.operand(parts[2:])
            return a and b and a.plus(b.times(-1 if mnemonic[0] == "s" else 1))
        if mnemonic == "mov":
            return self.operand(parts[1:])
        if mnemonic in ("adr", "adrp"):
            return Sum(_number(parts[1]))
        if mnemonic == "movk":
            a, shift = self[parts[0]], int(parts[2].split("#")[1], 0) if len(parts) > 2 else 0
            if a is None or a.terms:
                return None
            return Sum(a.constant & ~(0xFFFF << shift) | _number(parts[1]) << shift)
        if mnemonic == "lsl" and parts[2].startswith("#"):
            a = self[parts[1]]
            return a and a.times(1 << _number(parts[2]))
        if mnemonic == "sxtw":
            return self.operand((parts[1], "sxtw"))
        if mnemonic in ("sbfiz", "ubfiz") and parts[3] == "#0x20":
            return self.operand((parts[1], ("sxtw" if mnemonic[0] == "s" else "uxtw") + " " + parts[2]))
        return None

    def operand(self, parts: tuple[str, ...]) -> Sum | None:
        """``#imm``, ``#imm, lsl #12``, a register, ``x1, lsl #2``, ``w1, sxtw #2``."""
        constant, register, extension, factor = _operand(parts)
        if not register:
            return constant
        value = self[register]
        if extension:
            value = value and value.half(extension)
        return value and value.times(factor)


_INTEGER = re.compile(r"([wx](\d+|zr)|w?sp|fp|lr)$")


@functools.cache
def _whole(name: str) -> str:
    return {"fp": "x29", "lr": "x30", "wsp": "sp"}.get(name, "x" + name[1:] if name[0] == "w" else name)


@functools.cache
def _unchanged(whole: str) -> Sum:
    """A register as it is at the block's beginning."""
    return Sum(0, (((whole, ""), 1),))


def _number(text: str) -> int:
    return int(text.removeprefix("#"), 0)


@functools.lru_cache(_TEXTS)
def _parts(text: str) -> tuple[str, tuple[str, ...], bool]:
    """Mnemonic and operands of an instruction, and whether the first operand is an integer register."""
    mnemonic, _, operands = text.partition(" ")
    parts = tuple(operands.split(", "))
    return mnemonic, parts, bool(_INTEGER.match(parts[0]))


@functools.lru_cache(_TEXTS)
def _operand(parts: tuple[str, ...]) -> tuple[Sum | None, str, str, int]:
    """A constant; or a register, how its low half is extended if it is, and a factor. None and "" if it is neither."""
    how, _, by = parts[1].partition(" ") if len(parts) > 1 else ("", "", "")
    factor = 1 << _number(by) if by else 1
    if how in ("sxtw", "uxtw"):
        name = parts[0][1:]
        return (Sum(), "", "", 1) if name == "zr" else (None, "x" + name, how, factor)
    if how in ("", "lsl", "uxtx", "sxtx"):
        if parts[0].startswith("#"):
            return Sum(_number(parts[0]) * factor), "", "", 1
        if _INTEGER.match(parts[0]):
            return None, parts[0], "", factor
    return None, "", "", 1


_LIST = re.compile(r"(ld|st)([1-4])(r?) \{ ?(.*?) ?\}(\[\d+\])?, ")
_PLAIN = re.compile(r"(ldp|ldnp|stp|stnp|ldr|ldur|str|stur|ldar|stlr|ldapr)(sw|sb|sh|b|h)? (\w+), ")
_BYTES = {"b": 1, "h": 2, "s": 4, "w": 4, "d": 8, "x": 8, "q": 16, "sp": 8, "fp": 8, "lr": 8}
_NARROW = {"sw": 4, "b": 1, "sb": 1, "h": 2, "sh": 2}
_ADDRESS = re.compile(r"\[([^\]]*)\](!|, .*)?$")


def access(i: Instruction, registers: Registers) -> tuple[Sum | None, int, bool] | None:
    """Address, bytes and direction of a load or store, after whose write-back is applied; None for other instructions.

    The address is None if it needs an unknown register.

    Raises
    ------
    UnknownAccess
    """
    if not i.kind.startswith(("load", "store")):
        return None
    written = i.kind.startswith("store")
    nbytes, literal, base, index, step_text = _moved(i.text)
    if literal is not None and not written:
        address: Sum | None = Sum(literal)
    elif not base:
        raise UnknownAccess(i.text)
    else:
        start = registers[base]
        offset = registers.operand(index) if index else Sum()
        if step_text and step_text != "!":  # after the access
            address, step = start, registers.operand((step_text,))
        else:
            address = step = start and offset and start.plus(offset)
        if step_text:
            registers[base] = step if step_text == "!" else start and step and start.plus(step)
    for register in i.writes if i.kind.startswith("load") else ():
        if register[0] == "x":
            registers[register] = None
    return address, nbytes, written


@functools.lru_cache(_TEXTS)
def _moved(text: str) -> tuple[int, int | None, str, tuple[str, ...], str]:
    """Of a load or store: bytes, the address if the text has it, else base, index and step of the base: ``!`` if it is
    the index, a number or register after the access. An empty base: the address is of an unknown form.
    """
    nbytes, rest = _size(text)
    literal = _number(rest) if rest.startswith("#0x") else None
    found = _ADDRESS.match(rest)
    if not found:
        return nbytes, literal, "", (), ""
    base, *index = found[1].split(", ")
    return nbytes, literal, base, tuple(index), (found[2] or "").removeprefix(", ")


def _size(text: str) -> tuple[int, str]:
    """Bytes that an access moves, and its text from the address on."""
    if m := _LIST.match(text):
        first, *others = m[4].split(", ")
        lanes, element = re.match(r"v\d+\.(\d*)([bhsd])$", first).groups()
        one = _BYTES[element] * (int(lanes) if lanes and not m[3] else 1)
        return one * (1 + len(others)), text[m.end() :]
    if not (m := _PLAIN.match(text)):
        raise UnknownAccess(text)
    register, rest = m[3], text[m.end() :]
    nbytes = _NARROW[m[2]] if m[2] else _BYTES[register if register in _BYTES else register[0]]
    if m[1][2:] in ("p", "np"):
        return 2 * nbytes, rest.partition(", ")[2]
    return nbytes, rest


class Follower:
    """The accesses of one image, for ``count_block`` of native.c.

    Parameters
    ----------
    image : elf.Image
        AArch64.
    read : int
        Address of ``uc_reg_read``.

    Attributes
    ----------
    again : list of int
        Addresses at which ``follow_again`` must be called.

    Raises
    ------
    UnknownAccess
        The image has an access whose address or size does not follow from its text.
    """

    def __init__(self, image, read: int):
        self._image = image
        self.base = image.code[0] & ~3
        n = (image.code[1] - self.base + 3) // 4 + 1
        self._programs, self._again = np.zeros(n, np.uint64), np.zeros(n, np.uint8)
        self._kept: list = []
        self.failure: Exception | None = None
        self.again = self._unknown()
        self._again[[(a - self.base) // 4 for a in self.again]] = 1
        self._translate = native.TRANSLATE(self._met)  # ctypes keeps no reference
        self.struct = native.FollowStruct(
            self.base, self._programs.ctypes.data, self._again.ctypes.data, None, read, self._translate, 0
        )

    def _instructions(self, start: int, end: int) -> Iterator[Instruction]:
        known, base = self._image.listing, self._image.base
        for address in range(start, end, 4):
            if address not in known:
                found = disassemble("aarch64", bytes(self._image.memory[address - base : end - base]), address)
                known.update((i.address, i) for i in found)
            yield known[address]

    def _unknown(self) -> list[int]:
        """Accesses that need a register unknown at the beginning of some block, since a block may begin anywhere."""
        found = []
        registers = Registers(constants=False)
        for i in self._instructions(
            self.base, self._image.code[1] & ~3
        ):  # not function by function: local functions have no names
            one = access(i, registers)
            if one is None:
                registers.execute(i)
            elif one[0] is None:
                found.append(i.address)
                registers.forget()
                access(i, registers)
            if i.branch:
                registers.forget()
        return found

    def _met(self, address: int) -> None:
        try:
            self._programs[(address - self.base) // 4] = ctypes.addressof(self._program(address))
        except Exception as error:  # an exception must not pass through the emulator
            self.failure = error

    def _program(self, start: int) -> native.ProgramStruct:
        slots: dict[tuple[str, str], int] = {}
        accesses, terms, registers = [], [], Registers()
        for i in self._instructions(start, min(start + 4 * _LONGEST, self._image.code[1] & ~3)):
            if i.address != start and self._again[(i.address - self.base) // 4]:
                break
            one = access(i, registers)
            if one is None:
                registers.execute(i)
            else:
                address, nbytes, written = one
                if address is None:
                    raise UnknownAccess(f"{i.address:#x}: {i.text}")
                accesses.append((address.constant, len(terms), len(address.terms), nbytes, i.address - start, written))
                terms += [(slots.setdefault(t, len(slots)), factor) for t, factor in address.terms]
            if i.branch:
                break
        if len(slots) > _MOST_SLOTS:
            raise UnknownAccess(f"{start:#x}: {len(slots)} registers")
        arrays = (
            np.array([(_UC[r], _EXTENDS[e]) for r, e in slots], _SLOT),
            np.array(accesses, _ACCESS),
            np.array(terms, _TERM),
        )
        program = native.ProgramStruct(*(a.ctypes.data for a in arrays), len(slots), len(accesses))
        self._kept.append((program, arrays))
        return program
