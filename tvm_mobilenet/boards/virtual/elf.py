"""Read a linked shared object into an image of memory: segments, relocations, symbols.

This is a small loader for the modules that this project builds: it places every loadable segment at a base
address, applies the dynamic relocations of AArch64 and 32-bit ARM, and binds undefined functions to addresses that the
caller provides. Modules have no constructors, so one is refused. Only the library with the runtime has thread-local
storage; its relocations lead to the functions ``__tlsdesc`` and ``__tls_get_addr``.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass, field
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from tvm_mobilenet.errors import BoardError

PAGE = 0x10000
_MACHINES = {"EM_AARCH64": "aarch64", "EM_ARM": "armv7"}
# Relocation numbers: "ELF for the Arm 64-bit Architecture" and "ELF for the Arm Architecture" (ARM-software/abi-aa).
_ABSOLUTE = {"aarch64": (257,), "armv7": (2,)}
_BIND = {"aarch64": (1025, 1026), "armv7": (21, 22)}  # GLOB_DAT, JUMP_SLOT
_RELATIVE = {"aarch64": (1027,), "armv7": (23,)}
_TLSDESC, _DTPMOD, _DTPOFF = 1031, 17, 18


@dataclass
class Image:
    """A shared object as it lies in memory.

    Parameters
    ----------
    architecture : str
        ``aarch64`` or ``armv7``.
    base : int
        Address of the object's own address 0.
    memory : bytearray
        All segments, relocated; ``memory[a - base]`` is the byte at address ``a``.
    code : (int, int)
        Addresses of the executable segments, from and to.
    symbols : dict
        Every defined symbol: name to address.
    imports : tuple of str
        Functions that the object needs from elsewhere.
    """

    path: str
    architecture: str
    base: int
    memory: bytearray
    code: tuple[int, int]
    symbols: dict[str, int]
    imports: tuple[str, ...]
    _functions: list[tuple[int, int, str]] = field(default_factory=list)
    tls: bytes = b""  # initial contents of thread-local storage
    listing: dict[int, object] = field(default_factory=dict)  # disassembled instructions by address

    @property
    def pointer_bytes(self) -> int:
        return 8 if self.architecture == "aarch64" else 4

    def function_at(self, address: int) -> tuple[str, int]:
        """Name of the function that holds an address and the offset in it; ``("", address)`` outside of all."""
        i = bisect.bisect_right(self._functions, (address, 1 << 62, "")) - 1
        if i >= 0:
            start, size, name = self._functions[i]
            if start <= address < start + max(size, 4):
                return name, address - start
        return "", address

    def functions(self) -> list[tuple[int, int, str]]:
        """Every function as ``(address, bytes, name)``, by address."""
        return self._functions


def read_image(path: str | Path, base: int, provide) -> Image:
    """Loads a shared object.

    Parameters
    ----------
    path : str or Path
    base : int
        Where to place it, a multiple of 64 KiB.
    provide : callable
        ``provide(name) -> address`` of an undefined function; 0 if a weak symbol may stay undefined.

    Raises
    ------
    BoardError
        The file is no shared object, is for another machine, is truncated, or has an unexpected relocation.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(ELFFile(file), path, base, provide)
    except OSError as e:
        raise BoardError(f"{path}: {e.strerror}", "build the module first") from None
    except (ELFError, struct.error, IndexError, UnicodeDecodeError) as e:
        raise BoardError(f"{path} is not a complete ELF shared object: {e}", "build the module again") from None


def _read(elf: ELFFile, path: Path, base: int, provide) -> Image:
    machine = _MACHINES.get(elf["e_machine"])
    if machine is None or elf["e_type"] != "ET_DYN":
        raise BoardError(
            f"{path}: machine {elf['e_machine']}, type {elf['e_type']}: the virtual board executes shared "
            "objects for AArch64 and 32-bit ARM",
            "build for a target such as rpi4 or armv7",
        )
    loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    end = max(s["p_vaddr"] + s["p_memsz"] for s in loads)
    memory = bytearray(-(-end // PAGE) * PAGE)
    code = []
    for s in loads:
        data = s.data()
        if len(data) != s["p_filesz"]:
            raise BoardError(
                f"{path} is truncated: a segment of {s['p_filesz']} bytes has {len(data)}", "build the module again"
            )
        memory[s["p_vaddr"] : s["p_vaddr"] + len(data)] = data
        if s["p_flags"] & 1:
            code.append((base + s["p_vaddr"], base + s["p_vaddr"] + s["p_memsz"]))
    symbols, functions = {}, {}
    for section in elf.iter_sections():
        if isinstance(section, SymbolTableSection):
            for s in section.iter_symbols():
                if s["st_shndx"] == "SHN_UNDEF" or not s.name or s.name.startswith("$"):
                    continue
                symbols[s.name] = base + s["st_value"]
                if s["st_info"]["type"] == "STT_FUNC":
                    functions[base + s["st_value"]] = (s["st_size"], s.name)
    imports: list[str] = []
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection) and section["sh_flags"] & 2:  # allocated: dynamic relocations
            table = elf.get_section(section["sh_link"])
            for r in section.iter_relocations():
                _relocate(r, table, machine, memory, base, symbols, provide, imports, path)
    image = Image(
        str(path), machine, base, memory, (min(c[0] for c in code), max(c[1] for c in code)), symbols, tuple(imports)
    )
    for s in elf.iter_segments():
        if s["p_type"] == "PT_TLS":
            image.tls = s.data().ljust(s["p_memsz"], b"\0")
    image._functions = sorted((a, size, name) for a, (size, name) in functions.items())
    return image


def _relocate(r, table, machine, memory, base, symbols, provide, imports, path):
    kind, offset = r["r_info_type"], r["r_offset"]
    form = "<Q" if machine == "aarch64" else "<I"
    addend = (
        r["r_addend"]
        if "r_addend" in r.entry
        else (0 if kind in _BIND[machine] else struct.unpack_from(form, memory, offset)[0])
    )
    if kind in _RELATIVE[machine]:
        value = base + addend
    elif machine == "aarch64" and kind == _TLSDESC:  # a function and its argument, the place in the storage
        place = addend + (table.get_symbol(r["r_info_sym"])["st_value"] if r["r_info_sym"] else 0)
        value, offset = place, offset + 8
        struct.pack_into(form, memory, offset - 8, provide("__tlsdesc"))
    elif machine == "armv7" and kind == _DTPMOD:
        value = 1
    elif machine == "armv7" and kind == _DTPOFF:
        value = addend + (table.get_symbol(r["r_info_sym"])["st_value"] if r["r_info_sym"] else 0)
    elif kind in _ABSOLUTE[machine] + _BIND[machine]:
        symbol = table.get_symbol(r["r_info_sym"])
        if symbol["st_shndx"] != "SHN_UNDEF":
            value = base + symbol["st_value"] + addend
        else:
            address = provide(symbol.name)
            imports.append(symbol.name)
            value = address + addend if address else 0
    else:
        raise BoardError(
            f"{path}: relocation type {kind} at {offset:#x} is not one that a module has",
            "link with the target's default linker",
        )
    struct.pack_into(form, memory, offset, value & (1 << 8 * struct.calcsize(form)) - 1)
