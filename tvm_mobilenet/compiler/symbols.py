"""Symbols of ELF objects and libraries. Only names change here, since code refers to symbols by number.

- `name_kernel`, `rename_kernel`: give each kernel one symbol for all of its code, which profilers show.
- `own_names`: the symbols of a relocatable object get a prefix of the model, so that two models link into one program.
  Every global symbol that the object defines is hidden too, except for the functions that a program calls:
  ``mobilenet_open`` becomes ``<prefix>mobilenet_open``, and the plain name stays as a weak second one, for programs
  with one model. Debug information is dropped.
- `keep_kernels`: a linked library keeps only the symbols of its kernels and those that it exports.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

WRAPPER, BODY = "__tvm_ffi_", "_compute_"  # TVM's prefix of a kernel's wrapper, and its suffix of the body
_FUNCTION, _ALLOCATED = 2, 2
_SYMTAB, _STRTAB, _NOBITS, _NULL = 2, 3, 8, 0
_CONVERSIONS = b"conv"  # the end of their section's name
_GLOBAL, _WEAK, _HIDDEN, _ABSOLUTE = 1, 2, 2, 0xFFF1


class _Form:
    """The record layouts of 32- and 64-bit ELF, little endian."""

    def __init__(self, wide: bool):
        self.section = struct.Struct("<IIQQQQIIQQ" if wide else "<IIIIIIIIII")
        self.symbol = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
        self.header = struct.Struct("<16sHHIQQQIHHHHHH" if wide else "<16sHHIIIIIHHHHHH")
        self.wide = wide

    def unpack_symbol(self, data: bytes, at: int) -> list[int]:
        """name, info, other, section, value, size."""
        f = self.symbol.unpack_from(data, at)
        return list(f) if self.wide else [f[0], f[3], f[4], f[5], f[1], f[2]]

    def pack_symbol(self, s: list[int]) -> bytes:
        return self.symbol.pack(*s) if self.wide else self.symbol.pack(s[0], s[4], s[5], s[1], s[2], s[3])


class _Elf:
    """A little-endian ELF file in parts: header, sections, their contents and names."""

    def __init__(self, path: Path):
        self.data = path.read_bytes()
        if self.data[:4] != b"\x7fELF" or self.data[5] != 1:
            raise ValueError(f"{path} is not a little-endian ELF file")
        self.form = form = _Form(self.data[4] == 2)
        self.header = list(form.header.unpack_from(self.data))
        self.sections = [
            list(form.section.unpack_from(self.data, self.header[6] + i * self.header[11]))
            for i in range(self.header[12])
        ]
        sizes = [0 if s[1] in (_NOBITS, _NULL) else s[5] for s in self.sections]
        if sum(sizes) > len(self.data):
            raise ValueError(f"{path}: its sections overlap, or it is truncated")
        self.contents = [self.data[s[4] : s[4] + size] for s, size in zip(self.sections, sizes, strict=True)]
        self.names = [_text(self.contents[self.header[13]], s[0]) for s in self.sections]
        self.table = next((i for i, s in enumerate(self.sections) if s[1] == _SYMTAB), -1)  # the table of all symbols

    @property
    def machine(self) -> int:
        """The number of its architecture."""
        return self.header[2]

    @property
    def strings(self) -> bytes:
        return self.contents[self.sections[self.table][6]]

    def symbols(self) -> list[list[int]]:
        """name, info, other, section, value, size of each."""
        table, step = self.contents[self.table], self.form.symbol.size
        return [self.form.unpack_symbol(table, at) for at in range(0, len(table), step)]

    def with_symbols(self, symbols: list[list[int]]) -> bytes:
        """The file with other symbols, as many as it has."""
        at = self.sections[self.table][4]
        table = b"".join(map(self.form.pack_symbol, symbols))
        return self.data[:at] + table + self.data[at + len(table) :]

    def function_at(self, section: int, address: int) -> str:
        """The function that contains an address in a section, and the offset in it; empty if no symbol covers it."""
        k = bisect.bisect_right(self._functions, (section, address + 1)) - 1
        if k < 0:
            return ""
        own, start, size, name = self._functions[k]
        inside = own == section and address < start + size
        return f"{_text(self.strings, name)}+{address - start:#x}" if inside else ""

    @cached_property
    def _functions(self) -> list[tuple[int, int, int, int]]:
        """Section, address, size and name of each function, sorted."""
        symbols = self.symbols() if self.table >= 0 else ()
        return sorted((s[3], s[4] & ~1, s[5], s[0]) for s in symbols if s[1] & 15 == _FUNCTION)

    def code_words(self, section: int, words: int) -> np.ndarray:
        """Whether each word of a section is a 32-bit instruction, by the symbols ``$a``, ``$x``, ``$t`` and ``$d``
        (Arm, AArch64, Thumb, data) if the file has them.
        """
        code = np.ones(words, bool)
        if self.table < 0:
            return code
        marks = sorted(
            (s[4] - self.sections[section][3], _text(self.strings, s[0])[:2])
            for s in self.symbols()
            if s[3] == section and s[1] & 15 == 0 and _text(self.strings, s[0]).startswith(("$a", "$x", "$t", "$d"))
        )
        for at, mark in marks:
            code[at // 4 :] = mark in ("$a", "$x")
        return code


def read(path: Path) -> _Elf:
    """An ELF file in parts."""
    return _Elf(path)


def name_kernel(path: Path, kernel: str) -> None:
    """Give all code of the only kernel in an object one symbol, the kernel's name.

    TVM's own symbol covers the code before the kernel's parallel regions, which are functions without a name. A kernel
    that LLVM inlined into its wrapper keeps only the wrapper's name. A module of one function has a second wrapper,
    ``__tvm_ffi_main``. It is hidden and renamed to ``main``, since many kernels become one library.
    """
    elf = _Elf(path)
    symbols = elf.symbols()
    starts = sorted((s[3], s[4] & ~1) for s in symbols if s[1] & 15 == _FUNCTION and s[3])
    names = [_text(elf.strings, s[0]) for s in symbols]
    wrapper = next(s[0] for s, name in zip(symbols, names, strict=True) if s[3] and name == WRAPPER + kernel)
    for s, name in zip(symbols, names, strict=True):
        if s[1] & 15 == _FUNCTION and name == kernel + BODY:
            section, start = s[3], s[4] & ~1
            after = min((at for i, at in starts if i == section and at > start), default=elf.sections[section][5])
            s[0], s[5] = wrapper + len(WRAPPER), after - start  # its name is the end of the wrapper's
        elif name == WRAPPER + "main":
            s[0], s[2] = s[0] + len(WRAPPER), s[2] & ~3 | _HIDDEN
    path.write_bytes(elf.with_symbols(symbols))


def rename_kernel(path: Path, kernel: str, name: str) -> None:
    """Rename the kernel of an object, and its wrapper.

    Every object has a copy of TVM's half-precision conversions. They get a section named after the kernel, so that a
    linker, which joins many objects, can drop all copies that are not called.
    """
    elf = _Elf(path)
    table, strings = elf.sections[elf.sections[elf.table][6]], elf.strings
    own = hashlib.sha256(name.encode()).hexdigest()[: len(_CONVERSIONS)].encode()
    strings = strings.replace(b".fp16." + _CONVERSIONS + b"\0", b".fp16." + own + b"\0")
    at = {kernel: len(strings) + len(WRAPPER), WRAPPER + kernel: len(strings)}
    symbols = elf.symbols()
    for s in symbols:
        s[0] = at.get(_text(strings, s[0]), s[0])
    data = elf.with_symbols(symbols)
    strings += (WRAPPER + name).encode() + b"\0"
    table[4], table[5] = len(data), len(strings)  # the table has grown, so it moves to the end of the file
    data += strings
    number = elf.sections[elf.table][6]
    place = elf.header[6] + number * elf.header[11]
    path.write_bytes(data[:place] + elf.form.section.pack(*table) + data[place + elf.header[11] :])


def keep_kernels(path: Path, kernels: Iterable[str], prefix: str = "") -> None:
    """Reduce a linked library's table of all symbols to those of its kernels, and remove its debug information.

    Exported symbols are in another table, which stays. (zig's ``--strip-debug`` would remove the kernels' symbols too.)

    Parameters
    ----------
    path : path
        A shared library.
    kernels : iterable of str
        Names of kernels. A kernel without a symbol of its name gets its wrapper's, ``<prefix>__tvm_ffi_<kernel>``.
    """
    elf = _Elf(path)
    if elf.table < 0:
        return
    found: dict[str, list[int]] = {}
    for s in elf.symbols():
        name = _text(elf.strings, s[0])
        if name.startswith(prefix + WRAPPER):
            found.setdefault(name.removeprefix(prefix + WRAPPER), s)
        elif s[1] & 15 == _FUNCTION:
            found[name] = s
    strings, rows = bytearray(1), [[0] * 6]
    for kernel in sorted(set(kernels) & found.keys()):
        _, info, other, section, value, size = found[kernel]
        rows.append([len(strings), info & 15, other & ~3, section, value, size])  # all local
        strings += kernel.encode() + b"\0"
    elf.contents[elf.table] = b"".join(map(elf.form.pack_symbol, rows))
    elf.contents[elf.sections[elf.table][6]] = bytes(strings)
    elf.sections[elf.table][7] = len(rows)  # the number of local symbols
    loaded = [s for s in elf.sections if s[2] & _ALLOCATED and s[1] not in (_NOBITS, _NULL)]
    out = bytearray(elf.data[: max(s[4] + s[5] for s in loaded)])
    for i, s in enumerate(elf.sections):
        if elf.names[i].startswith((".debug", ".zdebug")):
            elf.sections[i] = [0, _NULL, 0, 0, 0, 0, 0, 0, 0, 0]
        elif not s[2] & _ALLOCATED and s[1] not in (_NOBITS, _NULL):
            out += bytes(-len(out) % max(1, s[8]))
            s[4], s[5] = len(out), len(elf.contents[i])
            out += elf.contents[i]
    out += bytes(-len(out) % 8)
    elf.header[6] = len(out)
    for s in elf.sections:
        out += elf.form.section.pack(*s)
    out[: elf.form.header.size] = elf.form.header.pack(*elf.header)
    path.write_bytes(out)


def own_names(path: Path, prefix: str, exported: str = "mobilenet_") -> None:
    """Rename the symbols of an object in place.

    Parameters
    ----------
    path : path
        A relocatable ELF object, little endian.
    prefix : str
        The prefix for every global symbol that it defines.
    exported : str
        Symbols with this prefix stay visible.
    """
    elf = _Elf(path)
    form, header, sections, contents = elf.form, elf.header, elf.sections, elf.contents
    dropped = {i for i, n in enumerate(elf.names) if n.startswith((".debug", ".rel.debug", ".rela.debug"))}
    table = elf.table
    contents[table], strings = _renamed(form, contents[table], contents[sections[table][6]], prefix, exported, dropped)
    if sections[table][6] == header[13]:  # sections and symbols share one table of names: the old names stay
        strings = contents[header[13]] + strings
        raise_by = len(contents[header[13]])
        contents[table] = b"".join(
            form.pack_symbol([s[0] + raise_by if s[0] else 0, *s[1:]])
            for s in (
                form.unpack_symbol(contents[table], at) for at in range(0, len(contents[table]), form.symbol.size)
            )
        )
    contents[sections[table][6]] = strings
    out = bytearray(form.header.size)
    for i, s in enumerate(sections):
        if i in dropped:
            sections[i] = [0, _NULL, 0, 0, 0, 0, 0, 0, 0, 0]
        elif s[1] not in (_NOBITS, _NULL):
            out += bytes(-len(out) % max(1, s[8]))
            s[4], s[5] = len(out), len(contents[i])
            out += contents[i]
    out += bytes(-len(out) % 8)
    header[6] = len(out)
    for s in sections:
        out += form.section.pack(*s)
    out[: form.header.size] = form.header.pack(*header)
    path.write_bytes(out)


def _renamed(form: _Form, symbols: bytes, old: bytes, prefix: str, exported: str, dropped: set) -> tuple[bytes, bytes]:
    """The symbol table with new names, and the table of their strings."""
    strings, rows, aliases = bytearray(1), [], []

    def place(name: str) -> int:
        at = len(strings) if name else 0
        if name:
            strings.extend(name.encode() + b"\0")
        return at

    for at in range(0, len(symbols), form.symbol.size):
        s = form.unpack_symbol(symbols, at)
        name = _text(old, s[0])
        if s[3] in dropped:
            s[1], s[3], s[4] = 0, _ABSOLUTE, 0
            name = ""
        elif s[1] >> 4 in (_GLOBAL, _WEAK) and s[3]:
            if name.startswith(exported):
                aliases.append([place(name), _WEAK << 4 | s[1] & 15, *s[2:]])
            else:
                s[2] = s[2] & ~3 | _HIDDEN
            name, s[1] = prefix + name, _GLOBAL << 4 | s[1] & 15
        s[0] = place(name)
        rows.append(s)
    return b"".join(map(form.pack_symbol, rows + aliases)), bytes(strings)


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()
