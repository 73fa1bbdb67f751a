"""A check of the instructions in a library: which of them need more than every CPU of the architecture has.

An instruction that a CPU lacks ends the process, but an emulator of another CPU may run it. The virtual board executes
``fmlal`` and LSE atomics, for example, which half precision on a Cortex-A76 does not include. So this module reads the
code itself. It compares each word of the executable sections with the encodings below. An instruction of an extension
is allowed if the target's code may use the extension; the runtime then asks the CPU for it when it opens a network
(`targets.features`). Code that might not be reached counts too. The only exception are atomics that test for LSE at run
time, right before the instruction: ``__aarch64_ldadd4_acq_rel`` and similar functions in libgcc and compiler-rt, which
``--linker`` with a GCC links; zig's output has none.

AArch64 begins with ARMv8.0-A (floating point and NEON), 32-bit Arm with ARMv7-A, NEON, VFPv4 and integer division.
Thumb code, which GCC generates for the runtime's C, and x86-64 code are not checked: their instructions have several
lengths. On x86-64 the host's level limits the code.

Encodings: Arm Architecture Reference Manual for A-profile (DDI 0487), C4.1 "A64 instruction set encoding" and F3.1,
F4.1 for A32. Features have LLVM's names. ``tests/compiler/test_instruction_sets.py`` compares them with LLVM's own
assembler.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvm_mobilenet.compiler import symbols
from tvm_mobilenet.errors import TvmMobilenetError
from tvm_mobilenet.targets import features

SHOWN = 3  # instructions that an error lists
_WRITTEN, _EXECUTABLE, _PROGRAM = 1, 4, 1  # flags and a type of ELF sections

# feature: (mask, value) of its instructions
_A64 = {
    "fullfp16": (
        (0x7FC00000, 0x1EC00000),  # scalar, type 11; without conversions to other sizes, see _BASE
        (0xFFC00000, 0x1FC00000),  # fmadd and its kin
        (0x9F60C400, 0x0E400400),  # three vectors
        (0xDF60C400, 0x5E400400),
        (0x9F7E0C00, 0x0E780800),  # two vectors
        (0xDF7E0C00, 0x5E780800),
        (0xBF7FFC00, 0x0E30C800),  # fmaxnmv, fminnmv
        (0xBF7FFC00, 0x0E30F800),  # fmaxv, fminv
        (0xFF7FFC00, 0x5E30C800),  # pairs to a scalar
        (0xFF7FFC00, 0x5E30D800),
        (0xFF7FFC00, 0x5E30F800),
        (0xBFF8FC00, 0x0F00FC00),  # fmov of an immediate
        (0x9FF0FC00, 0x0F10E400),  # fixed point
        (0x9FF0FC00, 0x0F10FC00),
        (0xDFF0FC00, 0x5F10E400),
        (0xDFF0FC00, 0x5F10FC00),
        (0xBFC0B400, 0x0F001000),  # fmla, fmls by element
        (0xBFC0F400, 0x0F009000),
        (0xBFC0F400, 0x2F009000),
        (0xFFC0B400, 0x5F001000),
        (0xFFC0F400, 0x5F009000),
        (0xFFC0F400, 0x7F009000),
        (0xBFE0E400, 0x2E40C400),  # complex numbers
        (0xBFE0EC00, 0x2E40E400),
        (0xBFC09400, 0x2F401000),
    ),
    "fp16fml": (
        (0xBF60FC00, 0x0E20EC00),
        (0xBF60FC00, 0x2E20CC00),
        (0xBFC0B400, 0x0F800000),
        (0xBFC0B400, 0x2F808000),
    ),
    "dotprod": ((0x9FE0FC00, 0x0E809400), (0x9FC0F400, 0x0F80E000)),
    "i8mm": (
        (0xDFE0FC00, 0x4E80A400),
        (0xFFE0FC00, 0x4E80AC00),
        (0xBFE0FC00, 0x0E809C00),
        (0xBF40F400, 0x0F00F000),
    ),
    "bf16": (
        (0xBFE0FC00, 0x2E40FC00),
        (0xBFC0F400, 0x0F40F000),
        (0xBFE0FC00, 0x2EC0FC00),
        (0xBFC0F400, 0x0FC0F000),
        (0xFFE0FC00, 0x6E40EC00),
        (0xFFFFFC00, 0x1E634000),
        (0xBFFFFC00, 0x0EA16800),
    ),
    "rdm": (
        (0xBF20F400, 0x2E008400),
        (0xFF20F400, 0x7E008400),
        (0xBF00D400, 0x2F00D000),
        (0xFF00D400, 0x7F00D000),
    ),
    "complxnum": ((0xBF20E400, 0x2E00C400), (0xBF20EC00, 0x2E00E400), (0xBF009400, 0x2F001000)),
    "jsconv": ((0xFFFFFC00, 0x1E7E0000),),
    "fptoint": ((0xFFBE7C00, 0x1E284000), (0x9FBFEC00, 0x0E21E800)),
    "lse": (
        (0x3FA07C00, 0x08A07C00),  # cas
        (0xBFA07C00, 0x08207C00),  # casp
        (0x3F208C00, 0x38200000),  # ldadd and its kin
        (0x3F20FC00, 0x38208000),  # swp
    ),
    "rcpc": ((0x3FFFFC00, 0x38BFC000),),
    "rcpc-immo": ((0x3F200C00, 0x19000000),),
    "lse128": ((0xFF200C00, 0x19200000),),
    "ls64": ((0xFFFFBC00, 0xF83F9000), (0xFFE0EC00, 0xF820A000)),
    "mops": ((0x3B200C00, 0x19000400),),
    "cssc": (
        (0x7FFFF800, 0x5AC01800),
        (0x7FFFFC00, 0x5AC02000),
        (0x7FE0F000, 0x1AC06000),
        (0x7FC00000, 0x11C00000),
    ),
    "crc": ((0x7FE0E000, 0x1AC04000),),
    "aes": ((0xFF3E0C00, 0x4E280800), (0xBFE0FC00, 0x0EE0E000)),
    "sha2": ((0xFF208C00, 0x5E000000), (0xFF3E0C00, 0x5E280800)),
    "sha3": ((0xFF000000, 0xCE000000),),  # with SHA-512, SM3 and SM4
    "flagm": (
        (0xFFFFFFFF, 0xD500401F),
        (0xFFFFFFFF, 0xD500403F),
        (0xFFFFFFFF, 0xD500405F),
        (0xFFE07C10, 0xBA000400),
        (0xFFFFBC1F, 0x3A00080D),
    ),
    "pauth": (
        (0xFFFF0000, 0xDAC10000),
        (0xFFE0FC00, 0x9AC03000),
        (0xFE9FF800, 0xD61F0800),
        (0xFF200400, 0xF8200400),
    ),
    "mte": (
        (0xBFC00000, 0x91800000),
        (0xFF200000, 0xD9200000),
        (0xFFE0FC00, 0x9AC00000),
        (0xFFE0FC00, 0xBAC00000),
        (0xFFE0F800, 0x9AC01000),
    ),
    "rand": ((0xFFFFFFC0, 0xD53B2400),),
    "sb": ((0xFFFFFFFF, 0xD50330FF),),
    "hbc": ((0xFF000010, 0x54000010),),
    "tme": ((0xFFE0001F, 0xD4600000), (0xFFFFFEE0, 0xD5233060), (0xFFFFFFFF, 0xD503307F)),
    "sve": ((0x1E000000, 0x04000000),),
    "sme": ((0x9E000000, 0x80000000),),
}
_A32 = {
    "fullfp16": (
        (0x0F000F00, 0x0E000900),  # scalar: arithmetic and moves
        (0x0F200F00, 0x0D000900),  # vldr.16, vstr.16
        (0xFFBF0F50, 0xFEB00A40),  # vmovx, vins
        (0xFE900E00, 0xF2100E00),  # three vectors
        (0xFE900F00, 0xF2100D00),
        (0xFF900F10, 0xF2100C10),
        (0xFEB00F50, 0xF2900140),  # by element
        (0xFEB00F50, 0xF2900540),
        (0xFEB00F50, 0xF2900940),
        (0xFFBF0C10, 0xF3B50400),  # two vectors
        (0xFFBF0C10, 0xF3B70400),
        (0xFEA00E90, 0xF2A00C10),  # fixed point
    ),
    "dotprod": ((0xFFB00F00, 0xFC200D00), (0xFFB00F00, 0xFE200D00)),
    "fp-armv8": (  # with ARMv8's extensions in the encodings of coprocessors
        (0xFC000C00, 0xFC000800),  # vmaxnm, vsel, vrinta, vcvta; complex numbers, fp16fml, bf16, i8mm
        (0xFC000E00, 0xFC000C00),
        (0x0FBE0ED0, 0x0EB60A40),  # vrintr, vrintz
        (0x0FBF0ED0, 0x0EB70A40),  # vrintx
        (0x0FBE0F50, 0x0EB20B40),  # between half and double
        (0x0FBF0FD0, 0x0EB90BC0),  # vjcvt
        (0xFF800F10, 0xF3000B10),  # vqrdmlah, vqrdmlsh
        (0xFF800F10, 0xF3000C10),
        (0xFEB00E50, 0xF2900E40),
        (0xFEB00E50, 0xF2A00E40),
        (0xFF800F10, 0xF3000F10),  # vmaxnm, vminnm
        (0xFFB30C10, 0xF3B30000),  # vcvta and its kin
        (0xFFB30E10, 0xF3B20400),  # vrint
        (0xFFB30F90, 0xF3B20680),
        (0xFFB30F90, 0xF3B20780),
        (0x0F800DF0, 0x01800C90),  # lda, stl
        (0x0FF000F0, 0x01000070),  # hlt
    ),
    "crc": ((0x0F9000F0, 0x01000040),),
    "aes": ((0xFFB30F10, 0xF3B00300), (0xFEB00F50, 0xF2A00E00)),
    "sha2": ((0xFE800F10, 0xF2000C00), (0xFFB30F90, 0xF3B10280), (0xFFB30F90, 0xF3B20380)),
}
_BASE = {  # encodings that match a feature's masks but do not need it
    "aarch64": ((0xFFFF7C00, 0x1EE24000),),  # fcvt from half to single and double
    "armv7": ((0xFF000000, 0xFF000000),),  # no instruction
}
# Loads of 32-bit Arm relative to the program counter: mask, value, what an offset counts, words loaded
_LITERALS = (
    (0x0F7F0000, 0x051F0000, 1, 1),  # ldr; the offset is of 12 bits
    (0x0F7F00F0, 0x014F00D0, 0, 2),  # ldrd; of two times 4 bits
    (0x0F3F0F00, 0x0D1F0A00, 4, 1),  # vldr s
    (0x0F3F0F00, 0x0D1F0B00, 4, 2),  # vldr d
)
_ROWS = {"aarch64": _A64, "armv7": _A32}
_MACHINES = {183: "aarch64", 40: "armv7"}  # of an ELF file's header


@dataclass(frozen=True)
class Outside:
    """One instruction that a target's code may not use.

    Parameters
    ----------
    address : int
        In the file, as a disassembler shows it.
    word : int
        Its 32 bits.
    feature : str
        The feature that it needs, by LLVM's name.
    place : str
        ``function+0x10``, or the section if no symbol names the function.
    """

    address: int
    word: int
    feature: str
    place: str
    architecture: str

    @property
    def text(self) -> str:
        """The instruction in assembly; its word if capstone is missing or does not know it."""
        try:
            import capstone
        except ImportError:
            return f".inst {self.word:#010x}"
        where = {"aarch64": "CS_ARCH_ARM64", "armv7": "CS_ARCH_ARM"}[self.architecture]
        modes = capstone.CS_MODE_ARM | (capstone.CS_MODE_V8 if self.architecture == "armv7" else 0)
        cs = capstone.Cs(getattr(capstone, where), modes)
        found = next(cs.disasm_lite(self.word.to_bytes(4, "little"), self.address), None)
        return " ".join(found[2:]) if found else f".inst {self.word:#010x}"

    def __str__(self) -> str:
        return f"{self.address:#x} ({self.place}): {self.text}, which needs {self.feature}"


def needed(words: np.ndarray, architecture: str) -> dict[str, np.ndarray]:
    """For each feature, the instructions that need it.

    Parameters
    ----------
    words : (n,) uint32
    architecture : str
        ``aarch64`` or ``armv7``.

    Returns
    -------
    dict of str to (n,) bool
    """
    base = _any(words, _BASE[architecture])
    found = {feature: _any(words, rows) & ~base for feature, rows in _ROWS[architecture].items()}
    if architecture == "armv7":
        found["fp-armv8"] &= ~(found["dotprod"] | found["fullfp16"])
    return found


def outside(path: str | Path, target) -> list[Outside]:
    """The instructions of a library, program or object that a target's code may not use, by address.

    Parameters
    ----------
    path : path
        An ELF file, little endian.
    target : targets.Target
        A target with AArch64 or 32-bit Arm; for others the list is empty.

    Raises
    ------
    ValueError, IndexError, struct.error
        It is no whole ELF file of the target's architecture.
    """
    if target.architecture not in _ROWS:
        return []
    elf, found, allowed = symbols.read(Path(path)), [], None
    if (machine := _MACHINES.get(elf.machine, elf.machine)) != target.architecture:
        raise ValueError(f"it is code for {machine}")
    for number, (section, content) in enumerate(zip(elf.sections, elf.contents, strict=True)):
        if section[1] != _PROGRAM or not section[2] & _EXECUTABLE:
            continue
        words = np.frombuffer(content[: len(content) // 4 * 4], "<u4")
        for feature, where in needed(words, target.architecture).items():
            if not where.any():
                continue
            if allowed is None:
                allowed = features.allowed(target)  # LLVM says so, which takes a second to import
            if feature in allowed:
                continue
            code = elf.code_words(number, len(words))
            if feature == "lse":
                code &= ~guarded(words)
            if target.architecture == "armv7":
                code &= ~literals(words)
            for k in np.flatnonzero(where & code).tolist():
                at = section[3] + 4 * k
                place = elf.function_at(number, at) or elf.names[number]
                found.append(Outside(at, int(words[k]), feature, place, target.architecture))
    return sorted(found, key=lambda one: (one.address, one.feature))


def check(path: str | Path, target, name: str = "") -> None:
    """Refuse a library or program with instructions that its target's code may not use; ``name``: for the error.

    Raises
    ------
    TvmMobilenetError
        There are such instructions. The message gives their number, and address, function and feature of the first
        ones.
    """
    found = outside(path, target)
    if not found:
        return
    needs = sorted({one.feature for one in found})
    told = "; ".join(map(str, found[:SHOWN])) + (f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    raise TvmMobilenetError(
        f"{name or Path(path).name} for {target.name}: {len(found)} instructions that its code may not use: {told}",
        f"add {', '.join(f'-{feature}' for feature in needs)} to llvm_attributes of the target, or leave out --linker",
    )


def guarded(words: np.ndarray) -> np.ndarray:
    """Whether each word of AArch64 code is reached only after a load of the byte that says that the CPU has LSE: (n,)
    bool.

    The form of ``lse.S`` in libgcc and compiler-rt: the address of a variable's page in x16, its byte in w16, a branch
    away if it is zero, and the instruction.
    """
    found = np.zeros(len(words), bool)
    found[3:] = (
        (words[:-3] & np.uint32(0x9F00001F) == np.uint32(0x90000010))  # adrp x16, page
        & (words[1:-2] & np.uint32(0xFFC003FF) == np.uint32(0x39400210))  # ldrb w16, [x16, #offset]
        & (words[2:-1] & np.uint32(0xFF80001F) == np.uint32(0x34000010))  # cbz w16, further down
    )
    return found


def literals(words: np.ndarray) -> np.ndarray:
    """Whether each word of 32-bit Arm code is loaded as data, relative to the program counter: (n,) bool."""
    found = np.zeros(len(words) + 4, bool)
    for mask, value, scale, size in _LITERALS:
        at = np.flatnonzero(words & np.uint32(mask) == np.uint32(value))
        word = words[at].astype(np.int64)
        offset = (
            word & 0xFFF if scale == 1 else (word & 0xF | word >> 4 & 0xF0) if scale == 0 else (word & 0xFF) * scale
        )
        to = at + 2 + np.where(word >> 23 & 1, offset, -offset) // 4
        to = to[(to >= 0) & (to < len(words))]
        for k in range(size):
            found[to + k] = True
    return found[: len(words)]


def _any(words: np.ndarray, rows) -> np.ndarray:
    found = np.zeros(words.shape, bool)
    for mask, value in rows:
        found |= words & np.uint32(mask) == np.uint32(value)
    return found
